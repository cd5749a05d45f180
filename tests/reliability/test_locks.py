"""Who waits for whom: nobody in a circle, and for an open transaction only who has to."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, StartRequest, WorkflowFailed, WorkflowInterrupted, connection
from tests.reliability.flows import call, fan, gives_up, listen, ping_pong, shout
from tests.reliability.kit import Database, serve, until


@pytest.mark.limit(120)
async def test_crossed_signals_starts_and_interrupts_do_not_deadlock(dsn: str, db: Database) -> None:
    """Two workers, pairs that signal each other, a crowd that is interrupted as it works. ``db`` asks the
    server for deadlocks afterwards."""
    pairs, rounds = 40, 5
    async with Client(dsn) as client, Client(dsn) as other, serve(client, name="one"), serve(other, name="two"):
        requests = [StartRequest(ping_pong, [f"a{i}", f"b{i}", rounds]) for i in range(pairs)]
        requests += [StartRequest(ping_pong, [f"b{i}", f"a{i}", rounds]) for i in range(pairs)]
        handles = await client.workflow.start_many(requests)
        crowd = await other.workflow.start_many([StartRequest(listen, [f"crowd{i % 7}", 1000]) for i in range(100)])

        async def signals(sender: Client) -> None:
            for i in range(150):
                await sender.signal(f"crowd{i % 7}", i)

        async def interrupts() -> None:
            for handle in crowd[::3]:
                await handle.interrupt("enough")

        await asyncio.gather(signals(client), signals(other), interrupts(), client.workflow.execute(fan, args=[200]))
        for handle in handles:
            assert await handle.result(timeout=60) == rounds
        for handle in crowd[::3]:
            with pytest.raises(WorkflowInterrupted):
                await handle.result(timeout=20)


def in_thread(dsn: str, query: str) -> tuple[threading.Thread, list[Any]]:
    """Runs a statement on a connection of its own; the list gets its row, or its error."""
    out: list[Any] = []

    def run() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            try:
                out.append(conn.execute(query.encode()).fetchone())
            except psycopg.Error as error:
                out.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, out


START = "select hotmesh.start_workflow('shout', '[\"x\"]', 'same')"


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_two_starts_of_one_id(dsn: str, db: Database, ends: str) -> None:
    """The second waits for the first one's transaction, and then knows."""
    with psycopg.connect(dsn) as first:
        first.execute(START.encode())
        thread, out = in_thread(dsn, START)
        time.sleep(0.3)
        assert out == [], "nobody can know yet"
        getattr(first, ends)()
        thread.join(20)
    (answer,) = out
    if ends == "commit":
        assert isinstance(answer, psycopg.Error)
        assert answer.sqlstate == "HM001"
    else:
        assert isinstance(answer, tuple)
    assert db.value("select count(*) from hotmesh.workflows where workflow_id = 'same'") == 1


@pytest.mark.parametrize("closed", [False, True])
def test_a_start_that_is_repeated_starts_once(db: Database, closed: bool) -> None:
    """Its reply was lost; the run may even have closed meanwhile."""
    request = uuid.uuid4()
    call = "select * from hotmesh_engine.start('default', '{t}', '{w}', '{q}', array['[]'::json], array[%s::uuid], p_retry => %s)"
    ((run, _),) = db.rows(call, request, False)
    if closed:
        db.rows("select hotmesh.interrupt('w')")
        db.rows("select hotmesh.route()")
    assert db.rows(call, request, True) == [(run, True)]
    assert db.value("select count(*) from hotmesh_engine.run") == 1
    if closed:
        ((other, _),) = db.rows(call, uuid.uuid4(), True)
        assert other != run


