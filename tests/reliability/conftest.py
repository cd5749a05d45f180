"""A look into the database, which at the end of each test must be in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyhotmesh import heartbeat
from tests.reliability.flows import WORKFLOWS
from tests.reliability.kit import Database
from tests.reliability.replays import replay_closed


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    """Reads and moves the test's database. Whatever the test did: nothing is wrong in it afterwards, and
    every workflow that has closed can be replayed to the same end."""
    with Database(dsn) as database:
        yield database
        database.check()
        replay_closed(database, WORKFLOWS)


@pytest.fixture(autouse=True)
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for dead ones four times a second, so that tests with short leases are short."""
    monkeypatch.setattr(heartbeat, "SWEEP_EVERY", 0.25)
