"""procrastinate (PyPI `procrastinate`)."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from pathlib import Path
from typing import Any

from bench.engine import Engine
from bench.role import AsyncRole

QUEUE = "bench"
WORKERS = 4
CONCURRENCY = 10
CONNECTIONS = 10
BATCH = 1000
GC_THRESHOLD = (20_000, 50, 100)  # as a pyhotmesh worker has it


class Procrastinate(Engine):
    """procrastinate: several workers in one process, on one pool."""

    name = "procrastinate"
    module = "bench.peers.procrastinate_"
    open_runs = "select count(*) from procrastinate_jobs where status in ('todo', 'doing')"
    workloads = ("W6",)
    notes = (
        f"one worker process with {WORKERS} workers (a worker fetches one job at a time) of concurrency {CONCURRENCY} "
        "on one event loop; of 1 to 8 workers and concurrencies of 3 to 300, two to eight workers of 10 did best and "
        "alike; uvloop if installed; the task a coroutine",
        f"a pool of {CONNECTIONS} connections given to App.open_async: autocommit (each query is one statement) and no "
        "check at each use, which procrastinate's own pool has (both cost it round trips)",
        "finished jobs are kept (the default); deleting them made no difference; LISTEN/NOTIFY on; log level CRITICAL; "
        f"Python's garbage collector at {GC_THRESHOLD[0]:,} allocations, as pyhotmesh's worker sets it",
        f"enqueueing by batch_defer_async, {BATCH:,} jobs each",
        "what a task returns is not recorded, only that the job succeeded; a job's fetch and its end are a transaction each",
        "the pool is connected before the clock starts; the workers register, some ms, at the word to begin",
    )

    def prepare(self, dsn: str, programs: Path) -> None:
        import procrastinate

        with procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=dsn)).open() as app:
            app.schema_manager.apply_schema()


class _Part(AsyncRole):
    """An app on a pool."""

    async def open(self, dsn: str, connections: int) -> None:
        import procrastinate
        from psycopg import AsyncConnection
        from psycopg_pool import AsyncConnectionPool

        async def autocommit(connection: AsyncConnection[Any]) -> None:
            await connection.set_autocommit(True)

        async def work(number: int) -> int:
            self.steps_run += 1
            return number + 1

        logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
        self.pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            dsn, min_size=connections, max_size=connections, configure=autocommit, open=False
        )
        await self.pool.open(wait=True)
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector())
        self.task = self.app.task(name="work", queue=QUEUE)(work)
        await self.app.open_async(self.pool)

    async def stop(self) -> None:
        await self.pool.close()


class Worker(_Part):
    """A worker process."""

    async def setup(self, dsn: str, workload: str) -> None:
        gc.set_threshold(*GC_THRESHOLD)
        self.workers: list[asyncio.Task[None]] = []
        await self.open(dsn, CONNECTIONS)

    def go(self) -> None:
        for number in range(WORKERS):
            worker = self.app.run_worker_async(
                queues=[QUEUE], name=f"w{number}", concurrency=CONCURRENCY, install_signal_handlers=False
            )
            self.workers.append(asyncio.ensure_future(worker))

    async def stop(self) -> None:
        for worker in self.workers:
            worker.cancel()
        if self.workers:
            await asyncio.wait(self.workers, timeout=10)
        await super().stop()


class Client(_Part):
    """A program that defers jobs."""

    async def setup(self, dsn: str) -> None:
        await self.open(dsn, 1)

    async def enqueue(self, workload: str, count: int) -> float:
        begin = time.perf_counter()
        for first in range(0, count, BATCH):
            some = range(first, min(count, first + BATCH))
            await self.task.batch_defer_async(*[{"number": number} for number in some])
        return time.perf_counter() - begin