async def test_a_start_in_an_open_transaction_holds_no_worker_up(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        with psycopg.connect(dsn) as user:
            user.execute(START.encode())
            assert await client.workflow.execute(shout, args=["y"], timeout=10) == "y!"
            assert db.status("same") is None
            user.commit()
        assert await client.get_handle("same").result(timeout=20) == "x!"


async def test_a_queue_that_an_open_transaction_is_the_first_to_use_is_waited_for(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name can be given once only. Who comes while it is not known whether it was given tries again."""
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", "100ms")
    async with Client(dsn) as client, asyncio.TaskGroup() as group:
        with psycopg.connect(dsn) as user:
            user.execute(START.encode())
            worker = serve(client)
            served = group.create_task(worker.run())
            started = group.create_task(client.workflow.execute(shout, args=["y"], timeout=20))
            await until(lambda: "lock timeout" in caplog.text, "the worker tries again")
            user.commit()
        assert await started == "y!"
        assert await client.get_handle("same").result(timeout=20) == "x!"
        worker.stop()
        await served


NEW = """select hotmesh.start_workflow('shout', '["x"]', 'of the new queue', task_queue => 'new')"""


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_worker_waits_for_nobody_who_makes_a_queue(dsn: str, db: Database, ends: str) -> None:
    """An activity of a queue that a user's open transaction is the first to use: its task stands by, all else goes on."""
    status = "select task_queue, status from hotmesh.activities"
    async with Client(dsn) as client, serve(client):
        with psycopg.connect(dsn) as user:
            user.execute(NEW.encode())
            fans = [await client.workflow.start(fan, args=[3, "new"]) for _ in range(2)]
            await until(lambda: len(db.rows(status)) == 6, "they have asked")
            began = time.monotonic()
            for _ in range(20):
                assert await client.workflow.execute(shout, args=["y"], timeout=10) == "y!"
            assert time.monotonic() - began < 5.0
            assert db.value("select count(*) from pg_locks where not granted") == 0, "nor does a duty wait"
            assert set(db.rows(status)) == {("new", "ready")}
            assert db.value("select count(*) from hotmesh_engine.queue") == 1
            db.check()
            getattr(user, ends)()
        await until(lambda: db.value("select count(*) from hotmesh_engine.stand_in") == 0, "they have their queue")
        assert db.value("select count(*) from hotmesh_engine.queue") == 2
        async with serve(client, task_queue="new"):
            assert [await handle.result(timeout=20) for handle in fans] == [[0, 2, 4]] * 2
            if ends == "commit":
                assert await client.get_handle("of the new queue").result(timeout=20) == "x!"


async def test_a_task_that_stands_by_is_given_up_and_times_out_as_any(dsn: str, db: Database) -> None:
    bounded = {"task_queue": "new", "schedule_to_close_timeout": 0.2}
    async with Client(dsn) as client, serve(client):
        with psycopg.connect(dsn) as user:
            user.execute(NEW.encode())
            gone = await client.workflow.start(gives_up, args=["new", "key"])
            with pytest.raises(WorkflowFailed, match="schedule_to_close"):
                await client.workflow.execute(call, args=["double", [1], bounded], timeout=20)
            await until(lambda: db.waits(gone.workflow_id), "it has asked")
            await gone.interrupt("enough")
            user.rollback()
        await until(lambda: db.value("select count(*) from hotmesh_engine.stand_in") == 0, "nothing stands by")


def test_two_makers_of_one_queue(db: Database, dsn: str) -> None:
    """The second waits for the first one's transaction; a name has one number."""
    with psycopg.connect(dsn) as first:
        first.execute(NEW.encode())
        thread, out = in_thread(dsn, NEW.replace("of the new", "of the same"))
        time.sleep(0.3)
        assert out == []
        first.commit()
        thread.join(20)
    assert len(out[0]) == 1
    assert db.value("select count(*) from hotmesh_engine.queue where name = 'new'") == 1


async def test_a_resume_that_finds_nothing_amiss_holds_nobody_up(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        held = await client.workflow.start(listen, args=["key"], workflow_id="held")
        await until(lambda: db.waits("held"), "it waits")
        with psycopg.connect(dsn) as user:
            assert user.execute("select hotmesh.resume('held')").fetchone() == (False,)
            await client.signal("key", 1)
            assert await held.result(timeout=10) == [1]
