"""Cancelling: a workflow is asked to end, cleans up, and decides how it ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from pyhotmesh import (
    CallFailed,
    Client,
    MeshCall,
    RetryPolicy,
    SyncClient,
    Worker,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowInterrupted,
    WorkflowNotFound,
    activity,
    workflow,
)
from pyhotmesh.engine import MESSAGE
from pyhotmesh.feeding import Feeder
from pyhotmesh.line import Line
from pyhotmesh.replay import CANCEL_REQUESTED
from tests.reliability.engine import Hand
from tests.reliability.kit import Database, until
from tests.reliability.replays import replay_closed

did: list[str] = []
go = threading.Event()


@pytest.fixture(autouse=True)
def fresh() -> None:
    did.clear()
    go.clear()


@activity.defn
async def clean(what: str) -> str:
    did.append(what)
    return what


@activity.defn
async def endless() -> None:
    did.append("begun")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError as error:
        did.append(str(error))
        raise


@activity.defn
def endless_in_thread() -> str:
    did.append("begun")
    while not activity.cancelled() and not go.wait(0.01):
        pass
    did.append("told" if activity.cancelled() else "let go")
    return "ended"


@workflow.defn
async def listens(key: str) -> Any:
    return await workflow.wait_for(key)


@workflow.defn
async def cleans_up(key: str) -> str:
    try:
        return str(await workflow.wait_for(key))
    finally:
        await workflow.execute_activity(clean, "first")
        await workflow.wait_for(key)
        await workflow.execute_activity(clean, "second")


@workflow.defn
async def declines(key: str) -> Any:
    try:
        return await workflow.wait_for(key)
    except asyncio.CancelledError as error:
        return [str(error), await workflow.wait_for(key)]


@workflow.defn
async def trips(key: str) -> Any:
    try:
        await workflow.wait_for(key)
    finally:
        raise ValueError("while cleaning up")


@workflow.defn
async def works(kind: str) -> Any:
    return await workflow.execute_activity(kind)


@workflow.defn
async def many() -> None:
    async def one() -> None:
        await workflow.execute_activity(endless)

    async with asyncio.TaskGroup() as group:
        for i in range(3):
            group.create_task(one())
            group.create_task(asyncio.sleep(3600 + i))


WORKFLOWS = [listens, cleans_up, declines, trips, works, many]


@pytest.fixture(params=[None, 0], ids=["warm", "replayed"])
def worker(dsn: str, request: pytest.FixtureRequest) -> Worker:
    return Worker(dsn, workflows=WORKFLOWS, activities=[clean, endless, endless_in_thread], cache_size=request.param)


async def test_the_code_ends_where_it_waits(dsn: str, db: Database, worker: Worker) -> None:
    async with Client(dsn) as client, worker:
        handle = await client.workflow.start(listens, args=["k"], workflow_id="w")
        await until(lambda: db.waits("w"), "it waits")
        await handle.cancel("no longer wanted")
        with pytest.raises(WorkflowCancelled, match="'w' was cancelled: no longer wanted"):
            await handle.result(timeout=20)
        assert await handle.status() == "cancelled"
        assert db.events("w") == ["started", "commands", "cancel_requested", "cancelled"]
        await client.signal("k", 1)
        assert db.value("select count(*) from hotmesh.signals") == 1, "it is for whoever comes next"
        for late in (handle, client.get_handle("w")):
            with pytest.raises(WorkflowNotFound, match="not open any more: cancelled"):
                await late.cancel()
        with pytest.raises(WorkflowNotFound, match="no workflow 'x'"):
            await client.get_handle("x").cancel()
    assert replay_closed(db, WORKFLOWS) == 1


async def test_it_cleans_up_first_and_is_asked_once(dsn: str, db: Database, worker: Worker) -> None:
    async with Client(dsn) as client, worker:
        handle = await client.workflow.start(cleans_up, args=["k"], workflow_id="w")
        await until(lambda: db.waits("w"), "it waits")
        await handle.cancel("first")
        await until(lambda: did == ["first"] and db.waits("w"), "it cleans up")
        await handle.cancel("second")
        await until(lambda: db.events("w").count("cancel_requested") == 2, "the second request is noted")
        assert await handle.status() in ("waiting", "running")
        await client.signal("k")
        with pytest.raises(WorkflowCancelled, match="first"):
            await handle.result(timeout=20)
        assert did == ["first", "second"]
    assert replay_closed(db, WORKFLOWS) == 1


async def test_the_code_decides_how_it_ends(dsn: str, db: Database, worker: Worker) -> None:
    async with Client(dsn) as client, worker:
        one = await client.workflow.start(declines, args=["one"], workflow_id="one")
        two = await client.workflow.start(trips, args=["two"], workflow_id="two")
        await until(lambda: db.all_wait(["one", "two"]), "they wait")
        await one.cancel("why")
        await two.cancel()
        await client.signal("one", "goes on")
        assert await one.result(timeout=20) == ["why", "goes on"]
        with pytest.raises(WorkflowFailed, match="while cleaning up"):
            await two.result(timeout=20)
    assert replay_closed(db, WORKFLOWS) == 2


async def test_a_signal_does_not_overtake_a_request(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with its notification, while the answer that has the request is still on its way."""
    fetched, go, came, turn, push = asyncio.Event(), asyncio.Event(), asyncio.Event(), Line.turn, Feeder.pushed

    async def late(*args: Any) -> Any:
        rows = await turn(*args)
        if any(row[0] == MESSAGE and row[4] == CANCEL_REQUESTED for row in rows):
            fetched.set()
            await go.wait()
        return rows

    def pushed(*args: Any) -> None:
        push(*args)
        came.set()

    monkeypatch.setattr(Line, "turn", late)
    monkeypatch.setattr(Feeder, "pushed", pushed)
    async with Client(dsn) as client, Worker(dsn, workflows=WORKFLOWS, activities=[clean]):
        handle = await client.workflow.start(declines, args=["k"], workflow_id="w")
        await until(lambda: db.all_wait(["w"]), "it waits")
        await until(lambda: db.value("select asleep from hotmesh_engine.sleeper"), "its worker sleeps")
        await handle.cancel("why")
        await asyncio.wait_for(fetched.wait(), 20)
        await client.signal("k", "goes on")
        await asyncio.wait_for(came.wait(), 20)
        await asyncio.sleep(0)
        go.set()
        assert await handle.result(timeout=20) == ["why", "goes on"]


