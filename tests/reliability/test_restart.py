"""PostgreSQL stops and comes back in the middle of the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.torment import torment
from pyhotmesh.embedded import EmbeddedServer


@pytest.mark.limit(100)
@pytest.mark.parametrize("mode", ["fast", "kill"])
async def test_work_goes_on_after_a_restart(own_server: EmbeddedServer, tmp_path: Path, mode: str) -> None:
    report = await torment(
        own_server.dsn, tmp_path, workflows=60, restarts=2, restart=lambda: own_server.restart(mode), lease=10.0
    )
    assert report.good, report
    assert report.closed == 60
    # Two workers, two restarts: each says at most that the database is away, for its turns, its
    # listener and a statement in between, not once a try.
    assert report.log_lines <= 12
