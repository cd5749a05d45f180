"""pyhotmesh's MeshCall: the parts of W6."""

from __future__ import annotations

import asyncio
import time

from bench.role import AsyncRole, percentiles

TOPIC = "work"


class Worker(AsyncRole):
    """A process that serves the topic."""

    async def setup(self, dsn: str, workload: str) -> None:
        from pyhotmesh import MeshCall

        async def work(number: int) -> int:
            self.steps_run += 1
            return number + 1

        self.mesh = MeshCall(dsn)
        self.mesh.pause()
        await self.mesh.connect(TOPIC, work)

    def go(self) -> None:
        self.mesh.resume()

    async def stop(self) -> None:
        await asyncio.wait_for(self.mesh.close(), timeout=10)


class Client(AsyncRole):
    """A program that calls the topic."""

    async def setup(self, dsn: str) -> None:
        from pyhotmesh import MeshCall

        self.mesh = MeshCall(dsn)

    async def warm_up(self) -> None:
        assert await self.mesh.exec(TOPIC, args=[1]) == 2

    async def enqueue(self, workload: str, count: int) -> float:
        begin = time.perf_counter()
        await self.mesh.start_many(TOPIC, [[number] for number in range(count)])
        return time.perf_counter() - begin

    async def round_trips(self, count: int) -> dict[str, float]:
        took = []
        for number in range(count):
            begin = time.perf_counter()
            assert await self.mesh.exec(TOPIC, args=[number]) == number + 1
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    async def stop(self) -> None:
        await self.mesh.close()
