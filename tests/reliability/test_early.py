"""A start and a signal are seen before they are flushed, and acknowledged after."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, MeshCall, Worker, direct, engine, results, workflow
from pyhotmesh.embedded import EmbeddedServer
from tests.reliability.engine import Hand, start
from tests.reliability.flows import call, listen
from tests.reliability.kit import Database, serve, until


def configure(server: EmbeddedServer, setting: str, value: str) -> None:
    """Changes a setting of the running server. (Nothing is written, so nothing waits for a flush.)"""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(f"alter system set {setting} = '{value}'".encode())
        conn.execute("select pg_reload_conf()")


@pytest.mark.parametrize("what", ["a start", "a start that is waited for", "a signal"])
async def test_what_was_acknowledged_survives_a_crash(own_server: EmbeddedServer, what: str) -> None:
    configure(own_server, "wal_writer_delay", "10s")  # whatever is not flushed is lost
    async with Client(own_server.dsn) as client:
        await client.workflow.start(listen, args=["s"], workflow_id="before")
        if what == "a start":
            await client.workflow.start(listen, args=["s"], workflow_id="after")
        elif what == "a signal":
            await client.signal("s", 1)
        else:
            results = await client._waiting()
            request = client.workflow.execute(listen, args=["s"], workflow_id="after")
            waiting = asyncio.create_task(request)
            await until(lambda: results._waiting, "the start is acknowledged")
            waiting.cancel()
        own_server.restart("kill")
    with psycopg.connect(own_server.dsn) as conn:
        kept = "select count(*) from hotmesh.signals" if what == "a signal" else "select count(*) - 1 from hotmesh.workflows"
        assert conn.execute(kept.encode()).fetchone() == (1,)


async def test_a_worker_begins_before_the_start_is_flushed(own_server: EmbeddedServer, tmp_path: Path) -> None:
    """A standby that does not answer holds every flush up: the start is not acknowledged, but its worker is at it."""
    async with Client(own_server.dsn) as client, serve(own_server.dsn):
        with Database(own_server.dsn) as db:
            await until(lambda: db.value("select asleep from hotmesh_engine.sleeper"), "the worker sleeps")
            configure(own_server, "synchronous_standby_names", "nobody")
            starting = asyncio.create_task(client.workflow.start(call, args=["held", [str(tmp_path)], {}]))
            await until((tmp_path / "begun").exists, "its activity runs")
            await asyncio.sleep(0.1)
            assert not starting.done()
            configure(own_server, "synchronous_standby_names", "")
            (tmp_path / "go").touch()
            assert (await (await starting).result(timeout=20))[1] == 1


async def test_a_signal_arrives_before_it_is_flushed(own_server: EmbeddedServer) -> None:
    async with Client(own_server.dsn) as client, serve(own_server.dsn) as worker:
        handle = await client.workflow.start(listen, args=["s"], workflow_id="w")
        with Database(own_server.dsn) as db:
            await until(lambda: db.waits("w"), "it waits")
            configure(own_server, "synchronous_standby_names", "nobody")
            sending = asyncio.create_task(client.signal("s", 1))
            outcome = "select payload #>> '{}' from hotmesh_engine.outcome"  # of the closing turn, which waits as well
            await until(lambda: db.value("select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == 2, "both wait")
            assert not sending.done() and worker is not None and db.value(outcome) is None
            configure(own_server, "synchronous_standby_names", "")
            await sending
            assert await handle.result(timeout=20) == [1]


@workflow.defn
async def passes_on(directory: str) -> int:
    await workflow.wait_for("s")
    await workflow.signal("t", 1)
    await workflow.execute_activity("held", directory)
    return 1


async def test_what_others_act_on_is_flushed_first(own_server: EmbeddedServer, tmp_path: Path) -> None:
    """What a run makes of a signal: one of its own, and an activity. A standby that does not answer holds every flush up."""
    waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
    async with Client(own_server.dsn) as client, serve(own_server.dsn, workflows=[passes_on]):
        handle = await client.workflow.start(passes_on, args=[str(tmp_path)], workflow_id="w")
        with Database(own_server.dsn) as db:
            await until(lambda: db.waits("w"), "it waits")
            configure(own_server, "synchronous_standby_names", "nobody")
            sending = asyncio.create_task(client.signal("s", 1))
            await until(lambda: db.value(waits) == 2, "the signal and the turn that follows from it wait")
            assert not (tmp_path / "begun").exists()
            assert db.rows("select * from hotmesh.signals") == []
            configure(own_server, "synchronous_standby_names", "")
            await sending
            (tmp_path / "go").touch()
            assert await handle.result(timeout=20) == 1


def test_an_interrupt_is_durable_before_anybody_is_told(own_server: EmbeddedServer) -> None:
    """The turn that carries it out has nothing of its own to record, and would not wait."""
    with Database(own_server.dsn) as db, Database(own_server.dsn) as other:
        (run,) = start(db, "w")
        worker = Hand(other, 1)
        db.rows("select hotmesh.interrupt('w')")
        configure(own_server, "synchronous_standby_names", "nobody")
        turn = "select hotmesh_engine.turn(%s, %s, 0, 0, 0, null, 0, null, '{}', p_flush => false)"
        routing = threading.Thread(target=other.rows, args=(turn, worker.id, worker.queues))
        routing.start()
        while db.value("select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == 0:
            assert routing.is_alive(), "it has not waited"
        assert db.rows("select * from hotmesh_engine.outcome where run_id = %s", run) == []
        configure(own_server, "synchronous_standby_names", "")
        routing.join()
        assert db.status("w") == "interrupted"


@pytest.mark.parametrize("what", ["execute", "exec"])
@pytest.mark.parametrize("size", [1, 5000], ids=["small", "large"])
async def test_a_result_may_be_there_before_the_start_is_acknowledged(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, what: str, size: int
) -> None:
    """The flush of a start that the run's end has overtaken: here the reply is held up until then."""
    monkeypatch.setattr(results, "POLL", 30.0)  # by then it would have been found
    fetch = direct.fetch

    async def late(conn: Any, query: str, params: Sequence[Any]) -> Any:
        rows = await fetch(conn, query, params)
        if query == engine.START_EARLY:
            with Database(own_server.dsn) as db:
                await until(lambda: db.value("select count(*) from hotmesh_engine.outcome") == 1, "it has ended")
                await asyncio.sleep(0.2)  # and its notification is here
        return rows

    monkeypatch.setattr(direct, "fetch", late)

    async def long() -> str:
        return "x" * size

    @workflow.defn
    async def longer() -> str:
        return "x" * size

    async with MeshCall(own_server.dsn) as mesh, Client(own_server.dsn) as client, Worker(client, workflows=[longer]):
        await mesh.connect("long", long)
        asked = mesh.exec("long") if what == "exec" else client.workflow.execute(longer)
        assert len(await asyncio.wait_for(asked, 10)) == size