@pytest.mark.parametrize("kind", ["endless", "endless_in_thread"])
async def test_an_activity_that_runs_is_told(dsn: str, db: Database, worker: Worker, kind: str) -> None:
    async with Client(dsn) as client, worker:
        handle = await client.workflow.start(works, args=[kind], workflow_id="w")
        await until(lambda: did == ["begun"], "it runs")
        await handle.cancel()
        with pytest.raises(WorkflowCancelled):
            await handle.result(timeout=20)
        await until(lambda: len(did) == 2, "it is told")
        assert did[1] in ("told", "the workflow has given it up", "the workflow has closed")


async def test_all_that_it_waits_for_is_given_up(dsn: str, db: Database, worker: Worker) -> None:
    async with Client(dsn) as client, worker:
        handle = await client.workflow.start(many, workflow_id="w")
        await until(lambda: did == ["begun"] * 3, "they run")
        await handle.cancel()
        with pytest.raises(WorkflowCancelled):
            await handle.result(timeout=20)
        await until(lambda: len(did) == 6, "all are told")
    assert db.value("select count(*) from hotmesh_engine.waiting") == 0
    assert replay_closed(db, WORKFLOWS) == 1


async def test_one_that_has_not_begun_is_cancelled_at_its_first_wait(dsn: str, db: Database, worker: Worker) -> None:
    async with Client(dsn) as client:
        handle = await client.workflow.start(cleans_up, args=["k"], workflow_id="w")
        await handle.cancel()
        async with worker:
            await until(lambda: did == ["first"], "it begins, and cleans up")
            await client.signal("k")
            with pytest.raises(WorkflowCancelled):
                await handle.result(timeout=20)


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_in_a_transaction_of_the_callers_it_happens_with_its_commit(dsn: str, db: Database, how: str, ends: str) -> None:
    """And until then nobody is held up, not even the worker that records something of that workflow."""
    error = WorkflowCancelled if how == "cancel" else WorkflowInterrupted
    async with Client(dsn) as client, Worker(dsn, workflows=WORKFLOWS, activities=[endless_in_thread, clean]):
        handles = [
            await client.workflow.start(works, args=["endless_in_thread"], workflow_id="w"),
            await client.workflow.start(listens, args=["k"], workflow_id="other"),
        ]
        await until(lambda: did == ["begun"] and db.waits("other"), "one works, one waits")
        with psycopg.connect(dsn) as user:
            for handle in handles:
                await getattr(handle, how)("by a user", conn=user)
            go.set()
            assert await client.workflow.execute(works, args=["endless_in_thread"], timeout=10) == "ended"
            assert await handles[0].result(timeout=10) == "ended"
            getattr(user, ends)()
        if ends == "commit":
            with pytest.raises(error, match="by a user"):
                await handles[1].result(timeout=20)
        else:
            await client.signal("k", 1)
            assert await handles[1].result(timeout=20) == 1


