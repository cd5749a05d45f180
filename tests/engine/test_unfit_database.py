"""Databases that cannot be worked with: what is wrong is said, and nothing is left running."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyhotmesh import Client, NotConnected, SchemaVersionError, Worker, client, connection, engine, migrate, pool
from tests.reliability.kit import serve


async def test_without_the_schema_each_call_says_so(empty_dsn: str) -> None:
    async with Client(empty_dsn) as without:
        for call in (
            lambda: without.signal("k"), lambda: without.workflow.start("w"), lambda: without.workflow.execute("w"),
            lambda: without.workflow.list(), without.get_handle("w").result, Worker(without).run,
        ):  # fmt: skip
            with pytest.raises(SchemaVersionError, match="hotmesh db upgrade"):
                await call()


async def test_a_worker_refuses_an_older_schema_and_serves_a_newer_one(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert migrate.head() == engine.NEEDS, "a new revision: does this version still work with the one before?"
    migrate.upgrade(empty_dsn, "0004")
    with pytest.raises(SchemaVersionError, match=f"at revision 0004.* needs {engine.NEEDS}.*hotmesh db upgrade"):
        await Worker(empty_dsn).run()
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("update hotmesh_migration.version set version_num = '9999'")
    async with Worker(empty_dsn):
        pass


async def test_a_client_says_why_it_has_no_connection(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_FOR", 0.0)
    monkeypatch.setattr(pool, "CONNECT_FOR", 0.3)
    async with Client(make_conninfo(dsn, dbname="nowhere")) as astray:
        with pytest.raises(NotConnected, match='database "nowhere" does not exist'):
            await astray.signal("k")


async def test_a_worker_that_is_not_wanted_any_more_stops_looking_for_its_database(dsn: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), Worker(make_conninfo(dsn, dbname="nowhere")):
            pytest.fail("it cannot be ready")
    for task in [t for t in asyncio.all_tasks() if t.get_name() == "hotmesh-worker"]:
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()


async def test_settings_of_the_database_do_not_decide(dsn: str) -> None:
    """Nor those of a role: they take the same way."""
    odd = {
        "synchronous_commit": "off", "default_transaction_isolation": "serializable", "default_transaction_read_only": "on",
        "statement_timeout": "2s", "lock_timeout": "2s", "idle_in_transaction_session_timeout": "2s",
    }  # fmt: skip
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name, value in odd.items():
            conn.execute(f"alter database \"{conn.info.dbname}\" set {name} = '{value}'".encode())
    found = []
    for name in odd:
        with connection.connect_sync(dsn) as conn:
            found.append(conn.execute(f"show {name}".encode()).fetchall()[0][0])
    assert found == ["on", "read committed", "off", "30s", "10s", "5s"]
    async with Client(dsn) as client, serve(client):
        assert await client.workflow.execute("chain", args=[5], timeout=20) == [0, 2, 4, 6, 8]
        await client.signal("k")
