"""Runs activities: async ones on the loop, sync ones in threads, both with their timeouts.

An execution ends with one call of ``done(execution, kind, payload, error)`` on the loop's thread:
kind 2 completed, 3 failed. What that means (retry, journal, report) is the turn loop's business.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import activity, payloads
from .errors import ApplicationError, TimeoutError
from .replay import ACTIVITY_COMPLETED, ACTIVITY_FAILED

Done = Callable[["Execution", int, bytes, BaseException | None], None]


class Execution:
    """One attempt of one activity."""

    __slots__ = (
        "attempt",
        "begun",
        "beat_due",
        "command",
        "context",
        "definition",
        "details",
        "finished",
        "input",
        "name",
        "options",
        "run",
        "run_id",
        "task",
        "tasked",
        "thread",
    )

    def __init__(
        self,
        run_id: int,
        command: int,
        attempt: int,
        name: str,
        input: bytes,
        options: Any,
        definition: Any,
        *,
        run: Any = None,
        tasked: bool = False,
    ) -> None:
        self.run_id = run_id
        self.command = command
        self.attempt = attempt
        self.name = name
        self.input = input
        self.options = options  # an ActivityCall: timeouts and retry policy
        self.definition = definition
        self.run = run  # the held run, or None for a task of another's run
        self.tasked = tasked  # a row in activity_task is its licence
        self.begun = 0.0  # monotonic; 0: queued
        self.beat_due = False
        self.details: bytes | None = None
        self.context: activity.Context | None = None
        self.task: asyncio.Task[None] | None = None
        self.thread: asyncio.Future[Any] | None = None
        self.finished = False


class Executor:
    """Places for activities, and a queue before them."""

    def __init__(self, slots: int, done: Done) -> None:
        self._slots = slots
        self._done = done
        self._pool: ThreadPoolExecutor | None = None
        self._loop = asyncio.get_running_loop()
        self.running: set[Execution] = set()
        self.queue: deque[Execution] = deque()
        self.last_release = time.monotonic()

    @property
    def free(self) -> int:
        return max(0, self._slots - len(self.running) - len(self.queue))

    def submit(self, execution: Execution) -> None:
        if len(self.running) < self._slots and not self.queue:
            self._begin(execution)
        else:
            self.queue.append(execution)

    def spill(self) -> list[Execution]:
        """Queued executions that should be shared: all places are taken by slow ones.

        Quick ones turn their places over in much less than 20 ms; a queue before those is faster
        than a row in a table.
        """
        if not self.queue or len(self.running) < self._slots or time.monotonic() - self.last_release < 0.02:
            return []
        spilled = [e for e in self.queue if not e.tasked]
        self.queue = deque(e for e in self.queue if e.tasked)
        return spilled

    def _begin(self, execution: Execution) -> None:
        self.running.add(execution)
        execution.begun = time.monotonic()
        execution.task = self._loop.create_task(self._run(execution))

    async def _run(self, execution: Execution) -> None:
        error: BaseException | None = None
        try:
            args = payloads.decode(execution.input)
            context = execution.context
            activity.enter(context)
            limit = execution.options.start_to_close
            if execution.definition.is_async:
                if limit is None:
                    value = await execution.definition.fn(*args)
                else:
                    value = await self._limited(execution.definition.fn(*args), limit)
            else:
                value = await self._in_thread(execution, args, limit)
            kind, payload = ACTIVITY_COMPLETED, payloads.encode(value)
        except asyncio.CancelledError as cancelled:
            if execution.finished:
                return
            error = ApplicationError(str(cancelled) or "the activity was cancelled", type="CancelledError")
            kind, payload = ACTIVITY_FAILED, payloads.encode_failure(error)
        except Exception as caught:
            error = caught
            kind, payload = ACTIVITY_FAILED, payloads.encode_failure(caught)
        self._end(execution, kind, payload, error)

    async def _limited(self, work: Any, limit: float) -> Any:
        try:
            return await asyncio.wait_for(work, limit)
        except asyncio.TimeoutError as error:
            raise TimeoutError(f"start_to_close_timeout of {limit:g} s has passed", kind="start_to_close") from error

    async def _in_thread(self, execution: Execution, args: list[Any], limit: float | None) -> Any:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._slots, thread_name_prefix="hotmesh-activity")
        context = contextvars.copy_context()
        future = self._loop.run_in_executor(self._pool, lambda: context.run(execution.definition.fn, *args))
        if limit is None:
            return await future
        # A thread cannot be stopped: it is told (activity.cancelled()) and what it returns is ignored.
        done, _ = await asyncio.wait([future], timeout=limit)
        if not done:
            if execution.context is not None:
                execution.context.is_cancelled = True
            raise TimeoutError(f"start_to_close_timeout of {limit:g} s has passed", kind="start_to_close")
        return future.result()

    def _end(self, execution: Execution, kind: int, payload: bytes, error: BaseException | None) -> None:
        self.running.discard(execution)
        self.last_release = time.monotonic()
        if not execution.finished:
            execution.finished = True
            self._done(execution, kind, payload, error)
        while self.queue and len(self.running) < self._slots:
            waiting = self.queue.popleft()
            if not waiting.finished:
                self._begin(waiting)

    def abandon(self, execution: Execution, reason: str) -> None:
        """Nobody wants its result any more: it is cancelled (a thread: told) and never reported."""
        execution.finished = True
        if execution.context is not None:
            execution.context.is_cancelled = True
        if execution.task is not None and execution.definition.is_async:
            execution.task.cancel(reason)

    def close(self) -> None:
        for execution in list(self.running):
            self.abandon(execution, "the worker stops")
        self.queue.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
