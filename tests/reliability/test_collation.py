"""A workflow that waits for several things wakes when the last of them is there, and only then."""

from __future__ import annotations

import asyncio

from pyhotmesh import Client
from tests.reliability.flows import ACTIVITIES, collate, fan_then_signal, first_failure, gives_up, two_gathers
from tests.reliability.kit import Database, serve, until


async def test_a_thousand_results_wake_it_once(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(fan_then_signal, args=[1000, "helpers", "go"], workflow_id="w")
        await until(lambda: db.parked("w"), "it waits")
        leases = db.leases("w")
        async with (
            serve(client, task_queue="helpers", workflows=[], activities=ACTIVITIES),
            serve(client, task_queue="helpers", workflows=[], activities=ACTIVITIES),
        ):
            waits = "select count(*) from hotmesh.waiting where workflow_id = 'w' and waits_for = 'signal'"
            await until(lambda: db.value(waits) == 1 and db.parked("w"), "it has all results and waits for its signal")
        assert db.leases("w") == leases + 1
        await client.signal("go", "on")
        assert await handle.result(timeout=20) == [1000, "on"]


async def test_the_first_failure_wakes_it(dsn: str, db: Database) -> None:
    """The others would never come: nobody serves their queue."""
    async with Client(dsn) as client, serve(client, cache_size=0), serve(client, task_queue="bad"):
        result = await client.workflow.execute(first_failure, args=[20, "nobody", "bad", False], timeout=20)
    assert result == "failed early: no use"


async def test_who_collects_failures_waits_for_all(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(first_failure, args=[5, "good", "bad", True], workflow_id="w")
        await until(lambda: db.parked("w"), "it waits")
        leases = db.leases("w")
        async with serve(client, task_queue="bad"):
            arrived = "select count(*) from hotmesh.waiting where workflow_id = 'w' and arrived"
            await until(lambda: db.value(arrived) == 1, "the failure is there")
            assert db.parked("w") and db.leases("w") == leases
        async with serve(client, task_queue="good"):
            assert await handle.result(timeout=20) == [0, 2, 4, 6, 8, "no use"]


async def test_signals_in_reverse_order_wake_it_once(dsn: str, db: Database) -> None:
    keys = [f"k{i}" for i in range(10)]
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(collate, args=keys, workflow_id="w")
        await until(lambda: db.parked("w"), "it waits")
        leases = db.leases("w")
        for key in reversed(keys[1:]):
            await client.signal(key, key)
        assert db.parked("w") and db.leases("w") == leases
        await client.signal(keys[0], keys[0])
        assert await handle.result(timeout=20) == keys


async def test_last_results_that_arrive_together_wake_it(dsn: str, db: Database) -> None:
    """Two senders that each see the other's signal missing: somebody must notice that all are there."""
    ids = [f"w{i}" for i in range(25)]
    async with Client(dsn, pool_size=8) as client, serve(client, cache_size=0):
        handles = [await client.workflow.start(collate, args=[f"a{i}", f"b{i}"], workflow_id=i) for i in ids]
        await until(lambda: db.parked(*ids), "all wait")
        await asyncio.gather(*[client.signal(f"{side}{i}", side) for i in ids for side in "ab"])
        assert await asyncio.gather(*[h.result(timeout=20) for h in handles]) == [["a", "b"]] * len(ids)


async def test_one_of_two_gathers_wakes_it(dsn: str, db: Database) -> None:
    """What the other waits for may depend on it."""
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(two_gathers, args=["a", "b", "c", "d"], workflow_id="w")
        await until(lambda: db.parked("w"), "it waits")
        leases = db.leases("w")
        await client.signal("a", 1)
        assert db.leases("w") == leases
        await client.signal("b", 2)
        await until(lambda: db.value("select count(*) from hotmesh.signals where signal_id = 'the first is done'") == 1)
        await until(lambda: db.parked("w"), "it waits for the rest")
        await client.signal("c", 3)
        await client.signal("d", 4)
        assert await handle.result(timeout=20) == [[1, 2], [3, 4]]


async def test_what_nobody_waits_for_any_more_does_not_lie_beside_a_parked_run(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(gives_up, args=["helpers", "k"], workflow_id="w")
        await until(lambda: db.value("select count(*) from hotmesh.activities") == 1, "it has asked")
        db.skip("1 hour")
        await until(
            lambda: db.rows("select waits_for from hotmesh.waiting") == [("signal",)] and db.parked("w"), "it has given up"
        )
        async with serve(client, task_queue="helpers", workflows=[]):
            await until(lambda: not db.value("select count(*) from hotmesh.activities"), "a helper has done it after all")
            await until(
                lambda: not db.value("select count(*) from hotmesh_engine.inbox"), "the run has been told, and ignores it"
            )
        await client.signal("k", 1)
        assert await handle.result(timeout=20) == 1
