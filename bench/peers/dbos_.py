"""DBOS Transact (PyPI `dbos`)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.engine import Engine
from bench.role import SETTLE, STRAIGHT, WAITED, Role, percentiles

QUEUE = "bench"
VERSION = "bench"  # of the application: client and worker must agree on it
POLL = 0.01  # seconds; the default of both polls is 1 s
W2_POLL = 0.005
W2_CONCURRENCY = 6
POOL = 20
ENQUEUERS = 4


class Dbos(Engine):
    """DBOS with its queue and its notification listener."""

    name = "dbos"
    module = "bench.peers.dbos_"
    open_runs = "select count(*) from dbos.workflow_status where status in ('PENDING', 'ENQUEUED', 'DELAYED')"
    notes = (
        "W1, W2, W4, W5: plain functions, which DBOS runs in threads; W3, W7: coroutines (each the faster "
        "here); LISTEN/NOTIFY on, log level CRITICAL, no tracing",
        f"system database pool of {POOL} connections; its limit on polling reads is off",
        f"queue polled every {1000 * POLL:g} ms (default 1 s), W2 {1000 * W2_POLL:g} ms, and results every "
        f"{1000 * POLL:g} ms (default 1 s); W4 through the queue is also shown with the defaults",
        f"no concurrency limit (the default), but W2 has worker_concurrency {W2_CONCURRENCY}: its threads then contend less",
        f"enqueueing by {ENQUEUERS} threads of one DBOSClient; until its clock starts, the queue's worker_concurrency is 0",
        "W4 and W5 inside the worker's process use DBOS.start_workflow / DBOS.send and the handle, "
        "which needs no poll; W7 starts its sleepers there too, one after another (through the queue they "
        "wake far later, because the starts alone keep the worker busy)",
    )

    def prepare(self, dsn: str, programs: Path) -> None:
        command = [sys.executable, "-m", "dbos.cli.cli", "migrate", "--sys-db-url", dsn]
        dbos = Path(sys.executable).with_name("dbos")
        if dbos.exists():
            command = [str(dbos), *command[3:]]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def variants(self, workload: str) -> list[dict[str, Any]]:
        threads = {"threads": True}
        # With nothing in the queue its polls would only disturb.
        inside = {
            "label": "started in the worker's process",
            "inside": True,
            "options": {"threads": True, "queue_poll": 1.0},
        }
        queue = {"label": f"another process, polls of {1000 * POLL:g} ms", "options": threads}
        defaults = {
            "label": "another process, default polls",
            "options": {"threads": True, "queue_poll": 1.0, "result_poll": 1.0},
            "share": 0.1,
        }
        return {
            "W1": [{"label": "", "options": threads}],
            "W2": [{"label": "", "options": {**threads, "queue_poll": W2_POLL, "concurrency": W2_CONCURRENCY}}],
            "W4": [inside, queue, defaults],
            "W5": [inside, {**inside, "label": f"{inside['label']}, {STRAIGHT}", "straight": True}, queue],
            "W7": [{**inside, "options": {"queue_poll": 1.0}}],
        }.get(workload, [{"label": ""}])


class Worker(Role):
    """A DBOS application."""

    def setup(
        self,
        dsn: str,
        workload: str,
        queue_poll: float = POLL,
        result_poll: float = POLL,
        threads: bool = False,
        concurrency: int | None = None,
    ) -> None:
        from dbos import DBOS

        self.concurrency = concurrency
        self.dbos = DBOS
        if threads:
            self._threads()
        else:
            self._coroutines()
        DBOS(
            config={
                "name": "bench",
                "system_database_url": dsn,
                "application_version": VERSION,
                "log_level": "CRITICAL",
                "sys_db_pool_size": POOL,
                "sys_db_polling_concurrency": 0,
                "run_migrations": False,
            }
        )
        DBOS.launch()
        self.queue = DBOS.register_queue(QUEUE, worker_concurrency=0, polling_interval_sec=queue_poll)
        time.sleep(1.2)  # the queue manager looks for new queues once a second

    def _coroutines(self) -> None:
        DBOS = self.dbos  # noqa: N806

        @DBOS.step()
        async def work(number: int) -> int:
            self.steps_run += 1
            return number + 1

        @DBOS.step()
        async def note(wanted: float) -> float:
            return self._note(wanted)

        @DBOS.workflow(name="W1")
        async def one_step(number: int) -> int:
            return await work(number)

        @DBOS.workflow(name="W2")
        async def ten_steps(number: int) -> int:
            for _ in range(10):
                number = await work(number)
            return number

        @DBOS.workflow(name="W3")
        async def fan_out(count: int) -> int:
            return sum(await asyncio.gather(*[work(number) for number in range(count)]))

        @DBOS.workflow(name="W5")
        async def wait(number: int) -> Any:
            return await DBOS.recv_async("go", timeout_seconds=600)

        @DBOS.workflow(name="W7")
        async def sleeper(number: int) -> float:
            wanted = time.time() + 1
            await DBOS.sleep_async(1)
            self.woke.append(time.time() - wanted)
            return await note(wanted)

        self.one_step, self.wait, self.sleeper = one_step, wait, sleeper

    def _threads(self) -> None:
        DBOS = self.dbos  # noqa: N806

        @DBOS.step()
        def work(number: int) -> int:
            self.steps_run += 1
            return number + 1

        @DBOS.step()
        def note(wanted: float) -> float:
            return self._note(wanted)

        @DBOS.workflow(name="W1")
        def one_step(number: int) -> int:
            return work(number)

        @DBOS.workflow(name="W2")
        def ten_steps(number: int) -> int:
            for _ in range(10):
                number = work(number)
            return number

        @DBOS.workflow(name="W5")
        def wait(number: int) -> Any:
            return DBOS.recv("go", timeout_seconds=600)

        @DBOS.workflow(name="W7")
        def sleeper(number: int) -> float:
            wanted = time.time() + 1
            DBOS.sleep(1)
            self.woke.append(time.time() - wanted)
            return note(wanted)

        self.one_step, self.wait, self.sleeper = one_step, wait, sleeper

    def _note(self, wanted: float) -> float:
        self.late.append(time.time() - wanted)
        self.steps_run += 1
        return self.late[-1]

    def go(self) -> None:
        self.queue.set_worker_concurrency(self.concurrency)

    def enqueue(self, workload: str, count: int) -> float:
        assert workload == "W7"

        begin = time.perf_counter()
        for number in range(count):
            self.dbos.start_workflow(self.sleeper, number)
        return time.perf_counter() - begin

    def round_trips(self, count: int) -> dict[str, float]:
        took = []
        for number in range(count):
            begin = time.perf_counter()
            assert self.dbos.start_workflow(self.one_step, number).get_result() == number + 1
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    def signal_trips(self, count: int, straight: bool) -> dict[str, float]:
        handles = []
        if straight:
            handles = [self.dbos.start_workflow(self.wait, number) for number in range(count)]
            time.sleep(WAITED)
        took = []
        for number in range(count):
            if straight:
                handle = handles[number]
            else:
                handle = self.dbos.start_workflow(self.wait, number)
                time.sleep(SETTLE)
            begin = time.perf_counter()
            self.dbos.send(handle.get_workflow_id(), number, "go")
            assert handle.get_result() == number
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    def stop(self) -> None:
        self.dbos.destroy(workflow_completion_timeout_sec=2)


class Client(Role):
    """A DBOSClient."""

    def setup(self, dsn: str, queue_poll: float = POLL, result_poll: float = POLL, **_worker_only: Any) -> None:
        from dbos import DBOSClient

        self.poll = result_poll
        self.client = DBOSClient(
            system_database_url=dsn,
            system_database_pool_size=ENQUEUERS + 2,
            system_database_polling_concurrency=0,
            application_name="bench",
        )

    def _start(self, workload: str, number: int) -> Any:
        options = {"queue_name": QUEUE, "workflow_name": workload, "app_version": VERSION}
        return self.client.enqueue(options, number)  # type: ignore[arg-type]

    def warm_up(self) -> None:
        self._start("W1", 1).get_result(polling_interval_sec=self.poll)

    def enqueue(self, workload: str, count: int) -> float:
        with ThreadPoolExecutor(ENQUEUERS) as pool:
            ready = threading.Barrier(ENQUEUERS)
            list(pool.map(lambda _: ready.wait(), range(ENQUEUERS)))
            begin = time.perf_counter()
            list(pool.map(lambda number: self._start(workload, number), range(count)))
            return time.perf_counter() - begin

    def fan_out(self, count: int) -> float:
        begin = time.perf_counter()
        result = self._start("W3", count).get_result(polling_interval_sec=self.poll)
        took = time.perf_counter() - begin
        assert result == count * (count + 1) // 2
        return took

    def round_trips(self, count: int) -> dict[str, float]:
        took = []
        for number in range(count):
            begin = time.perf_counter()
            assert self._start("W1", number).get_result(polling_interval_sec=self.poll) == number + 1
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    def signal_trips(self, count: int, straight: bool) -> dict[str, float]:
        assert not straight
        took = []
        for number in range(count):
            handle = self._start("W5", number)
            time.sleep(SETTLE)
            begin = time.perf_counter()
            self.client.send(handle.get_workflow_id(), number, "go")
            assert handle.get_result(polling_interval_sec=self.poll) == number
            took.append(time.perf_counter() - begin)
        return percentiles(took)

    def stop(self) -> None:
        self.client.destroy()
