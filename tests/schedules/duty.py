"""A process that does nothing but call the duty, as fast as it can: `python -m tests.schedules.duty DSN`."""

from __future__ import annotations

import sys

from pyhotmesh import engine
from pyhotmesh.connection import connect_sync


def main(dsn: str) -> None:
    with connect_sync(dsn) as conn:
        while True:
            conn.execute(engine.FIRE_SCHEDULES)


if __name__ == "__main__":
    main(sys.argv[1])