@workflow.defn
async def in_turn(keys: list[str]) -> list[int]:
    return [await workflow.wait_for(key) for key in keys]


async def test_what_only_the_engine_knew_is_gone_over_again(own_server: EmbeddedServer) -> None:
    """Turns that nobody outside acts on are not waited for: a crash takes them, and the worker's memory is ahead."""
    configure(own_server, "wal_writer_delay", "10s")
    configure(own_server, "autovacuum", "off")  # it would flush now and then
    count = 30
    async with Client(own_server.dsn) as client, Worker(client, workflows=[in_turn]):
        for attempt in range(5):  # whatever commits just then, a duty say, takes it all to the disk
            names = [f"{attempt}.{i}" for i in range(count)]
            handles = [
                await client.workflow.start(in_turn, args=[[f"a{n}", f"b{n}"]], workflow_id=f"w{attempt}.{n}") for n in names
            ]
            for i, name in enumerate(names):
                await client.signal(f"a{name}", i)
            known = f"""select (select count(*) from hotmesh.history where workflow_id ~ '^w{attempt}'),
                               (select count(*) from hotmesh_engine.waiting where key ~ '^b{attempt}')"""
            with Database(own_server.dsn) as db:
                await until(lambda db=db, known=known: db.rows(known)[0][1] == count, "all wait for the second signal")
                ((before, _),) = db.rows(known)
            own_server.restart("kill")
            with Database(own_server.dsn) as db:
                ((after, waits),) = db.rows(known)
                await until(lambda db=db, known=known: db.rows(known)[0][1] == count, "what was lost is there again")
                for i, name in enumerate(names):
                    await client.signal(f"b{name}", -i, idempotency_key=f"b{name}")
                results = await asyncio.gather(*(h.result(timeout=20) for h in handles))
                assert results == [[i, -i] for i in range(count)]
                kinds = "select run_id, count(*) filter (where event = 'signal_received') from hotmesh.history group by 1"
                assert {n for _, n in db.rows(kinds)} == {2}
            if after < before and waits < count:
                return
    pytest.fail("nothing was lost: this test shows nothing")
