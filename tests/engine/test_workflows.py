"""Workflows end to end: a client, a worker, a database."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pyhotmesh import (
    ApplicationError,
    Client,
    RetryPolicy,
    StartRequest,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowFailed,
    WorkflowInterrupted,
    WorkflowNotFound,
    activity,
    workflow,
)

QUICK = RetryPolicy(initial_interval=0.01, maximum_interval=0.05)


async def upper(text: str) -> str:
    return text.upper()


async def third_time(text: str) -> str:
    if activity.info().attempt < 3:
        raise ApplicationError("not yet")
    return f"{text} at attempt {activity.info().attempt}"


def blocking(number: int) -> int:
    return number + 1


async def never() -> None:
    raise ApplicationError("no", {"why": "because"}, type="Hopeless", non_retryable=True)


@workflow.defn
async def shout(text: str) -> str:
    return str(await workflow.execute_activity(upper, text))


@workflow.defn
async def steps(n: int) -> int:
    value = 0
    for _ in range(n):
        value = await workflow.execute_activity(blocking, value)
    return value


@workflow.defn
async def fan(n: int) -> list[int]:
    return list(await asyncio.gather(*[workflow.execute_activity(blocking, i) for i in range(n)]))


@workflow.defn
async def stubborn() -> Any:
    return await workflow.execute_activity(third_time, "done", retry_policy=QUICK)


@workflow.defn
async def hopeless() -> Any:
    return await workflow.execute_activity(never)


@workflow.defn
async def two_signals() -> list[Any]:
    return list(await asyncio.gather(workflow.wait_for("first"), workflow.wait_for("second")))


@workflow.defn
async def month() -> float:
    return await workflow.sleep_for("30 days")


@workflow.defn
async def late() -> str:
    try:
        return str(await workflow.wait_for("never", timeout="1 hour"))
    except TimeoutError:
        return "too late"


WORKFLOWS = [shout, steps, fan, stubborn, hopeless, two_signals, month, late]
ACTIVITIES = [upper, third_time, blocking, never]


def serve(client: Client, **options: Any) -> Worker:
    return Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES, **options)


@pytest.fixture(params=[None, 0], ids=["live", "replay"])
def cache(request: pytest.FixtureRequest) -> int | None:
    return request.param  # type: ignore[no-any-return]


async def until(condition: Any) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


async def test_results(dsn: str, cache: int | None) -> None:
    async with Client(dsn) as client, serve(client, cache_size=cache):
        assert await client.workflow.execute(shout, args=["héllo"]) == "HÉLLO"
        assert await client.workflow.execute(steps, args=[12]) == 12
        assert await client.workflow.execute(fan, args=[300]) == list(range(1, 301))
        assert await client.workflow.execute(stubborn) == "done at attempt 3"


async def test_failure_reaches_the_caller_with_its_cause(dsn: str, cache: int | None) -> None:
    async with Client(dsn) as client, serve(client, cache_size=cache):
        with pytest.raises(WorkflowFailed) as caught:
            await client.workflow.execute(hopeless)
    inner = caught.value.cause
    assert inner is not None and isinstance(inner.__cause__, ApplicationError)
    assert inner.__cause__.type == "Hopeless" and inner.__cause__.details == ({"why": "because"},)


async def test_signals_in_reverse_and_before_their_waiter(dsn: str, cache: int | None) -> None:
    async with Client(dsn) as client:
        await client.signal("second", {"b": 2, "a": 1})
        handle = await client.workflow.start(two_signals)
        async with serve(client, cache_size=cache):
            await client.signal("first", 1)
            result = await handle.result(timeout=20)
    assert result == [1, {"b": 2, "a": 1}] and list(result[1]) == ["b", "a"]


async def test_two_waiters_of_one_signal_both_get_it(dsn: str) -> None:
    async with Client(dsn) as client, serve(client):
        handles = [await client.workflow.start(two_signals) for _ in range(2)]

        async def all_wait() -> bool:
            return bool(await client._value("select count(*) = 4 from hotmesh.waiting", ()))

        await until(all_wait)
        for name in ("first", "second"):
            await client.signal(name, name)
        assert await asyncio.gather(*[h.result(timeout=20) for h in handles]) == [["first", "second"]] * 2


async def test_a_month_passes_when_the_clock_moves(dsn: str, cache: int | None) -> None:
    async with Client(dsn) as client, serve(client, cache_size=cache):
        sleeper = await client.workflow.start(month)
        waiter = await client.workflow.start(late)

        async def both_wait() -> bool:
            rows = await client._rows("select waits_for, workflow_id from hotmesh.waiting", ())
            return {"timer", "signal"} <= {r[0] for r in rows}

        await until(both_wait)
        assert await sleeper.status() in ("waiting", "running")
        await client._rows("select hotmesh_engine.skip('31 days')", ())
        assert 30 * 86400 <= await sleeper.result(timeout=20) < 32 * 86400
        assert await waiter.result(timeout=20) == "too late"


async def test_interrupt_and_unknown_ids(dsn: str) -> None:
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(two_signals, workflow_id="stop me")
        with pytest.raises(WorkflowAlreadyStarted):
            await client.workflow.start(two_signals, workflow_id="stop me")
        await handle.interrupt("enough")
        with pytest.raises(WorkflowInterrupted, match="enough"):
            await handle.result(timeout=20)
        with pytest.raises(WorkflowNotFound):
            await handle.interrupt()
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("nobody").result()


async def test_a_start_in_a_transaction_happens_if_that_commits(dsn: str) -> None:
    async with Client(dsn) as client, serve(client), await psycopg.AsyncConnection.connect(dsn) as mine:
        gone = await client.workflow.start(shout, args=["a"], conn=mine)
        await mine.rollback()
        there = await client.workflow.start(shout, args=["b"], conn=mine)
        await mine.commit()
        assert await there.result(timeout=20) == "B"
        with pytest.raises(WorkflowNotFound):
            await gone.status()


async def test_many(dsn: str) -> None:
    async with Client(dsn) as client, serve(client), serve(client):
        handles = await client.workflow.start_many([StartRequest(shout, [f"n{i}"]) for i in range(1500)])
        results = await asyncio.gather(*[h.result(timeout=50) for h in handles])
    assert results == [f"N{i}" for i in range(1500)]


@pytest.mark.parametrize("policy", ["fail", "use_existing", "terminate_existing"])
async def test_of_many_an_id_is_taken(dsn: str, policy: str) -> None:
    async with Client(dsn) as client:
        await client.workflow.start(shout, args=["old"], workflow_id="n1500")
        requests = [StartRequest(shout, [f"n{i}"], workflow_id=f"n{i}") for i in range(4000)]
        if policy == "fail":
            with pytest.raises(WorkflowAlreadyStarted, match="n1500"):
                await client.workflow.start_many(requests)
            taken = await client._rows("select workflow_id from hotmesh_engine.open_id", ())
            groups = [sum(1 for (name,) in taken if int(name[1:]) // 1000 == group) for group in range(4)]
            assert groups[:2] == [1000, 1] and set(groups[2:]) <= {0, 1000}
            before = await client.workflow.count()
            await asyncio.sleep(0.1)
            assert await client.workflow.count() == before, "nothing is under way any more"
            return
        handles = await client.workflow.start_many(requests, id_conflict_policy=policy)
        assert [h.workflow_id for h in handles] == [r.id for r in requests]
        assert len({h.run_id for h in handles}) == 4000
        (old,) = await client._rows("select input::text from hotmesh_engine.run where run_id = %s", (handles[1500].run_id,))
        assert old[0] == ('["old"]' if policy == "use_existing" else '["n1500"]')
        assert await client.workflow.count(status="ready") == 4000


async def test_what_is_done_leaves_nothing_behind(dsn: str) -> None:
    async with Client(dsn) as client, serve(client):
        await client.workflow.execute(stubborn)
        await client.workflow.execute(fan, args=[50])
        for table in ("live", "open_id", "inbox", "waiting", "message", "unrouted", "activity_task", "trouble"):
            assert await client._value(f"select count(*) from hotmesh_engine.{table}", ()) == 0, table


async def test_a_client_that_waits_ignores_what_is_meant_for_workers(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Client(dsn) as client, serve(client):
        waiting = asyncio.create_task(client.workflow.execute(two_signals, timeout=20))
        await client.signal("first", 1)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute("select pg_notify('hotmesh_all', 'schedules')")
        await client.signal("second", 2)
        assert await waiting == [1, 2]
    assert not [r for r in caplog.records if r.levelname == "ERROR"]
