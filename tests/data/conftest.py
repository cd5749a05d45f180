from __future__ import annotations

import psycopg
import pytest


@pytest.fixture
def conn(dsn: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection to the test's database."""
    return psycopg.connect(dsn, autocommit=True)
