"""absurd (PyPI `absurd-sdk`, schema from `absurdctl`)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from bench.engine import Engine
from bench.role import SETTLE, STRAIGHT, WAITED, AsyncRole, percentiles

QUEUE = "bench"
CONNECTIONS = 4
BUSY_CONNECTIONS = 16  # for W1, W2 and W7
CONCURRENCY = 20
POLL = 0.01  # seconds; the default is 0.25 s
ENQUEUERS = 4


class Absurd(Engine):
    """absurd: several claim loops in one worker process, each with a connection of its own."""

    name = "absurd"
    module = "bench.peers.absurd_"
    open_runs = f"select count(*) from absurd.t_{QUEUE} where state not in ('completed', 'failed', 'cancelled')"
    notes = (
        f"one worker process with {BUSY_CONNECTIONS} (W1, W2, W7) or {CONNECTIONS} AsyncAbsurd workers, a "
        f"connection each, on one event loop; concurrency and batch size {CONCURRENCY} (a task's checkpoints "
        "share its worker's connection); of 4 to 64 connections these did best",
        f"workers poll every {1000 * POLL:g} ms (default 250 ms); results by fetch_task_result every "
        f"{1000 * POLL / 2:g} ms (await_task_result starts at 50 ms and doubles); W4 and W5 are also shown "
        "with the defaults",
        f"enqueueing by {ENQUEUERS} AsyncAbsurd clients, a connection each",
        "unpartitioned queue (the default)",
        "W3: 1,000 steps of one asyncio.gather; they share one connection",
    )

    def prepare(self, dsn: str, programs: Path) -> None:
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        absurdctl = Path(sys.executable).with_name("absurdctl")
        for command in (["init"], ["create-queue", QUEUE]):
            subprocess.run(
                [str(absurdctl), *command, "-d", dsn],
                check=True,
                capture_output=True,
                timeout=120,
                env=environment,
            )

    def variants(self, workload: str) -> list[dict[str, Any]]:
        if workload in ("W4", "W5"):
            polls = {"label": f"polls of {1000 * POLL:g} ms"}
            straight = [{**polls, "label": f"{polls['label']}, {STRAIGHT}", "straight": True}] if workload == "W5" else []
            return [
                polls,
                *straight,
                {"label": "default polls", "options": {"defaults": True}, "share": 0.1},
            ]
        if workload in ("W1", "W2", "W7"):
            return [{"label": "", "options": {"connections": BUSY_CONNECTIONS}}]
        return [{"label": ""}]


class Worker(AsyncRole):
    """A worker process."""

    async def setup(self, dsn: str, workload: str, defaults: bool = False, connections: int = CONNECTIONS) -> None:
        from absurd_sdk import AsyncAbsurd

        self.defaults = defaults
        self.loops: list[asyncio.Task[None]] = []
        self.apps = []
        for _ in range(connections):
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            app = AsyncAbsurd(connection, queue_name=QUEUE)
            self._tasks(app)
            self.apps.append(app)

    def _tasks(self, app: Any) -> None:
        async def work() -> int:
            self.steps_run += 1
            return 1

        @app.register_task(name="W1")
        async def one_step(params: Any, ctx: Any) -> int:
            return int(params + await ctx.step("work", work))

        @app.register_task(name="W2")
        async def ten_steps(params: Any, ctx: Any) -> int:
            for number in range(10):
                params += await ctx.step(f"work {number}", work)
            return int(params)

        @app.register_task(name="W3")
        async def fan_out(params: Any, ctx: Any) -> int:
            return sum(await asyncio.gather(*[ctx.step(f"work {number}", work) for number in range(params)]))

        @app.register_task(name="W5")
        async def wait(params: Any, ctx: Any) -> Any:
            return await ctx.await_event(f"go {params}")

        @app.register_task(name="W7")
        async def sleeper(params: Any, ctx: Any) -> float:
            # The code before a sleep runs again after it, so the wanted time is a step's result.
            async def decide() -> float:
                return time.time() + 1

            async def note() -> float:
                self.late.append(time.time() - wanted)
                self.steps_run += 1
                return self.late[-1]

            wanted = await ctx.step("decide", decide)
            await ctx.sleep_until("sleep", datetime.fromtimestamp(wanted, UTC))
            self.woke.append(time.time() - wanted)
            return float(await ctx.step("note", note))

    def go(self) -> None:
        for number, app in enumerate(self.apps):
            options = {} if self.defaults else {"poll_interval": POLL}
            worker = app.start_worker(worker_id=f"w{number}", concurrency=CONCURRENCY, batch_size=CONCURRENCY, **options)
            self.loops.append(asyncio.ensure_future(worker))

    async def stop(self) -> None:
        for app in self.apps:
            app.stop_worker()
        if self.loops:
            await asyncio.wait(self.loops, timeout=5)
        for app in self.apps:
            await app._conn.close()


class Client(AsyncRole):
    """A program that starts tasks and waits for them."""

    async def setup(self, dsn: str, defaults: bool = False, **_worker_only: Any) -> None:
        from absurd_sdk import AsyncAbsurd

        self.defaults = defaults
        self.apps = []
        for _ in range(ENQUEUERS):
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            self.apps.append(AsyncAbsurd(connection, queue_name=QUEUE))

    async def _start(self, app: Any, workload: str, number: int) -> Any:
        return (await app.spawn(workload, number, queue=QUEUE))["task_id"]

    async def _result(self, app: Any, task: Any) -> Any:
        if self.defaults:
            found = await app.await_task_result(task)
        else:
            while (found := await app.fetch_task_result(task)).state not in (
                "completed",
                "failed",
                "cancelled",
            ):
                await asyncio.sleep(POLL / 2)
        assert found.state == "completed", found
        return found.result

    async def warm_up(self) -> None:
        await self._result(self.apps[0], await self._start(self.apps[0], "W1", 1))

    async def enqueue(self, workload: str, count: int) -> float:
        async def some(share: int) -> None:
            for number in range(share, count, ENQUEUERS):
                await self._start(self.apps[share], workload, number)

        begin = time.perf_counter()
        await asyncio.gather(*[some(share) for share in range(ENQUEUERS)])
        return time.perf_counter() - begin

    async def fan_out(self, count: int) -> float:
        begin = time.perf_counter()
        result = await self._result(self.apps[0], await self._start(self.apps[0], "W3", count))
        took = time.perf_counter() - begin
        assert result == count
        return took

    async def round_trips(self, count: int) -> dict[str, float]:
        took = []
        for number in range(count):
            begin = time.perf_counter()
            task = await self._start(self.apps[0], "W1", number)
            assert await self._result(self.apps[0], task) == number + 1
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    async def signal_trips(self, count: int, straight: bool) -> dict[str, float]:
        app = self.apps[0]
        tasks = []
        if straight:
            tasks = [await self._start(app, "W5", number) for number in range(count)]
            await asyncio.sleep(WAITED)
        took = []
        for number in range(count):
            if straight:
                task = tasks[number]
            else:
                task = await self._start(app, "W5", number)
                await asyncio.sleep(0.6 if self.defaults else SETTLE)  # more than a default poll
            begin = time.perf_counter()
            await app.emit_event(f"go {number}", number, queue_name=QUEUE)
            assert await self._result(app, task) == number
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    async def stop(self) -> None:
        for app in self.apps:
            await app._conn.close()
