"""From where on workers look for due runs: nothing that turns up below stays there, and a backlog is no dead index entry."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import psycopg
import pytest

from pyhotmesh import Client, StartRequest, Worker, looks
from tests.reliability.engine import Hand
from tests.reliability.flows import listen, shout
from tests.reliability.kit import Database, serve, until


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor follows at once, a second behind; all that is due is looked at now and then."""
    monkeypatch.setattr(looks, "POLL", 0.05)
    monkeypatch.setattr(looks, "LATE", 0.0)
    monkeypatch.setattr(looks, "ALL", 0.4)


def floor(worker: Worker) -> datetime:
    assert worker._turns is not None
    return datetime.fromtimestamp((worker._turns._due.at(time.monotonic()) or 0) / 1e6, UTC)


@pytest.mark.parametrize("how", ["commits late", "is handed back", "is swept"])
async def test_what_turns_up_below_the_floor_is_found(dsn: str, db: Database, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "ALL", 3600.0)  # at once, as it is told of
    async with Client(dsn) as client:
        with psycopg.connect(dsn) as late:
            hand = Hand(db, 1)
            start = "select hotmesh.start_workflow('shout', '[\"hey\"]', 'w')"
            if how == "commits late":
                late.execute(start.encode())
            else:
                db.rows(start)
                assert hand.claim()
            due = db.value("select hotmesh.now()")
            db.skip("1 minute")
            async with serve(client, lease=0.5) as worker:
                await until(lambda: floor(worker) > due, "the floor has passed it")
                if how == "commits late":
                    late.commit()
                elif how == "is handed back":
                    db.rows("select hotmesh_engine.retire(%s)", hand.id)
                else:
                    hand.falls_silent()
                assert await client.get_handle("w").result(timeout=20) == "hey!"


async def test_a_signal_that_is_committed_below_the_floor_is_delivered(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        db.rows("select hotmesh.signal('somebody', '0')")  # the namespace is there
        with psycopg.connect(dsn) as late:
            late.execute("select hotmesh.signal('k', '1')")
            sent = db.value("select last_value from hotmesh_engine.id")
            async with serve(client) as worker:
                handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
                await until(lambda: db.waits("w"), "it waits")
                assert worker._turns is not None
                messages = worker._turns._messages
                await until(lambda: (messages.at(time.monotonic()) or 0) > sent, "the floor has passed it")
                late.commit()
                assert await handle.result(timeout=20) == [1]


READ = """select sum(idx_tup_read) from pg_stat_user_indexes
           where schemaname = 'hotmesh_engine' and relname in ('live', 'unrouted')"""


async def test_what_a_pinned_horizon_keeps_is_not_read_by_each_turn(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is done with can be removed, as of indexes, while somebody makes a dump. Workers pass it by."""
    monkeypatch.setattr(looks, "ALL", 3600.0)
    monkeypatch.setattr(looks, "ALL_TOLD", 3600.0)

    async def read(client: Client, worker: Worker) -> int:
        """By twenty workflows, one after another."""
        seen = []
        for count in (0, 20):
            for n in range(count):
                await client.workflow.execute(shout, args=[str(n)], timeout=10)
            assert worker._turns is not None
            await worker._turns._line.fetch("select pg_stat_force_next_flush()", ())
            db.rows("select pg_stat_clear_snapshot()")
            seen.append(db.value(READ))
        return int(seen[1] - seen[0])

    with psycopg.connect(dsn) as dump:
        dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        dump.execute("select count(*) from hotmesh_engine.run")
        async with Client(dsn) as client, serve(client) as worker:
            few = await read(client, worker)
            db.rows("select hotmesh.signal('nobody ' || n, '1') from generate_series(1, 3000) n")
            handles = await client.workflow.start_many([StartRequest(shout, [str(n)]) for n in range(1000)])
            await asyncio.gather(*[handle.result(timeout=20) for handle in handles])
            # What somebody had locked as a look passed by would be left to a look without a floor, of which there is none here.
            await until(lambda: db.value("select hotmesh.route()") == 0, "all is routed")
            assert db.value("select count(*) from hotmesh_engine.unrouted") == 0
            done, last = db.value("select hotmesh.now()"), db.value("select last_value from hotmesh_engine.id")
            messages = worker._turns._messages
            await until(
                lambda: floor(worker) > done and (messages.at(time.monotonic()) or 0) >= last, "the floors have passed it"
            )
            many = await read(client, worker)
    assert many < 2 * few + 1000, f"{few} index entries at first, {many} in the end"


async def test_a_backlog_is_worked_off_however_old_it_is(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look leaves some of it, which says nothing of what is below the last one that it took."""
    monkeypatch.setattr(looks, "ALL", 3600.0)
    async with Client(dsn) as client:
        handles = await client.workflow.start_many([StartRequest(shout, [str(n)]) for n in range(40)])
        db.skip("1 minute")
        async with serve(client, max_concurrent_runs=2):
            assert [await handle.result(timeout=20) for handle in handles] == [f"{n}!" for n in range(40)]
