"""A look into the database, which at the end of each test must be in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyhotmesh import heartbeat
from tests.reliability.kit import Database


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    with Database(dsn) as database:
        yield database
        database.check()


@pytest.fixture(autouse=True)
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SWEEP_EVERY", 0.25)
