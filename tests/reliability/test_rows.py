"""Activities and their rows: what is on its way in a turn, and what is said of it meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, StartRequest, Worker, activity, line, sealing, work, workflow
from pyhotmesh.connection import connect_sync
from pyhotmesh.heartbeat import Beat, Heartbeat
from tests.reliability.kit import Database, until


async def moment(number: int) -> int:
    await asyncio.sleep(0.1)
    return number


@workflow.defn
async def momentary(number: int) -> int:
    return int(await workflow.execute_activity(moment, number, start_to_close_timeout=30))


@pytest.mark.parametrize("cuts", [0, 8], ids=["", "the connection is cut"])
@pytest.mark.parametrize("size", [1, 7])
async def test_an_activity_that_ends_while_its_row_waits_for_a_turn_is_recorded(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch, size: int, cuts: int
) -> None:
    """Else the row would come after the outcome: leased for ever, to somebody who has forgotten it."""
    monkeypatch.setattr(sealing, "MAX_BATCH_RUNS", size)
    monkeypatch.setattr(work, "MOMENT", 0.05)  # what runs for longer gets a row
    turns = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ~ 'engine.turn'"
    async with Client(dsn) as client, Worker(client, workflows=[momentary], activities=[moment]):
        handles = await client.workflow.start_many([StartRequest(momentary, [n]) for n in range(100)])
        for _ in range(cuts):
            await asyncio.sleep(0.05)
            db.rows(f"{turns} and pid <> pg_backend_pid()")
        assert await asyncio.gather(*(h.result(timeout=15) for h in handles)) == list(range(100))
    assert db.value("select count(*) from hotmesh_engine.activity_task") == 0


async def test_a_heartbeat_that_overtakes_the_row_of_an_activity_does_not_end_it(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would say of a row that is on its way that it is gone."""
    monkeypatch.setattr(work, "MOMENT", 0.05)
    turn = line.Line.turn

    async def late(self: line.Line, capacity: Any, closed: Any, parcels: Any, ends: Any) -> Any:
        if any(parcel.more is not None and parcel.more.tasks for parcel in parcels):
            await asyncio.sleep(0.5)
        return await turn(self, capacity, closed, parcels, ends)

    monkeypatch.setattr(line.Line, "turn", late)

    async def long(number: int) -> int:
        await asyncio.sleep(1.0)
        return number

    @workflow.defn
    async def lasting(number: int) -> int:
        return await workflow.execute_activity("long", number)

    async with Client(dsn) as client, Worker(client, workflows=[lasting], activities=[long], lease=0.8):
        handles = await client.workflow.start_many([StartRequest(lasting, [n]) for n in range(20)])
        assert await asyncio.gather(*(h.result(timeout=10) for h in handles)) == list(range(20))


async def test_what_a_heartbeat_finds_gone_is_that_attempt_and_no_later_one(dsn: str, db: Database) -> None:
    begun = asyncio.Event()
    go = asyncio.Event()

    async def long() -> str:
        begun.set()
        await go.wait()
        return activity.info().workflow_id

    @workflow.defn
    async def lasting() -> str:
        return await workflow.execute_activity("long", heartbeat_timeout=60)

    async with Client(dsn) as client, Worker(client, workflows=[lasting], activities=[long]) as worker:
        handle = await client.workflow.start(lasting, workflow_id="w")
        await asyncio.wait_for(begun.wait(), 10)
        turns = worker._turns
        assert turns is not None and handle.run_id is not None
        turns.work.task_gone(handle.run_id, 1, 0)  # of the attempt before, which the engine has ended
        go.set()
        assert await handle.result(timeout=10) == "w"


def test_an_incarnation_that_has_ended_is_told_so_and_nothing_of_its_tasks(dsn: str, db: Database) -> None:
    """They have moved: to another worker, or to the same one, which goes by a new id and still runs them."""
    db.rows("select hotmesh_engine.register(1, 'w', 'default', '{default}', 10, '0')")
    told: list[Any] = []
    heartbeat = Heartbeat(
        dsn, 1, lease=10.0, stall_limit=60.0, turned_at=time.monotonic, beats=lambda: [Beat(7, 1, 1, None)],
        on_lost=told.append, on_dead=lambda: told.append("dead"), on_gone=lambda *task: told.append(task),
    )  # fmt: skip
    with connect_sync(dsn) as conn:
        heartbeat._beat(conn)
        assert told == [(7, 1, 1)]
        db.rows("select hotmesh_engine.retire(1)")
        heartbeat._beat(conn)
    assert told == [(7, 1, 1), "dead"]


async def test_a_turn_under_way_ends_with_a_connection_that_is_given_up(dsn: str, db: Database) -> None:
    """Else it would wait for ever for an answer that nobody reads, and the worker with it."""
    may = asyncio.Event()

    async def wait_for_it(number: int) -> int:
        await may.wait()
        return number

    @workflow.defn
    async def waiting(number: int) -> int:
        return int(await workflow.execute_activity(wait_for_it, number))

    async with Client(dsn) as client, Worker(client, workflows=[waiting], activities=[wait_for_it]) as worker:
        handle = await client.workflow.start(waiting, args=[7])
        await until(lambda: db.value("select count(*) from hotmesh_engine.live where holder is not null"))
        assert worker._turns is not None
        held = worker._turns.held
        before = held.worker_id
        with psycopg.connect(dsn) as other:
            other.execute("select 1 from hotmesh_engine.live for update")
            may.set()
            turning = "select count(*) from pg_stat_activity where query ~ 'engine.turn' and wait_event_type = 'Lock'"
            await until(lambda: db.value(turning))
            worker._turns._line.fail()
            await asyncio.sleep(0.1)  # the server goes on with it, and adopt waits for that
        assert await handle.result(timeout=10) == 7
        await until(lambda: held.worker_id != before, "it adopts")


async def test_a_worker_that_cannot_note_a_fault_goes_on(dsn: str, db: Database) -> None:
    (definition,) = db.rows("select pg_get_functiondef('hotmesh_engine.turn_failed'::regproc)")[0]
    broken = definition[: definition.index("AS $")] + "AS $$ begin raise 'not now'; end $$"
    async with Client(dsn) as client, Worker(client, workflows=[momentary], activities=[moment]):
        db.rows(broken)
        await client.workflow.start("unknown", workflow_id="u")
        handles = [await client.workflow.start(momentary, args=[n]) for n in range(20)]
        assert await asyncio.gather(*(h.result(timeout=10) for h in handles)) == list(range(20))
        assert db.status("u") in ("ready", "running")
        db.rows(definition)
        await until(lambda: db.status("u") == "troubled")
        assert await client.workflow.execute(momentary, args=[3], timeout=10) == 3


async def test_who_waits_for_an_answer_lets_go_before_the_connection_is_closed(dsn: str) -> None:
    """The next connection may have the same socket number, and would lose its reader."""
    over = line.Line(dsn, Any)  # type: ignore[arg-type]
    for _ in range(5):
        sleeping = asyncio.create_task(over.fetch("select 1 from pg_sleep(9)", ()))
        queued = asyncio.create_task(over.fetch("select 1", ()))
        await asyncio.sleep(0.1)
        await over.close()
        assert await asyncio.wait_for(over.fetch("select 1", ()), 3) == [(1,)]
        for task in (sleeping, queued):
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(task, 3)
    await over.close()
