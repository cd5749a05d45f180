"""Runs activities: async ones on the loop, sync ones in threads, both with their timeouts.

An execution ends with one call of ``done(execution, kind, payload, error)`` on the loop's thread:
kind 2 completed, 3 failed. What that means (retry, journal, report) is the turn loop's business.

A task of asyncio's costs 5 µs, a fifth of a step, and many activities never wait for anything. So async
ones are run by *runners*: a runner is a task that goes on with the next activity if the one before did
not suspend and left no context variable behind; else it ends with it. An activity that waits for
anything thus has a task of its own, and none sees what another left.
"""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from types import CoroutineType
from typing import Any

from . import activity, payloads
from .errors import ApplicationError, TimeoutError
from .interrupts import is_ctrl_c
from .replay import ACTIVITY_COMPLETED, ACTIVITY_FAILED

BURST = 200  # activities that one runner goes through before others on the loop have their turn

Done = Callable[["Execution", int, bytes, BaseException | None], None]


class Execution:
    """One attempt of one activity."""

    __slots__ = (
        "attempt",
        "begun",
        "beat_due",
        "beat_sent",
        "command",
        "_context",
        "definition",
        "details",
        "describe",
        "finished",
        "has_row",
        "input",
        "name",
        "options",
        "run",
        "run_id",
        "task",
        "tasked",
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
        describe: Callable[[Execution], activity.Context],
        run: Any,
    ) -> None:
        self.run_id = run_id
        self.command = command
        self.attempt = attempt
        self.name = name
        self.input = input
        self.options = options  # an ActivityCall: timeouts and retry policy
        self.definition = definition
        self.run = run  # the held run, or None for a task of another's run
        self.tasked = False  # a row in activity_task is its licence
        self.has_row = False  # and that row is known to be there
        self.begun = 0.0  # monotonic: when it began to wait for something
        self.beat_due = False  # a heartbeat that has not been sent
        self.beat_sent = 0.0  # monotonic
        self.details: bytes | None = None
        self.describe = describe
        self._context: activity.Context | None = None
        self.task: asyncio.Task[None] | None = None
        self.finished = False

    @property
    def context(self) -> activity.Context:
        """What the activity may ask about itself; most never do."""
        if self._context is None:
            self._context = self.describe(self)
            self._context.is_cancelled = self.finished
        return self._context

    def cancel(self, reason: str, *, wanted: bool = False) -> None:
        """An async one is cancelled, a thread is told. Nobody wants it any more, unless what it ends with is wanted."""
        self.finished = not wanted
        if wanted or self._context is not None:
            self.context.is_cancelled = True
        if self.task is not None and self.definition.is_async:
            self.task.cancel(reason)


