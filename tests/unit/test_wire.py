"""Arrays in PostgreSQL's binary format, as PostgreSQL itself reads them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyhotmesh import wire

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.fixture(scope="module")
def conn(server: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        wire.register(connection)
        connection.execute("set time zone 'UTC'")
        yield connection


def integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def check(conn: psycopg.Connection[Any], packed: list[Any], kind: str, expected: list[Any]) -> None:
    """What the server read, element by element in order, and what it calls the type."""
    row = conn.execute(
        "select array(select v from unnest(%b) with ordinality u(v, o) order by o), pg_typeof(%b)::text",
        (packed, packed),
    ).fetchone()
    assert row is not None
    assert row[1] == f"{kind}[]"
    assert repr(row[0]) == repr(expected)


@pytest.mark.parametrize(
    ("cls", "kind", "values"),
    [
        (wire.Int8s, "bigint", integers(64)), (wire.Int4s, "integer", integers(32)), (wire.Int2s, "smallint", integers(16)),
        (wire.Floats, "double precision", st.floats(allow_nan=False)), (wire.Bools, "boolean", st.booleans()),
        (wire.Texts, "text", TEXT),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)  # fmt: skip
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_types(conn: psycopg.Connection[Any], data: st.DataObject, cls: Any, kind: str, values: Any) -> None:
    given_values = data.draw(st.lists(st.none() | values, max_size=20))
    check(conn, cls(given_values), kind, given_values)


@given(st.lists(st.none() | st.integers(-(10**15), 10**17), max_size=20))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_times_are_exact_to_the_microsecond(conn: psycopg.Connection[Any], micros: list[int | None]) -> None:
    expected = [None if m is None else EPOCH + timedelta(microseconds=m) for m in micros]
    row = conn.execute("select %b = %s::timestamptz[]", (wire.Times(micros), expected)).fetchone()
    assert row == (True,)


def test_a_time_that_never_comes(conn: psycopg.Connection[Any]) -> None:
    row = conn.execute(
        "select array_agg(isfinite(t)) from unnest(%b) t", (wire.Times([wire.INFINITY, 0, wire.INFINITY]),)
    ).fetchone()
    assert row == ([False, True, False],)


@given(st.lists(st.none() | st.recursive(st.none() | st.integers(-9, 9) | TEXT, st.lists, max_leaves=5), max_size=20))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_rests_as_it_was_written(conn: psycopg.Connection[Any], values: list[Any]) -> None:
    encoded = [None if v is None else orjson.dumps(v) for v in values]
    row = conn.execute("select array(select v::text from unnest(%b) v)", (wire.Jsons(encoded),)).fetchone()
    assert row == ([None if e is None else e.decode() for e in encoded],)


@given(st.lists(st.none() | st.uuids(), max_size=20))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_uuids(conn: psycopg.Connection[Any], values: list[uuid.UUID | None]) -> None:
    check(conn, wire.Uuids(None if v is None else v.bytes for v in values), "uuid", values)


@pytest.mark.parametrize("size", [0, 1, 511, 513, 5000])
def test_any_length(conn: psycopg.Connection[Any], size: int) -> None:
    row = conn.execute("select coalesce(sum(v), 0), cardinality(%b) from unnest(%b) v", (wire.Int8s([3] * size),) * 2).fetchone()
    assert row == (3 * size, size)