async def test_from_sql_and_from_blocking_code(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, Worker(dsn, workflows=WORKFLOWS):
        one = await client.workflow.start(listens, args=["k"], workflow_id="one")
        two = await client.workflow.start(listens, args=["k"], workflow_id="two")
        db.rows("select hotmesh.cancel('one', 'from SQL')")
        with pytest.raises(WorkflowCancelled, match="from SQL"):
            await one.result(timeout=20)
        with SyncClient(dsn) as blocking:
            await asyncio.to_thread(blocking.get_handle("two").cancel, "from a thread")
        with pytest.raises(WorkflowCancelled, match="from a thread"):
            await two.result(timeout=20)
        with pytest.raises(psycopg.Error, match="not open any more: cancelled"):
            db.rows("select hotmesh.cancel('one')")


# ----------------------------------------------------------------------------------------------- calls --


async def test_the_function_of_a_call_is_cancelled(dsn: str, db: Database) -> None:
    async def polite() -> None:
        did.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            did.append("cleaned up")

    async with MeshCall(dsn) as mesh:
        await mesh.connect("polite", polite, retry_policy=RetryPolicy())
        handle = await mesh.start("polite")
        waiting = asyncio.create_task(mesh.exec("polite", id="shared", timeout=20))
        await until(lambda: did == ["begun"] * 2, "they run")
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result(timeout=20)
        assert "cleaned up" in did, "it ends when its function has"
        await mesh.client.get_handle("call:polite:shared").cancel()
        with pytest.raises(WorkflowCancelled):
            await waiting


@pytest.mark.parametrize("topic", ["returns", "raises"])
async def test_a_function_that_was_told_decides_how_its_call_ends(dsn: str, db: Database, topic: str) -> None:
    def told() -> str:
        did.append("begun")
        while not activity.cancelled():
            go.wait(0.01)
        if topic == "raises":
            raise ValueError("half done")
        return "done"

    async with MeshCall(dsn) as mesh:
        await mesh.connect(topic, told, retry_policy=RetryPolicy())
        call = asyncio.create_task(mesh.exec(topic, id="x", timeout=20))
        await until(lambda: did == ["begun"], "it runs")
        await mesh.client.get_handle(f"call:{topic}:x").cancel()
        if topic == "returns":
            assert await call == "done"
        else:
            with pytest.raises(CallFailed, match="half done"):
                await call
        assert did == ["begun"], "it is not tried again"


async def test_a_call_that_waits_for_a_place_or_for_its_next_attempt_is_not_begun(dsn: str, db: Database) -> None:
    def held() -> None:
        did.append("held")
        go.wait(20)

    async def fails() -> None:
        did.append("failed")
        raise ValueError("again")

    async with MeshCall(dsn, max_concurrent_activities=1) as mesh:
        await mesh.connect("held", held)
        await mesh.connect("fails", fails, retry_policy=RetryPolicy(initial_interval=3600))
        retried = await mesh.start("fails")
        await until(lambda: did == ["failed"] and db.parked(retried.workflow_id), "it waits for its next attempt")
        await retried.cancel()
        with pytest.raises(WorkflowCancelled):
            await retried.result(timeout=20)
        first = await mesh.start("held")
        await until(lambda: "held" in did, "the place is taken")
        second = await mesh.start("held")
        await second.cancel()
        held_by = "select holder from hotmesh_engine.live where run_id = %s"  # if by nobody, it is told with its lease
        await until(lambda: db.value(held_by, second.run_id) is None, "it is told, or waits to be leased")
        go.set()
        await first.result(timeout=20)
        with pytest.raises(WorkflowCancelled):
            await second.result(timeout=20)
        assert did == ["failed", "held"]


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_call_that_nobody_serves_ends_at_once(dsn: str, db: Database, how: str) -> None:
    """There is no code to ask: it does not wait for a worker to come and see."""
    error = WorkflowCancelled if how == "cancel" else WorkflowInterrupted
    async with MeshCall(dsn) as caller:
        waiting = asyncio.create_task(caller.exec("nobody", id="shared", ttl="1 hour"))
        await until(lambda: db.value("select count(*) from hotmesh_engine.waiter") == 1, "it is asked for")
        started = await caller.start("nobody")
        await getattr(started, how)("not wanted any more")
        await getattr(caller.client.get_handle("call:nobody:shared"), how)("not wanted any more")
        with pytest.raises(error, match="not wanted any more"):
            await asyncio.wait_for(waiting, 20)
        with pytest.raises(error, match="not wanted any more"):
            await started.result(timeout=20)
        with pytest.raises(WorkflowNotFound, match="not open any more"):
            await started.cancel()
        ended = "cancelled" if how == "cancel" else "interrupted"
        assert db.rows("select status, count(*) from hotmesh.workflows group by 1") == [(ended, 2)]
        assert db.rows("select * from hotmesh_engine.inbox") == []
        await caller.connect("nobody", lambda: did.append("called") or "now")
        assert await caller.exec("nobody", id="shared", ttl="1 hour", timeout=20) == "now", "what ended so is not cached"
    assert did == ["called"]


def test_from_sql_it_ends_with_the_commit(dsn: str, db: Database) -> None:
    """In a caller's transaction it is left to whoever routes next, as an interrupt is."""
    with psycopg.connect(dsn) as user:
        user.execute("select hotmesh.cancel(hotmesh.call('nobody', id => 'k'), 'from SQL')")
        assert db.rows("select * from hotmesh.workflows") == []
    db.rows("select hotmesh.route()")
    assert db.rows("select workflow_id, status from hotmesh.workflows") == [("call:nobody:k", "cancelled")]
    assert db.value("select payload from hotmesh_engine.outcome") == {"type": "WorkflowCancelled", "message": "from SQL"}


@pytest.mark.parametrize("how", ["retires", "dies"])
def test_a_call_that_is_given_back_after_it_was_cancelled_ends(dsn: str, db: Database, how: str) -> None:
    """Nobody has to serve its topic again for that; a worker of something else carries it out."""
    holder, other = Hand(db, 1, "call:t"), Hand(db, 2)
    db.rows("select hotmesh.call('t', id => 'k')")
    db.rows("select hotmesh.start_workflow('by hand', '[]', 'w', 'call:t')")  # not asked to end
    assert len(holder.claim()) == 2
    db.rows("select hotmesh.cancel('call:t:k', 'enough')")
    assert [row[4] for row in holder.turn() if row[0] == 3] == [8], "it is told"
    other.turn()
    assert db.status("call:t:k") == "running", "its function decides"
    if how == "retires":
        db.rows("select hotmesh_engine.retire(1)")
    else:
        holder.falls_silent()
        other.is_old()
        assert other.sweep() == 2
    other.turn()
    assert (db.status("call:t:k"), db.status("w")) == ("cancelled", "ready")
    with pytest.raises(psycopg.Error, match="lease has ended"):
        holder.step(next(iter(holder.leases)), end=1)
    db.check()
