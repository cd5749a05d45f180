"""Signals are never lost, never doubled, and come in the order in which they were sent."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client
from tests.reliability.flows import collate, impatient, listen, patient, shout
from tests.reliability.kit import Database, serve, until

CACHE = pytest.mark.parametrize("cache", [None, 0], ids=["live", "replay"])
LEVELS = list(psycopg.IsolationLevel)


@CACHE
async def test_a_signal_before_its_waiter_is_kept(dsn: str, db: Database, cache: int | None) -> None:
    async with Client(dsn) as client:
        await client.signal("early", {"b": 1, "a": [None, True]})
        assert db.rows("select signal_id, pending from hotmesh.signals") == [("early", False)]
        db.skip("6 days")
        async with serve(client, cache_size=cache):
            assert await client.workflow.execute(listen, args=["early"], timeout=20) == [{"b": 1, "a": [None, True]}]
    assert db.rows("select * from hotmesh.signals") == []


async def test_a_signal_that_nobody_took_lapses_after_its_retention(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0):
        await client.signal("old", 1)
        db.skip("8 days")
        handle = await client.workflow.start(listen, args=["old"], workflow_id="w")
        await until(lambda: db.parked("w"), "it waits")
        await client.signal("old", 2)
        assert await handle.result(timeout=20) == [2]


@CACHE
async def test_two_waiters_get_one_signal(dsn: str, db: Database, cache: int | None) -> None:
    async with Client(dsn) as client, serve(client, cache_size=cache):
        handles = [await client.workflow.start(listen, args=["both"], workflow_id=f"w{i}") for i in range(2)]
        await until(lambda: db.waits("w0") and db.waits("w1"), "both wait")
        await client.signal("both", "x")
        assert await asyncio.gather(*[h.result(timeout=20) for h in handles]) == [["x"], ["x"]]


async def test_of_two_waiters_that_both_got_it_one_may_be_interrupted(dsn: str, db: Database) -> None:
    """What both got does not come back for a third when one of them does not use it."""
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            one = await client.workflow.start(collate, args=["shared", "more"], workflow_id="one")
            two = await client.workflow.start(listen, args=["shared"], workflow_id="two")
            await until(lambda: db.parked("one", "two"), "both wait")
        await client.signal("shared", 1)
        await one.interrupt()
        async with serve(client, cache_size=0):
            assert await two.result(timeout=20) == [1]
            third = await client.workflow.start(listen, args=["shared"], workflow_id="three")
            await until(lambda: db.parked("three"), "it waits, for a new one")
            await client.signal("shared", 2)
            assert await third.result(timeout=20) == [2]


async def test_what_an_interrupted_waiter_had_not_seen_goes_to_the_next(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0):
        await client.workflow.start(collate, args=["mine", "more"], workflow_id="gone")
        await until(lambda: db.parked("gone"), "it waits")
        for number in (1, 2):
            await client.signal("mine", number)
        await client.get_handle("gone").interrupt()
        handle = await client.workflow.start(listen, args=["mine", 2])
        assert await handle.result(timeout=20) == [1, 2]


@CACHE
async def test_signals_come_in_the_order_in_which_they_were_sent(dsn: str, db: Database, cache: int | None) -> None:
    async with Client(dsn) as client:
        for number in range(50):
            await client.signal("queue", number)
        async with serve(client, cache_size=cache):
            handle = await client.workflow.start(listen, args=["queue", 200])
            for number in range(50, 200):
                await client.signal("queue", number)
            assert await handle.result(timeout=40) == list(range(200))


async def test_a_thousand_signals_to_one_workflow(dsn: str, db: Database) -> None:
    async with Client(dsn, pool_size=8) as client, serve(client):
        handle = await client.workflow.start(listen, args=["flood", 1000])

        async def sender(mine: int) -> None:
            for i in range(100):
                await client.signal("flood", [mine, i])

        await asyncio.gather(*[sender(i) for i in range(10)])
        seen: list[Any] = await handle.result(timeout=50)
    for mine in range(10):
        assert [i for m, i in seen if m == mine] == list(range(100))
    assert db.rows("select * from hotmesh.signals") == []


@pytest.mark.limit(120)
async def test_ten_thousand_signals_of_one_statement(dsn: str, db: Database) -> None:
    """Half of them before their waiter; first in, first out."""
    send = "select count(*) from (select hotmesh.signal('flood', to_json(i)) from generate_series(%s::int, %s) i) s"
    async with Client(dsn) as client, serve(client):
        db.rows(send, 0, 4999)
        handle = await client.workflow.start(listen, args=["flood", 10_000])
        db.rows(send, 5000, 9999)
        assert await handle.result(timeout=100) == list(range(10_000))
    assert db.rows("select * from hotmesh.signals") == []


@CACHE
async def test_a_signal_that_comes_as_the_wait_times_out_is_not_lost(dsn: str, db: Database, cache: int | None) -> None:
    async with Client(dsn) as client, serve(client, cache_size=cache):
        ids = [f"p{i}" for i in range(40)]
        handles = [await client.workflow.start(patient, args=[i, "1 hour"], workflow_id=i) for i in ids]
        await until(lambda: db.all_wait(ids), "all wait")
        await asyncio.gather(asyncio.to_thread(db.skip, "1 hour"), *[client.signal(i, i) for i in ids])
        results = await asyncio.gather(*[h.result(timeout=20) for h in handles])
    assert [value for _, value in results] == ids
    assert db.rows("select * from hotmesh.signals") == []


@CACHE
async def test_a_timed_out_wait_leaves_its_signal_to_others(dsn: str, db: Database, cache: int | None) -> None:
    async with Client(dsn) as client, serve(client, cache_size=cache):
        ids = [f"i{i}" for i in range(20)]
        handles = [await client.workflow.start(impatient, args=[i, "1 hour"], workflow_id=i) for i in ids]
        await until(lambda: db.all_wait(ids), "all wait")
        await asyncio.gather(asyncio.to_thread(db.skip, "1 hour"), *[client.signal(i, i) for i in ids])
        results = await asyncio.gather(*[h.result(timeout=20) for h in handles])
        left = [i for i, r in zip(ids, results, strict=True) if r is None]
        again = [await client.workflow.execute(listen, args=[i], timeout=20) for i in left]
    assert again == [[i] for i in left]
    assert {r for r in results if r is not None} == set(ids) - set(left)


@pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])
async def test_an_open_transaction_holds_nobody_up(dsn: str, db: Database, level: psycopg.IsolationLevel) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0), await psycopg.AsyncConnection.connect(dsn) as mine:
        await mine.set_isolation_level(level)
        await mine.execute("select count(*) from hotmesh.workflows")  # its snapshot is older than the waiters
        one = await client.workflow.start(listen, args=["key", 2], workflow_id="one")
        await until(lambda: db.parked("one"), "it waits")
        await client.signal("key", "in the transaction", conn=mine)
        await client.workflow.start(shout, args=["not yet"], workflow_id="started in it", conn=mine)
        # The same key, the same workflow, other workflows, in the meantime:
        await client.signal("key", "outside")
        await until(lambda: db.events("one").count("signal_received") == 1, "it has the signal from outside")
        assert await client.workflow.execute(shout, args=["others go on"], timeout=20) == "others go on!"
        late = await client.workflow.start(listen, args=["late"], workflow_id="late")
        await until(lambda: db.parked("late"), "it waits, unseen by the transaction")
        await client.signal("late", 1, conn=mine)
        assert db.status("started in it") is None
        await mine.commit()
        assert await one.result(timeout=20) == ["outside", "in the transaction"]
        assert await late.result(timeout=20) == [1]
        assert await client.get_handle("started in it").result(timeout=20) == "not yet!"


@pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])
async def test_a_transaction_that_is_rolled_back_sends_nothing(dsn: str, db: Database, level: psycopg.IsolationLevel) -> None:
    async with Client(dsn) as client, serve(client), await psycopg.AsyncConnection.connect(dsn) as mine:
        await mine.set_isolation_level(level)
        handle = await client.workflow.start(listen, args=["key"], workflow_id="w")
        await until(lambda: db.waits("w"), "it waits")
        await client.signal("key", "never", conn=mine)
        await mine.rollback()
        await client.signal("key", "this one")
        assert await handle.result(timeout=20) == ["this one"]
    assert db.rows("select * from hotmesh.signals") == []


async def test_an_idempotency_key_sends_once(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        for _ in range(3):
            await client.signal("k", 1, idempotency_key="order 7")
        await client.signal("k", 2)
        async with serve(client):
            assert await client.workflow.execute(listen, args=["k", 2], timeout=20) == [1, 2]


async def test_with_no_worker_alive_sql_delivers(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            await client.workflow.start(listen, args=["sql"], workflow_id="w")
            await until(lambda: db.parked("w"), "it waits")
        db.rows("select hotmesh.signal('sql', '[1.50, 1e16]')")
        assert db.rows("select pending from hotmesh.signals") == [(True,)]
        assert db.value("select hotmesh.route()") == 0
        assert db.status("w") == "ready"
        async with serve(client):
            assert await client.get_handle("w").result(timeout=20) == [[1.5, 1e16]]
