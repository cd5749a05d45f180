"""What a call of `cron_next` costs, and how late schedules fire."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from bench.role import percentiles
from bench.server import Server

CALLS = 2000
SECONDS = 20
EXPRESSIONS = (
    ("*/5 * * * *", "UTC"),
    ("0 3 * * *", "UTC"),
    ("0 3 * * *", "Europe/Berlin"),
    ("0 3 * * mon-fri", "UTC"),
    ("0 3 * * mon-fri", "Europe/Berlin"),
    ("*/15 * * * *", "Europe/Berlin"),
    ("*/10 * * * * *", "UTC"),
    ("0 0 * * fri#2", "UTC"),
    ("0 0 29 2 *", "UTC"),
)
_CALLS = (
    "select count(hotmesh.cron_next(%s, timestamptz '2026-01-01' + g * interval '5 hours', %s)) from generate_series(1, %s) g"
)


def measure(server: Server, scale: float) -> Iterator[tuple[str, dict[str, float]]]:
    """What was measured, and the figures, in a database of its own that is dropped again."""
    from pyhotmesh import migrate

    dsn = server.create("cron_bench")
    try:
        migrate.upgrade(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            for expression, zone in EXPRESSIONS:
                yield f"`{expression}` in {zone}", {"us_per_call": _cost(conn, expression, zone, max(100, int(CALLS * scale)))}
        yield "firing, one schedule of every second", asyncio.run(_lateness(dsn, max(3, int(SECONDS * scale))))
    finally:
        server.drop("cron_bench")


def _cost(conn: psycopg.Connection[Any], expression: str, zone: str, calls: int) -> float:
    """The median of five rounds of calls from one instant after another; the first one plans."""
    rounds = []
    for _ in range(6):
        begin = time.perf_counter()
        conn.execute(_CALLS, (expression, zone, calls))
        rounds.append((time.perf_counter() - begin) / calls * 1e6)
    return round(statistics.median(rounds[1:]), 1)


async def _lateness(dsn: str, seconds: int) -> dict[str, float]:
    """From the slot to the transaction that starts its run."""
    from pyhotmesh import Client, Worker, workflow

    @workflow.defn
    async def tick() -> None: ...

    async with Client(dsn) as client, Worker(client, workflows=[tick]):
        await client.schedule.create("tick", tick, interval="* * * * * *", max_cycles=seconds)
        schedule = client.schedule.get("tick")
        while (await schedule.describe())["status"] != "over":
            await asyncio.sleep(0.5)
        late = [(row["decided_at"] - row["slot"]).total_seconds() for row in await schedule.history(seconds)]
    return {f"late_{name}": value for name, value in percentiles(late).items()}
