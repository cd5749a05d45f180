"""pyhotmesh itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bench.engine import Engine
from bench.role import SETTLE, STRAIGHT, WAITED, AsyncRole, percentiles

QUEUE = "bench"


class HotMesh(Engine):
    """pyhotmesh with its defaults."""

    name = "pyhotmesh"
    module = "bench.hotmesh_"
    open_runs = "select count(*) from hotmesh_engine.live"
    # Only pyhotmesh has a bulk start, and only its cost over many runs is asked for.
    workloads = (*Engine.workloads, "W6", "start_many", "full_load")
    notes = (
        "one Worker in one process and one Client in another, all options at their defaults; "
        "activities are coroutines; uvloop if installed",
        "enqueueing by start_many",
        "W4: execute; W5: client.signal and handle.result; both by another process than the worker's",
        "W6: a MeshCall with its defaults in each process, the callback a coroutine; MeshCall.start_many and exec; "
        "a call's result is kept for an hour after it ended",
        "W7 is shown with sleepers started one after another and with all started at once",
    )

    def prepare(self, dsn: str, programs: Path) -> None:
        from pyhotmesh import migrate

        migrate.upgrade(dsn)

    def parts(self, workload: str) -> str:
        return "bench.mesh" if workload == "W6" else self.module

    def variants(self, workload: str) -> list[dict[str, Any]]:
        if workload == "W6":
            return [{"label": ""}, {"label": "exec, another process", "trips": True, "share": 0.01}]
        if workload == "W4":
            return [{"label": "another process"}]
        if workload == "W5":
            return [
                {"label": "another process"},
                {"label": f"another process, {STRAIGHT}", "straight": True},
            ]
        if workload == "W7":
            return [
                {"label": "started one after another", "enqueue": {"bulk": False}},
                {"label": "started at once", "enqueue": {"bulk": True}},
            ]
        return [{"label": ""}]


class Worker(AsyncRole):
    """A worker process."""

    async def setup(self, dsn: str, workload: str) -> None:
        from pyhotmesh import Worker as HotMeshWorker
        from pyhotmesh import activity, workflow

        @activity.defn(name="work")
        async def work(number: int) -> int:
            self.steps_run += 1
            return number + 1

        @activity.defn(name="note")
        async def note(wanted: float) -> float:
            self.late.append(time.time() - wanted)
            self.steps_run += 1
            return self.late[-1]

        @workflow.defn(name="W1")
        async def one_step(number: int) -> int:
            return await workflow.execute_activity(work, number)

        @workflow.defn(name="W2")
        async def ten_steps(number: int) -> int:
            for _ in range(10):
                number = await workflow.execute_activity(work, number)
            return number

        @workflow.defn(name="W3")
        async def fan_out(count: int) -> int:
            steps = [workflow.execute_activity(work, number) for number in range(count)]
            return sum(await asyncio.gather(*steps))

        @workflow.defn(name="W5")
        async def wait(number: int) -> Any:
            return await workflow.wait_for(f"go {number}")

        @workflow.defn(name="W7")
        async def sleeper(number: int) -> float:
            wanted = workflow.now().timestamp() + 1
            await workflow.sleep_for(1)
            self.woke.append(time.time() - wanted)
            return await workflow.execute_activity(note, wanted)

        @workflow.defn(name="dormant")
        async def dormant(number: int) -> float:
            return await workflow.sleep_for("30 days")

        self.worker = HotMeshWorker(
            dsn,
            task_queue=QUEUE,
            workflows=[one_step, ten_steps, fan_out, wait, sleeper, dormant],
            activities=[work, note],
        )
        self.worker.pause()
        await self.worker.__aenter__()

    def go(self) -> None:
        self.worker.resume()

    async def stop(self) -> None:
        await asyncio.wait_for(self.worker.__aexit__(None, None, None), timeout=10)


class Client(AsyncRole):
    """A program that starts workflows and waits for them."""

    async def setup(self, dsn: str) -> None:
        from pyhotmesh import Client as HotMeshClient
        from pyhotmesh import StartRequest

        self.request = StartRequest
        self.client = HotMeshClient(dsn)
        self.workflow = self.client.workflow

    async def start(self, workload: str, number: int) -> Any:
        return await self.workflow.start(workload, args=[number], task_queue=QUEUE)

    async def warm_up(self) -> None:
        assert await self.workflow.execute("W1", args=[1], task_queue=QUEUE) == 2

    async def enqueue(self, workload: str, count: int, bulk: bool = True) -> float:
        begin = time.perf_counter()
        if bulk:
            request = self.request
            await self.workflow.start_many([request(workload, [number], QUEUE) for number in range(count)])
        else:
            for number in range(count):
                await self.start(workload, number)
        return time.perf_counter() - begin

    async def fan_out(self, count: int) -> float:
        begin = time.perf_counter()
        result = await self.workflow.execute("W3", args=[count], task_queue=QUEUE)
        took = time.perf_counter() - begin
        assert result == count * (count + 1) // 2
        return took

    async def round_trips(self, count: int) -> dict[str, float]:
        took = []
        for number in range(count):
            begin = time.perf_counter()
            assert await self.workflow.execute("W1", args=[number], task_queue=QUEUE) == number + 1
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    async def signal_trips(self, count: int, straight: bool) -> dict[str, float]:
        handles = []
        if straight:
            handles = [await self.start("W5", number) for number in range(count)]
            await asyncio.sleep(WAITED)
        took = []
        for number in range(count):
            if straight:
                handle = handles[number]
            else:
                handle = await self.start("W5", number)
                await asyncio.sleep(SETTLE)
            begin = time.perf_counter()
            await self.client.signal(f"go {number}", number)
            assert await handle.result() == number
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    async def stop(self) -> None:
        await self.client.close()
