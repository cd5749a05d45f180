"""Work goes to whoever serves its queue."""

from __future__ import annotations

import asyncio
import os

import pytest

from pyhotmesh import Client, StartRequest
from tests.reliability.flows import WORKFLOWS, fan, pids, shout
from tests.reliability.kit import Database, serve, spawn, until


@pytest.mark.parametrize("cache", [None, 0], ids=["live", "replay"])
async def test_an_activity_of_another_queue_is_served_by_its_worker(dsn: str, db: Database, cache: int | None) -> None:
    async with Client(dsn) as client, serve(client, activities=[], cache_size=cache):
        with spawn(dsn, "--queue", "elsewhere") as other:
            assert await client.workflow.execute(pids, args=[5, "elsewhere"], timeout=30) == [other.pid] * 5


async def test_it_waits_for_a_worker_of_that_queue(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(fan, args=[3, "later"], workflow_id="w")
        await until(lambda: db.value("select activities_ready from hotmesh.queues where task_queue = 'later'") == 3, "queued")
        async with serve(client, task_queue="later", workflows=[]):
            assert await handle.result(timeout=20) == [0, 2, 4]


async def test_a_wide_fan_out_is_shared_by_two_workers(dsn: str, db: Database) -> None:
    """The holder takes four activities at a time; what it has no place for, the other does."""
    async with Client(dsn) as client, serve(client, max_concurrent_activities=4):
        with spawn(dsn) as other:
            await until(lambda: other.registered(db.conn), "both serve")
            options = {"start_to_close_timeout": 30}
            handles = [await client.workflow.start("sleepers", args=[60, options])]
            seen = {pid for h in handles for pid in await h.result(timeout=30)}
    assert seen == {os.getpid(), other.pid}


async def test_runs_are_shared_by_two_workers(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, max_concurrent_runs=10):
        with spawn(dsn) as other:
            await until(lambda: other.registered(db.conn), "both serve")
            seen: set[int] = set()
            while seen != {os.getpid(), other.pid}:
                handles = await client.workflow.start_many([StartRequest(pids, [1]) for _ in range(200)])
                seen |= {p for found in await asyncio.gather(*[h.result(timeout=30) for h in handles]) for p in found}


async def test_a_worker_of_several_queues(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, task_queues=["a", "b"]):
        for queue in ("a", "b"):
            assert await client.workflow.execute(shout, args=[queue], task_queue=queue, timeout=20) == f"{queue}!"


async def test_namespaces_do_not_see_each_other(dsn: str, db: Database) -> None:
    async with Client(dsn, namespace="one") as one, Client(dsn, namespace="two") as two, serve(one), serve(two):
        a = await one.workflow.start("listen", args=["key"], workflow_id="same id")
        b = await two.workflow.start("listen", args=["key"], workflow_id="same id")
        await one.signal("key", 1)
        assert await a.result(timeout=20) == [1]
        assert await b.status() in ("running", "waiting", "ready")
        await two.signal("key", 2)
        assert await b.result(timeout=20) == [2]


async def test_urgent_runs_go_first(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        names = [(f"p{p}-{i}", p) for i in range(3) for p in (5, 3, 1)]
        handles = [await client.workflow.start(shout, args=[n], workflow_id=n, priority=p) for n, p in names]
        async with serve(client, workflows=WORKFLOWS, max_concurrent_runs=1):
            await asyncio.gather(*[h.result(timeout=20) for h in handles])
    order = [w for (w,) in db.rows("select workflow_id from hotmesh.workflows order by closed_at, run_id")]
    assert [w[:2] for w in order] == ["p1"] * 3 + ["p3"] * 3 + ["p5"] * 3


async def test_who_only_waits_takes_no_place(dsn: str, db: Database) -> None:
    """It stays in memory, should its signal come soon; others begin meanwhile."""
    async with Client(dsn) as client, serve(client, max_concurrent_runs=1):
        ids = [f"w{i}" for i in range(5)]
        waiting = [await client.workflow.start("listen", args=[i], workflow_id=i) for i in ids]
        await until(lambda: db.all_wait(ids), "all wait")
        assert db.value("select count(*) from hotmesh_engine.live where holder is not null") == 5
        for i in ids:
            await client.signal(i, i)
        assert await asyncio.gather(*[h.result(timeout=20) for h in waiting]) == [[i] for i in ids]
