"""Calls from SQL: `hotmesh.call`."""

from __future__ import annotations

import datetime as dt

import psycopg
import pytest

from pyhotmesh import MeshCall
from tests.calls.kit import Counted
from tests.reliability.kit import Database, until


async def test_calls_from_sql(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("from:sql", counted)
        with psycopg.connect(dsn) as conn:
            conn.execute("select hotmesh.call('from:sql', '[\"never\"]')")
            conn.rollback()
            query = "select hotmesh.call('from:sql', %s, id => 'k', ttl => '1 hour')"
            (first,) = conn.execute(query, ('["x"]',)).fetchone() or ()
            (again,) = conn.execute(query, ('["y"]',)).fetchone() or ()
        assert first == again == "call:from%3Asql:k"
        await until(lambda: db.value("select hotmesh.result(%s)", first), "it is done")
        assert db.value("select hotmesh.result(hotmesh.call('from:sql', '[\"z\"]', 'k', '1 hour'))") == ["x", 1]
        assert await mesh.exec("from:sql", id="k", ttl="1 hour") == ["x", 1]


@pytest.mark.parametrize(
    "call",
    ["hotmesh.call('')", "hotmesh.call('t', '{}')", "hotmesh.call('t', ttl => '1 hour')", "hotmesh.call('t', '[\"\\u0000\"]')"],
)
def test_bad_calls_from_sql_are_refused(db: Database, call: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        db.rows(f"select {call}")
    assert caught.value.sqlstate == "HM003"


def test_a_ttl_from_sql(db: Database) -> None:
    with pytest.raises(psycopg.Error, match="a ttl cannot be negative") as caught:
        db.rows("select hotmesh.call('t', id => 'k', ttl => '-1 hour')")
    assert (caught.value.sqlstate, caught.value.diag.message_hint) == ("HM026", "Did you mean '01:00:00'?")
    assert db.value("select hotmesh.call('t', id => 'k', ttl => '2000 years')") == "call:t:k"
    assert db.value("select retention from hotmesh_engine.run") == dt.timedelta(days=365_000)


async def test_without_a_ttl_nothing_is_kept_for_later_callers(dsn: str, db: Database) -> None:
    """An id alone is shared while the call is open; the outcome stays for an hour, to be fetched."""
    counted = Counted()
    counted.go.clear()
    ended = "select count(*) from hotmesh.workflows where status = 'completed'"
    async with MeshCall(dsn) as mesh:
        await mesh.connect("t", counted)
        for _ in range(2):
            assert db.value("select hotmesh.call('t', id => 'k')") == "call:t:k"
        await until(lambda: counted.runs == 1, "it runs")
        counted.go.set()
        await until(lambda: db.value(ended) == 1, "it is done")
        assert counted.runs == 1, "they shared it"
        db.rows("select hotmesh.call('t', id => 'k')")
        await until(lambda: db.value("select hotmesh.result('call:t:k')") == [2], "it is called again")
        db.rows("select hotmesh.call('t')")
        await until(lambda: db.value(ended) == 3, "and so is one without an id")
    db.skip("50 minutes")
    assert db.value("select hotmesh.prune()") == 0
    db.skip("11 minutes")
    assert db.value("select hotmesh.prune()") == 3
