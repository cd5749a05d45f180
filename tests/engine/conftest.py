"""A look into the database, which at the end of each test must be in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability.kit import Database


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    """Reads and moves the test's database. Whatever the test did: nothing is wrong in it afterwards."""
    with Database(dsn) as database:
        yield database
        database.check()
