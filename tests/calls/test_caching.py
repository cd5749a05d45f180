"""Cached answers: one execution for all callers, kept until it expires or is flushed, never a failure."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from pyhotmesh import CallFailed, Client, MeshCall, TimeoutError, WorkflowInterrupted
from tests.calls.kit import Counted
from tests.reliability.kit import Database, until


async def test_a_cached_value_lasts_for_its_ttl(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("cached", counted)
        for _ in range(3):
            assert await mesh.exec("cached", args=["a"], id="k", ttl="15 minutes") == ["a", 1]
        assert await mesh.exec("cached", args=["b"], id="other", ttl="15 minutes") == ["b", 2]
        db.skip("14 minutes")
        assert await mesh.exec("cached", args=["c"], id="k", ttl="15 minutes") == ["a", 1]
        db.skip("2 minutes")
        assert await mesh.exec("cached", args=["d"], id="k", ttl="15 minutes") == ["d", 3]


async def test_topics_do_not_share_ids(dsn: str, db: Database) -> None:
    one, two = Counted(), Counted()
    async with MeshCall(dsn) as mesh, MeshCall(dsn, namespace="elsewhere") as elsewhere:
        await mesh.connect("a", one)
        await mesh.connect("a:b", two)
        await elsewhere.connect("a", two)
        assert await mesh.exec("a", args=[1], id="b:c", ttl="infinity") == [1, 1]
        assert await mesh.exec("a:b", args=[2], id="c", ttl="infinity") == [2, 1]
        assert await elsewhere.exec("a", args=[3], id="b:c", ttl="infinity") == [3, 2]


async def test_a_thousand_callers_of_a_cold_key_run_it_once(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh, MeshCall(Client(dsn, pool_size=20)) as callers:
        await mesh.connect("cold", counted)
        found = await asyncio.gather(*(callers.exec("cold", args=["x"], id="k", ttl="1 hour") for _ in range(1000)))
    assert found == [["x", 1]] * 1000
    assert counted.runs == 1
    assert db.value("select count(*) from hotmesh.workflows") == 1


async def test_an_id_alone_joins_what_is_open(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("joined", counted)
        callers = [MeshCall(dsn) for _ in range(5)]
        calls = [asyncio.create_task(caller.exec("joined", id="k")) for caller in callers]
        await until(lambda: db.value("select count(*) from hotmesh_engine.waiter") == 5, "all have joined")
        await until(lambda: counted.runs == 1, "it runs")
        counted.go.set()
        assert await asyncio.gather(*calls) == [[1]] * 5
        assert await mesh.exec("joined", id="k") == [2]
        for caller in callers:
            await caller.close()


async def test_a_failure_is_not_cached(dsn: str, db: Database) -> None:
    counted = Counted(RuntimeError("not today"))
    async with MeshCall(dsn) as mesh:
        await mesh.connect("fails", counted)
        for _ in range(2):
            with pytest.raises(CallFailed, match="not today"):
                await mesh.exec("fails", id="k", ttl="1 hour")
        counted.value = None
        assert await mesh.exec("fails", id="k", ttl="1 hour") == [3]
        assert await mesh.exec("fails", id="k", ttl="1 hour") == [3]


async def test_what_was_interrupted_is_not_cached(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("ended", counted)
        call = asyncio.create_task(mesh.exec("ended", id="k", ttl="1 hour"))
        await until(lambda: counted.runs == 1, "it runs")
        assert await mesh.interrupt("ended", "k") is True
        with pytest.raises(WorkflowInterrupted):
            await call
        counted.go.set()
        assert await mesh.exec("ended", id="k", ttl="1 hour") == [2]
        assert await mesh.interrupt("ended", "k") is False, "nothing runs, and what is cached stays"
        assert await mesh.exec("ended", id="k", ttl="1 hour") == [2]


async def test_flush_lets_the_next_caller_run_it_again(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("flushed", counted)
        assert await mesh.flush("flushed", "k") is False
        assert await mesh.exec("flushed", id="k", ttl="1 hour") == [1]
        assert await mesh.flush("flushed", "k") is True
        assert await mesh.flush("flushed", "k") is False
        assert await mesh.exec("flushed", id="k", ttl="1 hour") == [2]


async def test_flush_does_not_disturb_who_waits_and_keeps_nothing_stale(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("busy", counted)
        waiting = asyncio.create_task(mesh.exec("busy", id="k", ttl="1 hour"))
        await until(lambda: counted.runs == 1, "it runs")
        assert await mesh.flush("busy", "k") is True
        db.rows("select hotmesh.prune()")
        counted.go.set()
        assert await waiting == [1]
        assert await mesh.exec("busy", id="k", ttl="1 hour") == [2]


async def test_who_comes_after_a_flush_does_not_get_what_was_running_before(dsn: str, db: Database) -> None:
    """It may have read what the flush was for: the next caller waits for its end, and runs the function again."""
    counted = Counted()
    counted.go.clear()
    waiters = "select count(*) from hotmesh_engine.waiter"
    async with MeshCall(dsn) as mesh, contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(MeshCall(dsn)) for _ in range(4)]
        await mesh.connect("busy", counted)
        before = asyncio.create_task(callers[0].exec("busy", id="k", ttl="1 hour"))
        await until(lambda: counted.runs == 1, "it runs")
        assert await mesh.flush("busy", "k") is True
        after = [asyncio.create_task(caller.exec("busy", id="k", ttl="1 hour")) for caller in callers[1:3]]
        joins = asyncio.create_task(callers[3].exec("busy", id="k"))
        await until(lambda: db.value(waiters) == 4, "they wait")
        with pytest.raises(TimeoutError, match=r"call of 'busy' has not ended within 0\.05 s; it goes on"):
            await mesh.exec("busy", id="k", ttl="1 hour", timeout=0.05)
        assert counted.runs == 1, "one at a time"
        counted.go.set()
        assert await asyncio.gather(before, joins, *after) == [[1], [1], [2], [2]]
        assert await mesh.exec("busy", id="k", ttl="1 hour") == [2], "and that is kept"


async def test_one_that_was_flushed_and_fails_fails_for_its_own_callers_alone(dsn: str, db: Database) -> None:
    counted = Counted(RuntimeError("not today"))
    counted.go.clear()
    async with MeshCall(dsn) as mesh, MeshCall(dsn) as other:
        await mesh.connect("busy", counted)
        before = asyncio.create_task(mesh.exec("busy", id="k", ttl="1 hour"))
        await until(lambda: counted.runs == 1, "it runs")
        await mesh.flush("busy", "k")
        after = asyncio.create_task(other.exec("busy", id="k", ttl="1 hour"))
        await until(lambda: db.value("select count(*) from hotmesh_engine.waiter") == 2, "it waits")
        counted.go.set()
        with pytest.raises(CallFailed, match="not today"):
            await before
        with pytest.raises(CallFailed, match="not today"):
            await after
    assert counted.runs == 2, "the second one has failed by itself"


async def test_a_value_that_was_asked_for_by_id_alone_is_not_cached(dsn: str, db: Database) -> None:
    """Such an id is shared while the call runs; the outcome is kept for callers that lost their connection."""
    counted = Counted()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("plain", counted)
        assert await mesh.exec("plain", id="k") == [1]
        assert await mesh.exec("plain", id="k", ttl="15 minutes") == [2]
        assert await mesh.exec("plain", id="k", ttl="15 minutes") == [2]
        assert await mesh.exec("plain", id="k") == [3]
        assert await mesh.exec("plain", id="k", ttl="15 minutes") == [2], "what is cached stays"
        db.rows("select hotmesh.call('plain', id => 'sql')")
        await until(lambda: db.value("select hotmesh.result('call:plain:sql')") == [4], "it is done")
        db.rows("select hotmesh.call('plain', id => 'sql', ttl => '1 hour')")
        await until(lambda: db.value("select hotmesh.result('call:plain:sql')") == [5], "it is done again")
