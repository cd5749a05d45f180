"""pgqueuer (PyPI `pgqueuer`)."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from pathlib import Path

from bench.engine import Engine
from bench.role import AsyncRole

BATCH = 1000
CONNECTIONS = 3
GC_THRESHOLD = (20_000, 50, 100)  # as a pyhotmesh worker has it


class PgQueuer(Engine):
    """pgqueuer: one QueueManager in one worker process, on a pool of asyncpg connections."""

    name = "pgqueuer"
    module = "bench.peers.pgqueuer_"
    open_runs = "select count(*) from pgqueuer"
    workloads = ("W6",)
    notes = (
        f"one QueueManager with batch_size {BATCH:,} on an AsyncpgPoolDriver of {CONNECTIONS} connections; of batches of "
        "10 to 5,000 (alike from 500 on), AsyncpgDriver, AsyncpgPoolDriver and PsycopgDriver and 1 to 5 managers in the "
        "process this did best; uvloop if installed; the entrypoint a coroutine",
        "durability `durable` (the default: no unlogged tables; its faster modes lose jobs or their log when the server "
        "crashes, so they are not shown); `pgq autovac`'s settings, as its guide recommends",
        f"log level CRITICAL; Python's garbage collector at {GC_THRESHOLD[0]:,} allocations, as pyhotmesh's worker sets it",
        f"enqueueing by enqueue with lists, {BATCH:,} jobs each",
        "a finished job is deleted from the queue and noted in its log, in sets; what an entrypoint returns is not "
        "recorded, only that it succeeded",
        "the entrypoint is registered and the pool connected before the clock starts; QueueManager.run, which begins with "
        "checks of the schema (some ms), is called at the word to begin",
    )

    def prepare(self, dsn: str, programs: Path) -> None:
        asyncio.run(_install(dsn))


async def _install(dsn: str) -> None:
    import asyncpg
    from pgqueuer.queries import Queries

    connection = await asyncpg.connect(dsn)
    try:
        queries = Queries.from_asyncpg_connection(connection)
        await queries.install()
        await queries.optimize_autovacuum()
    finally:
        await connection.close()


class Worker(AsyncRole):
    """A worker process."""

    async def setup(self, dsn: str, workload: str) -> None:
        import asyncpg
        from pgqueuer.models import Job
        from pgqueuer.qm import QueueManager
        from pgqueuer.queries import Queries

        async def work(job: Job) -> int:
            self.steps_run += 1
            return int(job.payload or b"") + 1

        logging.getLogger("pgqueuer").setLevel(logging.CRITICAL)
        gc.set_threshold(*GC_THRESHOLD)
        self.pool = await asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)
        self.manager = QueueManager(Queries.from_asyncpg_pool(self.pool))
        self.manager.entrypoint("work", accepts_context=False)(work)
        self.run: asyncio.Task[None] | None = None

    def go(self) -> None:
        self.run = asyncio.ensure_future(self.manager.run(batch_size=BATCH))

    async def stop(self) -> None:
        self.manager.shutdown.set()
        if self.run is not None:
            await asyncio.wait([self.run], timeout=10)
        await asyncio.wait_for(self.pool.close(), timeout=5)


class Client(AsyncRole):
    """A program that enqueues jobs."""

    async def setup(self, dsn: str) -> None:
        import asyncpg
        from pgqueuer.queries import Queries

        self.connection = await asyncpg.connect(dsn)
        self.queries = Queries.from_asyncpg_connection(self.connection)

    async def enqueue(self, workload: str, count: int) -> float:
        begin = time.perf_counter()
        for first in range(0, count, BATCH):
            payloads = [b"%d" % number for number in range(first, min(count, first + BATCH))]
            await self.queries.enqueue(["work"] * len(payloads), payloads, [0] * len(payloads))
        return time.perf_counter() - begin

    async def stop(self) -> None:
        await self.connection.close()