class Executor:
    """Places for activities, and a queue before them."""

    def __init__(self, slots: int, done: Done) -> None:
        self._slots = slots
        self._done = done
        self._pool: ThreadPoolExecutor | None = None
        self._loop = asyncio.get_running_loop()
        self.running: set[Execution] = set()  # they have begun, and wait for something
        self.queue: deque[Execution] = deque()
        self._placed: deque[Execution] = deque()  # have a place, wait for a runner
        self._runners: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._summoned = False
        self._closed = False
        self.last_release = time.monotonic()
        self._spilled_at = float("-inf")

    @property
    def free(self) -> int:
        return max(0, self._slots - len(self.running) - len(self._placed) - len(self.queue))

    @property
    def is_busy(self) -> bool:
        """Something runs or waits for a place."""
        return bool(self.running or self._placed or self.queue)

    @property
    def is_stuck(self) -> bool:
        """All places are taken by activities that run for longer than 20 ms."""
        return len(self.running) >= self._slots and time.monotonic() - self.last_release >= 0.02

    @property
    def is_slow(self) -> bool:
        """What it was given had to be shared within the last second: no use in asking for more than has a place."""
        return self.is_stuck or time.monotonic() - self._spilled_at < 1.0

    def submit(self, execution: Execution) -> None:
        if self.queue or len(self.running) + len(self._placed) >= self._slots:
            self.queue.append(execution)
            return
        self._placed.append(execution)
        if not self._summoned:
            self._summon()

    def spill(self) -> list[Execution]:
        """Queued executions that should be shared: all places are taken by slow ones.

        Quick ones turn their places over in much less than 20 ms; a queue before those is faster
        than a row in a table.
        """
        if not self.queue or not self.is_stuck:
            return []
        self._spilled_at = time.monotonic()
        spilled = [e for e in self.queue if not e.tasked]
        self.queue = deque(e for e in self.queue if e.tasked)
        return spilled

    def _summon(self) -> None:
        """Has a runner look at what is placed."""
        self._summoned = True
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return
        task = self._loop.create_task(self._runner(), name="hotmesh-activity")
        self._runners.add(task)
        task.add_done_callback(self._runners.discard)

    async def _runner(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        clean = contextvars.copy_context()
        placed = self._placed
        while not self._closed:
            self._summoned = False
            for _ in range(BURST):
                if not placed:
                    break
                execution = placed.popleft()
                if placed and not self._summoned:
                    self._summon()  # for the others, should this one wait for something
                rest = None if execution.finished else self._begin(execution)
                if rest is not None:
                    execution.task = task
                    execution.begun = time.monotonic()
                    self.running.add(execution)
                    try:
                        await rest
                    except GeneratorExit:
                        # It came with a future, and has closed the attempt, which has failed with it.
                        if not self._loop.is_running():
                            raise
                    execution.task = None
                    self.running.discard(execution)
                    self.last_release = time.monotonic()
                if self.queue:
                    self._fill()
                if rest is not None or not _same(clean):
                    if placed and not self._summoned:
                        self._summon()
                    return
            if placed:
                await asyncio.sleep(0)  # the loop has others to look after
                continue
            waiter = self._loop.create_future()
            self._idle.append(waiter)
            await waiter

    def _begin(self, execution: Execution) -> Coroutine[Any, Any, None] | None:
        """An attempt, from its arguments until it ends or asks to wait for something: then it returns the rest of it."""
        token = activity.enter(execution)
        try:
            args = payloads.decode(execution.input)
            definition = execution.definition
            if definition.convert is not None:
                args = definition.convert(args)
            limit = execution.options.start_to_close
            if not definition.is_async:
                work = self._in_thread(execution, args, limit)
            else:
                work = definition.fn(*args)
                if type(work) is not CoroutineType:  # a decorator's awaitable
                    work = _awaited(work)
                if limit is not None:
                    work = _limited(work, limit)
            asked = work.send(None)
        except StopIteration as end:
            self._returned(execution, end.value)
        except BaseException as error:
            self._failed(execution, error)
        else:
            return self._wait(execution, _rest(work, asked))
        finally:
            activity.leave(token)
        return None

    async def _wait(self, execution: Execution, rest: Awaitable[Any]) -> None:
        """The rest of an attempt."""
        token = activity.enter(execution)
        try:
            value = await rest
        except BaseException as error:
            self._failed(execution, error)
        else:
            self._returned(execution, value)
        finally:
            activity.leave(token)

    def _returned(self, execution: Execution, value: Any) -> None:
        try:
            payload = payloads.encode(value)
        except BaseException as error:
            self._failed(execution, error)
        else:
            if not execution.finished:  # else nobody wants it any more
                execution.finished = True
                self._done(execution, ACTIVITY_COMPLETED, payload, None)

    def _failed(self, execution: Execution, error: BaseException) -> None:
        """Whatever an activity raises is its failure, SystemExit and KeyboardInterrupt among it: else it would end
        the worker and, as the next one would run it again, one worker after the other."""
        if is_ctrl_c(error) or (isinstance(error, GeneratorExit) and not self._loop.is_running()):
            raise error  # not the activity's: the process is to end, or the loop has ended before the activity
        if isinstance(error, asyncio.CancelledError):
            error = ApplicationError(str(error) or "the activity was cancelled", type="CancelledError")
        if not execution.finished:
            execution.finished = True
            self._done(execution, ACTIVITY_FAILED, payloads.encode_failure(error), error)

    async def _in_thread(self, execution: Execution, args: list[Any], limit: float | None) -> Any:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._slots, thread_name_prefix="hotmesh-activity")
        context = contextvars.copy_context()
        future = self._loop.run_in_executor(self._pool, lambda: context.run(_call, execution.definition.fn, args))
        if limit is None:
            return await future
        # A thread cannot be stopped: it is told (activity.cancelled()) and what it returns is ignored.
        done, _ = await asyncio.wait([future], timeout=limit)
        if not done:
            execution.context.is_cancelled = True
            raise TimeoutError(f"start_to_close_timeout of {limit:g} s has passed", kind="start_to_close")
        return future.result()

    def _fill(self) -> None:
        """Free places go to those who wait."""
        while self.queue and len(self.running) + len(self._placed) < self._slots:
            waiting = self.queue.popleft()
            if not waiting.finished:
                self._placed.append(waiting)
        if self._placed and not self._summoned:
            self._summon()

    def close(self) -> None:
        """Cancels what runs; nothing is reported any more."""
        self._closed = True
        self.queue.clear()
        self._placed.clear()
        for execution in list(self.running):
            execution.cancel("the worker stops")
        for waiter in self._idle:
            waiter.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _call(fn: Callable[..., Any], args: list[Any]) -> Any:
    """A sync function. What a future cannot hold (StopIteration: it would never be done) or what means more than a
    failure to a loop (GeneratorExit, KeyboardInterrupt, ...) goes there by its name alone."""
    try:
        return fn(*args)
    except StopIteration as error:
        odd: BaseException = error
    except Exception:
        raise
    except BaseException as error:
        odd = error
    raise ApplicationError(str(odd), type=type(odd).__name__) from odd


def _same(clean: contextvars.Context) -> bool:
    """Whether the current context is as it was."""
    try:
        return contextvars.copy_context() == clean
    except Exception:  # a value that cannot be compared has been put there
        return False


@types.coroutine
def _rest(work: Coroutine[Any, Any, Any], asked: Any) -> Generator[Any, Any, Any]:
    """Goes on with a coroutine that has asked to wait for something."""
    while True:
        try:
            yield asked
        except BaseException as error:
            try:
                asked = work.throw(error)
            except StopIteration as end:
                return end.value
        else:
            return (yield from work)


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _limited(work: Coroutine[Any, Any, Any], limit: float) -> Any:
    """A timer costs more than most steps do, so there is none before it has asked to wait for something."""
    try:
        asked = work.send(None)
    except StopIteration as end:
        return end.value
    timer = asyncio.timeout(limit)
    try:
        async with timer:
            return await _rest(work, asked)
    except builtins.TimeoutError as error:
        if not timer.expired():
            raise
        raise TimeoutError(f"start_to_close_timeout of {limit:g} s has passed", kind="start_to_close") from error
