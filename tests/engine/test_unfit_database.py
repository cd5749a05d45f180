"""Databases that cannot be worked with: what is wrong is said, and nothing is left running."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyhotmesh import Client, NotConnected, SchemaVersionError, SyncClient, Worker, client, connection, engine, migrate, pool
from pyhotmesh.embedded import EmbeddedServer
from tests.conftest import private_server
from tests.reliability.kit import serve, until


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


REFUSALS = {
    "no database": ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
    "no role": ({"user": "nobody"}, 'role "nobody" does not exist'),
    "wrong password": ({"user": "locked", "password": "wrong"}, 'password authentication failed for user "locked"'),
    "no password": ({"user": "locked"}, "no password supplied"),
    "no login": ({"user": "barred"}, 'role "barred" is not permitted to log in'),
    "kept out": ({"user": "kept_out"}, "pg_hba.conf rejects"),
    "no right": ({"user": "free", "dbname": "closed"}, 'permission denied for database "closed"'),
}


@pytest.fixture(scope="module")
def guarded(prepared: Path) -> Iterator[EmbeddedServer]:
    """A server that does not let everybody in."""
    with private_server(prepared) as server:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            for statement in (
                "create role locked login password 'right'", "create role barred", "create role kept_out login",
                "create role free login", "create database closed", "revoke connect on database closed from public",
            ):  # fmt: skip
                conn.execute(statement.encode())
            hba = server.pgdata / "pg_hba.conf"
            hba.write_text("local all locked scram-sha-256\nlocal all kept_out reject\n" + hba.read_text())
            conn.execute("select pg_reload_conf()")
        yield server


@pytest.mark.parametrize("case", REFUSALS)
async def test_who_will_never_get_in_is_told_at_once(guarded: EmbeddedServer, case: str) -> None:
    wrong, says = REFUSALS[case]
    dsn = make_conninfo(guarded.dsn, **wrong)
    async with Client(dsn) as refused:
        for call in (
            lambda: refused.signal("k"), lambda: refused.workflow.execute("w"), refused.get_handle("w").result,
            Worker(refused).run, Worker(dsn).__aenter__,
        ):  # fmt: skip
            began = time.monotonic()
            with pytest.raises(NotConnected, match=re.escape(says)) as told:
                await call()
            assert "check database, user and password in the DSN" in str(told.value)
            assert time.monotonic() - began < pool.CONNECT_FOR
    with SyncClient(dsn) as blocking, pytest.raises(NotConnected, match=re.escape(says)):
        await asyncio.to_thread(blocking.signal, "k")


async def test_a_server_that_is_still_starting_is_waited_for(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.stop()
    async with asyncio.TaskGroup() as group, Client(own_server.dsn) as early:
        signalled = group.create_task(early.signal("k"))
        worker = Worker(own_server.dsn)
        served = group.create_task(worker.run())
        await until(lambda: "no connection" in caplog.text and "error connecting in 'hotmesh-client'" in caplog.text)
        assert not signalled.done()
        assert not served.done()
        await asyncio.to_thread(own_server.start)
        await signalled
        await until(lambda: worker._ready.is_set(), "the worker serves")
        worker.stop()


@pytest.mark.parametrize("loses", ["its connections", "its lease"])
async def test_who_was_let_in_once_outlives_a_refusal(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, loses: str
) -> None:
    """As while a fail-over is prepared: roles and databases may be missing for a time."""
    monkeypatch.setattr(pool, "CONNECT_FOR", 0.3)
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        conn.execute("create role app login superuser")
    dsn = make_conninfo(own_server.dsn, user="app")

    def refused(logger: str) -> list[str]:
        return [m for n, _, m in caplog.record_tuples if n == logger and "is not permitted to log in" in m]

    async with Client(dsn) as lasting, serve(lasting):
        assert await lasting.workflow.execute("chain", args=[2], timeout=20) == [0, 2]
        with psycopg.connect(own_server.dsn, autocommit=True) as conn:
            conn.execute("alter role app nologin")
            if loses == "its lease":
                conn.execute("update hotmesh_engine.worker set dead = true")
                await until(lambda: refused("pyhotmesh.worker"), "the worker would register anew, and says why it cannot")
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
            call = asyncio.create_task(lasting.workflow.execute("chain", args=[3], timeout=20))
            for name in ("pyhotmesh.worker", "psycopg.pool"):
                await until(lambda name=name: refused(name), f"{name} has been refused, and says so")
            await asyncio.wait([call], timeout=5 * pool.CONNECT_FOR)
            assert not call.done()
            conn.execute("alter role app login")
        assert await call == [0, 2, 4]
    if loses == "its connections":
        assert len(refused("pyhotmesh.worker")) == 1


async def test_a_client_says_why_it_has_no_connection(server_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_FOR", 0.0)
    async with Client(make_conninfo(dbname="x", host=str(server_directory))) as astray:
        with pytest.raises(NotConnected, match=r"cannot be reached: .*No such file or directory"):
            await astray.signal("k")


async def test_a_worker_that_is_not_wanted_any_more_stops_looking_for_its_database(server_directory: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), Worker(make_conninfo(dbname="x", host=str(server_directory))):
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
