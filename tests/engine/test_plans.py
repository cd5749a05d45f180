"""What a turn reads does not grow with the tables, even if they were empty when it was planned.

Tables of work are emptied every night and full every morning. A plan made for an empty table may read
all of an index for one row of it, and the cached plans of a worker's connection outlive the night.
"""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pyhotmesh import Client, RetryPolicy, StartRequest, Worker, activity, workflow

FEW, MANY = 40, 400
TABLES = ("run", "live", "open_id", "outcome", "journal", "inbox", "waiting", "message", "unrouted", "activity_task")


@activity.defn
async def double(number: int) -> int:
    return 2 * number


@activity.defn
async def falter(number: int) -> int:
    if activity.info().attempt == 1:
        raise RuntimeError("at first it fails")
    return number


@workflow.defn
async def one_step(number: int) -> int:
    return await workflow.execute_activity(double, number)


@workflow.defn
async def signalled(number: int) -> int:
    first, second = await asyncio.gather(workflow.wait_for(f"a {number}"), workflow.wait_for(f"b {number}"))
    await workflow.signal(f"seen {number}", first + second)
    return first + second


@workflow.defn
async def again(number: int) -> int:
    quickly = RetryPolicy(initial_interval=0.05)
    number = await workflow.execute_activity(falter, number, retry_policy=quickly)
    await workflow.sleep_for(0.05)
    return await workflow.execute_activity(double, number, task_queue="elsewhere")


async def _rows_read(dsn: str, kind: str, count: int) -> float:
    """Rows that the engine read for each run, over all sessions, plans made while everything was empty."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("vacuum analyze")
        before = _counters(conn)
        worker = Worker(dsn, workflows=[one_step, signalled, again], activities=[double, falter], cache_size=50)
        elsewhere = Worker(dsn, task_queue="elsewhere", activities=[double])
        async with Client(dsn) as client, worker, elsewhere:
            requests = [StartRequest(kind, [number]) for number in range(count)]
            handles = await client.workflow.start_many(requests)
            if kind == "signalled":
                for key in "b", "a":
                    conn.execute(
                        "select hotmesh.signal(%s || ' ' || n, to_json(1)) from generate_series(0, %s) n", (key, count - 1)
                    )
            await asyncio.gather(*(handle.result() for handle in handles))
        after = _counters(conn)
    return (after - before) / count


def _counters(conn: psycopg.Connection[tuple[int]]) -> int:
    conn.execute("select pg_stat_force_next_flush()")
    conn.execute("select pg_stat_clear_snapshot()")
    row = conn.execute(
        "select sum(coalesce(idx_tup_read, 0)) from pg_stat_user_indexes where schemaname = 'hotmesh_engine'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", ["one_step", "signalled", "again"])
async def test_rows_read_do_not_grow_with_the_tables(dsn: str, kind: str) -> None:
    few = await _rows_read(dsn, kind, FEW)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"truncate {', '.join(f'hotmesh_engine.{table}' for table in TABLES)}")
    many = await _rows_read(dsn, kind, MANY)
    assert many < 2 * few + 50, f"{few:.0f} rows a run at {FEW} runs, {many:.0f} at {MANY}"
