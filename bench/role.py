"""A process that plays one part of a measurement: an engine's worker, or its client.

Run as `python -m bench.role package.module:Class`. It takes calls as JSON lines
`{"method": ..., "args": {...}}` on standard input and answers each with one line, `{"value": ...}`
or `{"error": ...}`. When its input ends, because the harness closed it or died, it is gone at once:
nothing outlives a measurement.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any


class Role:
    """Base of all parts. Public methods, plain or async, can be called by the harness."""

    asynchronous = False

    def __init__(self) -> None:
        self.steps_run = 0
        self.woke: list[float] = []
        self.late: list[float] = []

    def reset(self) -> None:
        """Forget what has run so far."""
        self.steps_run = 0
        self.woke = []
        self.late = []

    def lateness(self) -> tuple[list[float], list[float]]:
        """Seconds after the wanted time at which the code of each sleeper went on, and at which its next step began."""
        return self.woke, self.late

    def wait_steps(self, count: int, timeout: float) -> int:
        """Wait until `count` steps have run in this process; returns how many have."""
        deadline = time.perf_counter() + timeout
        while self.steps_run < count and time.perf_counter() < deadline:
            time.sleep(0.001)
        return self.steps_run


class AsyncRole(Role):
    """A part whose methods run on an event loop (uvloop if it is installed)."""

    asynchronous = True

    async def wait_steps(self, count: int, timeout: float) -> int:  # type: ignore[override]
        deadline = time.perf_counter() + timeout
        while self.steps_run < count and time.perf_counter() < deadline:
            await asyncio.sleep(0.001)
        return self.steps_run


SETTLE = 0.1  # seconds that a workflow gets to come to its wait
WAITED = 3.0  # seconds that all have waited before the first signal of a row without pauses
STRAIGHT = "no pauses"


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the greatest of some durations, in milliseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return {"p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "max_ms": round(1000 * ordered[-1], 3)}


def _read(put: Callable[[str | None], Any]) -> None:
    for line in sys.stdin:
        put(line)
    os._exit(0)


def _answer(out: Any, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()


def _failed(error: BaseException) -> dict[str, Any]:
    traceback.print_exc()
    return {"error": f"{type(error).__name__}: {error}"}


def _serve(role: Role, out: Any) -> None:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(lines.put,), daemon=True).start()
    while (line := lines.get()) is not None:
        call = json.loads(line)
        try:
            answer = {"value": getattr(role, call["method"])(**call["args"])}
        except BaseException as error:
            answer = _failed(error)
        _answer(out, answer)


async def _serve_async(make: Callable[[], Role], out: Any) -> None:
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    put = lines.put_nowait
    threading.Thread(target=_read, args=(lambda line: loop.call_soon_threadsafe(put, line),), daemon=True).start()
    role = make()
    while (line := await lines.get()) is not None:
        call = json.loads(line)
        try:
            value = getattr(role, call["method"])(**call["args"])
            answer = {"value": await value if inspect.isawaitable(value) else value}
        except BaseException as error:
            answer = _failed(error)
        _answer(out, answer)


def main() -> None:
    """Serve the class named on the command line until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    module, _, name = sys.argv[1].partition(":")
    cls = getattr(importlib.import_module(module), name)
    if not cls.asynchronous:
        _serve(cls(), out)
        return
    with runner() as loop:
        loop.run(_serve_async(cls, out))


def runner() -> asyncio.Runner:
    """For programs on an event loop: uvloop's, if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    main()
