"""Processes, sessions and the workloads, the same for every engine.

A *session* is one measurement: a fresh database (a copy of the engine's empty one), one worker
process and one client process. Every duration is taken by one process with `time.perf_counter`;
which one is said at each workload.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil
import psycopg

from bench.engine import Engine
from bench.role import percentiles
from bench.server import Counters, Server

ROOT = Path(__file__).resolve().parent.parent


class MeasurementFailed(Exception):
    """A measurement could not be made; the message says why."""


class Part:
    """A process of `bench.role`."""

    def __init__(self, target: str, log: TextIO) -> None:
        self.target = target
        self._log = log
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.role", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )
        self._ps = psutil.Process(self._process.pid)

    def send(self, method: str, **args: Any) -> None:
        """Call without waiting; `receive` returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"method": method, "args": args}).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self, timeout: float) -> Any:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise MeasurementFailed(f"{self.target} did not answer within {timeout:g} s")
            data = os.read(pipe, 1 << 16)
            if not data:
                raise MeasurementFailed(f"{self.target} ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise MeasurementFailed(f"{self.target}: {answer['error']}")
        return answer["value"]

    def call(self, method: str, *, within: float = 60, **args: Any) -> Any:
        """Call a method and wait for its value, at most `within` seconds."""
        self.send(method, **args)
        return self.receive(within)

    def stop(self) -> None:
        """Ask for a clean end; one that fails or takes too long is noted in the log, nothing more."""
        try:
            self.call("stop", within=15)
        except MeasurementFailed as error:
            self._log.write(f"stop: {error}\n")
            self._log.flush()

    def cpu(self) -> float:
        """CPU seconds of the process and its children so far."""
        times = self._ps.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in self._ps.children(recursive=True):
            with suppress(psutil.Error):
                total += sum(child.cpu_times()[:2])
        return float(total)

    def end(self) -> None:
        """Close the input, which ends the process, and kill it and its group if it stays."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass
class Session:
    """One measurement in a fresh database."""

    server: Server
    engine: Engine
    database: str
    worker: Part
    client: Part
    values: dict[str, float] = field(default_factory=dict)
    _before: Counters | None = None
    _cpu: float = 0.0
    _watch: psycopg.Connection[Any] | None = None
    _watched: int = 0

    def begin(self) -> None:
        """Start counting commits, WAL, statements and the worker's CPU."""
        self._watch = psycopg.connect(self.server.dsn(self.database), autocommit=True)
        with suppress(psycopg.Error):
            self._watch.execute("set pg_stat_statements.track = 'none'")
        self._watched = 1
        time.sleep(0.2)
        self._before = self.server.counters(self.database)
        self._cpu = self.worker.cpu()

    def analyze(self) -> None:
        """Give the server the statistics that autovacuum would have made of a queue that has stood for a
        minute. They count in WAL, not in commits."""
        assert self._watch is not None
        self._watched += 1
        self._watch.execute("analyze")

    def wait_closed(self, within: float) -> None:
        """Wait until no run is open."""
        assert self._watch is not None
        deadline = time.monotonic() + within
        while True:
            self._watched += 1
            row = self._watch.execute(self.engine.open_runs).fetchone()
            if row is not None and row[0] == 0:
                return
            if time.monotonic() > deadline:
                raise MeasurementFailed(f"{self.engine.name}: runs still open after {within:g} s: {row}")
            time.sleep(0.002)

    def finish(self, workflows: int) -> None:
        """Stop both parts; add the counts per workflow to the values."""
        assert self._before is not None
        assert self._watch is not None
        cpu = self.worker.cpu() - self._cpu
        self.client.stop()
        self.worker.stop()
        self.client.end()
        self.worker.end()
        self._watch.close()
        deadline = time.monotonic() + 10
        while self.server.clients(self.database) and time.monotonic() < deadline:
            time.sleep(0.05)
        did = self.server.counters(self.database).since(self._before)
        did["commits"] -= self._watched
        self.values["worker_cpu_ms_per_workflow"] = round(1000 * cpu / workflows, 3)
        for name in ("commits", "wal_bytes", "statements"):
            if name in did:
                self.values[f"{name}_per_workflow"] = round(did[name] / workflows, 3)
        if did["deadlocks"]:
            self.values["deadlocks"] = did["deadlocks"]


class Bench:
    """Runs workloads of engines on one server."""

    def __init__(self, server: Server, log: TextIO) -> None:
        self.server = server
        self.log = log
        self._ready: set[str] = set()

    def prepare(self, engine: Engine) -> None:
        """Make the engine's empty database, from which each measurement copies."""
        if engine.name not in self._ready:
            dsn = self.server.create(f"{engine.name}_empty")
            engine.prepare(dsn, self.server.programs)
            self._ready.add(engine.name)

    @contextmanager
    def session(self, engine: Engine, workload: str, variant: dict[str, Any]) -> Iterator[Session]:
        """A fresh database with a worker (not yet working) and a client, both connected."""
        self.prepare(engine)
        database = f"{engine.name}_bench"
        dsn = self.server.create(database, f"{engine.name}_empty")
        worker = Part(f"{engine.parts(workload)}:Worker", self.log)
        client = Part(f"{engine.parts(workload)}:Client", self.log)
        try:
            options = variant.get("options", {})
            worker.send("setup", dsn=dsn, workload=workload, **options)
            client.send("setup", dsn=dsn, **options)
            worker.receive(60)
            client.receive(60)
            yield Session(self.server, engine, database, worker, client)
        finally:
            worker.end()
            client.end()
            self.server.drop(database)

    # ------------------------------------------------------------------------------ workloads --

    def drain(self, engine: Engine, variant: dict[str, Any], count: int, workload: str) -> dict[str, float]:
        """W1, W2, W6: enqueue all, then let one worker process work. The harness's clock runs from the
        moment in which the waiting worker is told to work until SQL shows no open run. Commits, WAL
        and statements include the enqueueing. In W6 the tables are analyzed in between."""
        steps = 10 if workload == "W2" else 1
        within = 600 if workload == "W6" else 180
        with self.session(engine, workload, variant) as session:
            session.begin()
            seconds = session.client.call("enqueue", workload=workload, count=count, within=120)
            if workload == "W6":
                session.analyze()
            cpu = session.worker.cpu()
            begin = time.perf_counter()
            session.worker.call("go")
            ran = session.worker.call("wait_steps", count=count * steps, timeout=within, within=within + 10)
            if ran < count * steps:
                raise MeasurementFailed(f"{engine.name}: {ran} of {count * steps} steps ran")
            session.wait_closed(60)
            took = time.perf_counter() - begin
            cpu = session.worker.cpu() - cpu
            session.finish(count)
            if workload == "W6":
                session.values.update(calls_per_s=round(count / took, 1))
            else:
                session.values.update(
                    workflows_per_s=round(count / took, 1),
                    steps_per_s=round(count * steps / took, 1),
                )
            session.values.update(
                seconds=round(took, 4),
                enqueued_per_s=round(count / seconds, 1),
                worker_cpu_ms_per_workflow=round(1000 * cpu / count, 3),
            )
            return session.values

    def fan_out(self, engine: Engine, variant: dict[str, Any], count: int) -> dict[str, float]:
        """W3: one workflow of many parallel steps on an idle worker. The client's clock runs from
        before the start until it has the result."""
        with self._working(engine, "W3", variant) as session:
            took = session.client.call("fan_out", count=count, within=120)
            session.finish(1)
            session.values.update(seconds=round(took, 4), steps_per_s=round(count / took, 1))
            return session.values

    def round_trips(self, engine: Engine, variant: dict[str, Any], count: int) -> dict[str, float]:
        """W4: start → result of a one-step workflow on an idle worker, one after another. The clock
        is the client's; the worker's own only where the variant says `inside`."""
        count = max(5, int(count * variant.get("share", 1)))
        with self._working(engine, "W4", variant) as session:
            part = session.worker if variant.get("inside") else session.client
            found = part.call("round_trips", count=count, within=30 + 3 * count)
            session.finish(count)
            session.values.update(found)
            return session.values

    def signal_trips(self, engine: Engine, variant: dict[str, Any], count: int) -> dict[str, float]:
        """W5: signal → result of a workflow that waits for it, one after another: start, give it the
        time to wait, signal (here the clock begins), result. With `straight` all are started first and
        wait, so that there is no pause between the trips."""
        count = max(5, int(count * variant.get("share", 1)))
        with self._working(engine, "W5", variant) as session:
            part = session.worker if variant.get("inside") else session.client
            straight = bool(variant.get("straight"))
            found = part.call("signal_trips", count=count, straight=straight, within=60 + 3 * count)
            session.finish(count)
            session.values.update(found)
            return session.values

    def calls(self, engine: Engine, variant: dict[str, Any], count: int) -> dict[str, float]:
        """W6: drains calls as W1 does workflows. With `trips`: call → result on an idle worker, one after
        another, by the client's clock."""
        if not variant.get("trips"):
            return self.drain(engine, variant, count, "W6")
        count = max(5, int(count * variant.get("share", 1)))
        with self._working(engine, "W6", variant) as session:
            found = session.client.call("round_trips", count=count, within=30 + 3 * count)
            session.finish(count)
            session.values.update(found)
            return session.values

    def sleepers(self, engine: Engine, variant: dict[str, Any], count: int) -> dict[str, float]:
        """W7: workflows that sleep for 1 s, started on a working worker. Each notes after its
        sleep, and again in a step, how late it is: the wall clock less the wanted time."""
        with self._working(engine, "W7", variant) as session:
            part = session.worker if variant.get("inside") else session.client
            part.call("enqueue", workload="W7", count=count, within=120, **variant.get("enqueue", {}))
            ran = session.worker.call("wait_steps", count=count, timeout=120, within=130)
            if ran < count:
                raise MeasurementFailed(f"{engine.name}: {ran} of {count} sleepers woke")
            session.wait_closed(60)
            woke, late = session.worker.call("lateness")
            session.finish(count)
            session.values.update({f"late_{name}": value for name, value in percentiles(woke).items()})
            session.values.update({f"step_{name}": value for name, value in percentiles(late).items()})
            return session.values

    def start_many(self, engine: Engine, variant: dict[str, Any], count: int) -> dict[str, float]:
        """The rate of the client's bulk start, with no worker at work."""
        with self.session(engine, "W1", variant) as session:
            session.begin()
            session.client.call("enqueue", workload="W1", count=min(count, 1000), within=60)
            seconds = session.client.call("enqueue", workload="W1", count=count, within=120)
            session.finish(count + min(count, 1000))
            session.values.update(started_per_s=round(count / seconds, 1))
            return session.values

    def full_load(self, engine: Engine, variant: dict[str, Any], count: int) -> dict[str, float]:
        """W1 with starts and work at the same time. The harness's clock runs from the first start
        until SQL shows no open run; counts include the starts."""
        with self._working(engine, "W1", variant) as session:
            begin = time.perf_counter()
            session.client.call("enqueue", workload="W1", count=count, within=300)
            session.worker.call("wait_steps", count=count, timeout=300, within=310)
            session.wait_closed(60)
            took = time.perf_counter() - begin
            session.finish(count)
            session.values.update(seconds=round(took, 4), workflows_per_s=round(count / took, 1))
            return session.values

    @contextmanager
    def _working(self, engine: Engine, workload: str, variant: dict[str, Any]) -> Iterator[Session]:
        """A session whose worker works already and has run one workflow, counters started."""
        with self.session(engine, workload, variant) as session:
            session.worker.call("go")
            session.client.call("warm_up", within=30)
            session.worker.call("reset")
            session.begin()
            yield session
