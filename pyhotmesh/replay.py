"""A run's live coroutine: events in, commands out. Knows no database.

    deliver(event) ── resolve one future or fire one timer ──► run until nothing is ready
                                                              ──► conditions, until they settle
                                                              ──► issued, ended, outcome

One journal row is delivered per drain, live and in replay alike, so that code which looks at two
results at once looks at the same two at once again. Commands are numbered when they are issued.
Each row lists the commands issued since the row before it; a replay compares every one of them and
stops before any new effect if the code asks for something else.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from . import payloads
from .errors import ActivityError, HotMeshError, NonDeterminismError, PayloadError, RecordError, TimeoutError
from .interrupts import is_ctrl_c
from .loop import DurableFuture, TimerHandle, WorkflowLoop, WorkflowTask
from .retry import RetryPolicy

# Event kinds: the journal's rows (see sql/tables.sql).
STARTED = 1
ACTIVITY_COMPLETED = 2
ACTIVITY_FAILED = 3
TIMER_FIRED = 4
SIGNAL_RECEIVED = 5
COMMANDS = 6
LEASE_LOST = 7
CANCEL_REQUESTED = 8
RECORD_ANSWERED = 20
RECORD_REFUSED = 21

# How a run closes.
COMPLETED = 1
FAILED = 2
CANCELLED = 3


class Row(NamedTuple):
    """A journal row. ``at``: microseconds since the Unix epoch; payloads: JSON."""

    seq: int
    kind: int
    command: int | None
    at: int
    payload: bytes | None
    commands: bytes | None


class Info(NamedTuple):
    """What a workflow may know of itself. ``created_at``: microseconds since the Unix epoch."""

    workflow_id: str
    run_id: int
    workflow_type: str
    task_queue: str
    namespace: str
    created_at: int


class Definition(NamedTuple):
    """A registered workflow: its name, and what makes the coroutine."""

    name: str
    fn: Callable[..., Any]


class ActivityOptions(NamedTuple):
    """How an activity is to be run. Timeouts in seconds."""

    task_queue: str | None
    start_to_close: float | None
    schedule_to_close: float | None
    heartbeat_timeout: float | None
    retry: RetryPolicy


class ActivityCall(NamedTuple):
    """An activity as workflow code asked for it."""

    name: str
    input: bytes
    options: ActivityOptions


class Command:
    """Something that workflow code asked for: a activity, t timer, w wait for a signal, s signal sent,
    r something asked of its record."""

    __slots__ = ("digest", "future", "kind", "name", "number", "spec", "timer")

    def __init__(self, number: int, kind: str, name: str, digest: int, spec: Any, future: Any) -> None:
        self.number = number
        self.kind = kind
        self.name = name
        self.digest = digest
        self.spec = spec
        self.future = future
        self.timer: TimerHandle | None = None


class Instance:
    """One run's coroutine and what it waits for."""

    __slots__ = (
        "_cancel_reason", "_conditions", "_listed", "_loop", "_main", "_random", "_unlisted", "definition", "ended", "evicted",
        "info", "input", "issued", "next_number", "now", "outcome", "pending", "replaying", "timers",
    )  # fmt: skip

    def __init__(self, definition: Definition, info: Info, input: bytes) -> None:
        self.definition = definition
        self.info = info
        self.input = input
        self.now = 0  # of the row being delivered, µs
        self.issued: list[Command] = []  # since the worker last took them
        self.ended: list[int] = []  # commands that ended without an event, likewise
        self.pending: dict[int, Command] = {}
        self.outcome: tuple[int, bytes] | None = None
        self.replaying = False
        self.evicted = False
        self.next_number = 1
        self._unlisted: list[Command] = []
        self._listed: dict[int, int] = {}
        self.timers: list[tuple[int, int]] = []  # heap of (due µs, command); may hold some that have ended
        self._conditions: list[tuple[Callable[[], bool], asyncio.Future[Any]]] = []
        self._loop = WorkflowLoop(self)  # type: ignore[abstract]
        self._main: WorkflowTask | None = None
        self._random: random.Random | None = None
        self._cancel_reason: str | None = None  # it has been asked to end

    # ------------------------------------------------------------------------------ events in --

    def deliver(self, kind: int, command: int | None, at: int, payload: bytes | None) -> None:
        """One event, then everything that follows from it. An event for a command that has ended is
        only journaled."""
        if at > self.now:
            self.now = at
        if command is not None:
            found = self.pending.get(command)
            if found is None:
                if command >= self.next_number:
                    raise NonDeterminismError(
                        f"an event answers command {command}, but the code has issued only {self.next_number - 1}",
                        expected=command, found=self.next_number - 1,
                    )  # fmt: skip
                return
            self._resolve(found, kind, payload)
        elif kind == STARTED:
            self._begin()
        elif kind == CANCEL_REQUESTED and self._main is not None and self._cancel_reason is None:
            self._cancel_reason = str(payloads.decode(payload or b'"cancelled"'))
            self._main.cancel(self._cancel_reason)
        self._drain()

    def replay(self, row: Row) -> None:
        """A row of the journal: compares what the code has asked for, then delivers the event."""
        self.replaying = True
        try:
            if self.outcome is not None and row.kind != COMMANDS:  # the last row may list what the end asked for
                raise NonDeterminismError(
                    f"the code ended before row {row.seq} of its history, which says {_event(row)}",
                    expected=_event(row), found="the end",
                )  # fmt: skip
            expected = orjson.loads(row.commands) if row.commands is not None else []
            found = listed(self._unlisted)
            if expected != found:
                raise NonDeterminismError(
                    f"before row {row.seq} the history has {_show(expected, found)}, the code asks for {_show(found, expected)}",
                    expected=expected, found=found,
                )  # fmt: skip
            for command in self._unlisted:
                self._listed[command.number] = row.seq
            self._unlisted.clear()
            self.issued.clear()
            if row.kind == TIMER_FIRED and row.command in self.pending and self.pending[row.command].kind != "t":
                raise NonDeterminismError(f"row {row.seq} fires command {row.command}, which is not a timer now")
            self.deliver(row.kind, row.command, row.at, row.payload)
        finally:
            self.replaying = False

    def _begin(self) -> None:
        loop = self._loop
        args = payloads.decode(self.input)
        if not isinstance(args, list):
            raise PayloadError("$", f"the input must be an array of the arguments, this is {type(args).__name__}")
        try:
            coroutine = self.definition.fn(*args)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            self.outcome = FAILED, payloads.encode_failure(error)
            return
        self._main = loop.create_task(coroutine)

    def _resolve(self, command: Command, kind: int, payload: bytes | None) -> None:
        del self.pending[command.number]
        future = command.future
        if kind == TIMER_FIRED:
            handle: TimerHandle = future
            self._loop.call_soon(handle.callback, *handle.args, context=handle.context)
            return
        if command.timer is not None:
            command.timer.cancel()
        if future.done():
            return
        if kind == ACTIVITY_FAILED:
            cause = payloads.decode_failure(payload or b"{}")
            error = ActivityError(f"activity {command.name!r} failed: {cause}", cause=cause, activity=command.name)
            error.__cause__ = cause
            future.set_exception(error)
        elif kind == RECORD_REFUSED:
            future.set_exception(RecordError(str(payloads.decode_failure(payload or b"{}").args[0])))
        else:
            future.set_result(payloads.decode(payload) if payload is not None else None)

    def _drain(self) -> None:
        loop = self._loop
        loop.run_ready()
        while self._conditions:
            met = False
            for predicate, future in self._conditions:
                if future.done():
                    continue
                try:
                    if predicate():
                        future.set_result(None)
                        met = True
                except BaseException as error:  # it belongs to whoever waits for the condition
                    if is_ctrl_c(error):
                        raise
                    if isinstance(error, StopIteration):  # no future can hold one
                        error = RuntimeError("the condition raised StopIteration")
                    future.set_exception(error)
                    met = True
            self._conditions = [(p, f) for p, f in self._conditions if not f.done()]
            if not met:
                break
            loop.run_ready()
        main = self._main
        if main is not None and main.done() and self.outcome is None:
            self._finish(main)

    def _finish(self, main: WorkflowTask) -> None:
        if main.cancelled():
            self.outcome = CANCELLED, cancelled(self._cancel_reason or "by its own code")
            return
        error = main.exception()
        if error is not None:
            if isinstance(error, NonDeterminismError):
                raise error
            self.outcome = FAILED, payloads.encode_failure(error)
            return
        try:
            self.outcome = COMPLETED, payloads.encode(main.result())
        except HotMeshError as refused:
            self.outcome = FAILED, payloads.encode_failure(refused)

    # ---------------------------------------------------------------------------- commands out --

    def issue(self, kind: str, name: str, digest: int, spec: Any, future: Any) -> Command:
        """Numbers a command. Ignored once evicted: nobody carries it out."""
        number = self.next_number
        self.next_number = number + 1
        command = Command(number, kind, name, digest, spec, future)
        if not self.evicted:
            self.issued.append(command)
            self._unlisted.append(command)
            if future is not None:
                self.pending[number] = command
        return command

    def start_activity(self, call: ActivityCall) -> DurableFuture:
        """Asks for an activity."""
        future = DurableFuture(loop=self._loop)
        future._index = self.next_number
        self.issue("a", call.name, crc32(call.input), call, future)
        return future

    def start_timer(self, delay: int, handle: TimerHandle) -> Command:
        """A timer, ``delay`` µs from now."""
        handle.due = self.now + delay
        command = self.issue("t", "", delay, handle.due, handle)
        handle.number = command.number
        heapq.heappush(self.timers, (handle.due, command.number))
        return command

    def wait_for_signal(self, signal_id: str, timeout: float | None) -> DurableFuture:
        """Waits for a signal, at most ``timeout`` seconds."""
        future = DurableFuture(loop=self._loop)
        future._index = self.next_number
        command = self.issue("w", signal_id, 0, signal_id, future)
        if timeout is not None:
            message = f"no signal {signal_id!r} within {timeout:g} s"

            def expire() -> None:
                if not future.done():
                    command.timer = None
                    future.set_exception(TimeoutError(message, kind="wait_for"))
                    self.end(command.number)

            command.timer = TimerHandle(expire, (), None, self._loop)
            self.start_timer(max(1, round(timeout * 1_000_000)), command.timer)
        return future

    def sleep(self, seconds: float) -> DurableFuture | asyncio.Future[Any]:
        """A durable sleep; its result is the seconds slept."""
        future = self._loop.create_future()
        began = self.now

        def wake() -> None:
            if not future.done():
                future.set_result(max((self.now - began) / 1_000_000, 1e-6))

        self.start_timer(max(1, round(seconds * 1_000_000)), handle := TimerHandle(wake, (), None, self._loop))
        future.add_done_callback(lambda f: handle.cancel() if f.cancelled() else None)
        return future

    def send_signal(self, signal_id: str, payload: bytes) -> None:
        """A signal that the engine sends when this step is recorded."""
        self.issue("s", signal_id, crc32(payload), (signal_id, payload), None)

    def change_record(self, op: str, args: bytes) -> DurableFuture:
        """Something asked of the run's record; the engine does it when this step is recorded, and answers."""
        future = DurableFuture(loop=self._loop)
        future._index = self.next_number
        self.issue("r", op, crc32(args), (op, args), future)
        return future

    def wait_condition(self, predicate: Callable[[], bool]) -> asyncio.Future[Any]:
        """Resolved when the predicate is true; looked at after each event."""
        future = self._loop.create_future()
        self._conditions.append((predicate, future))
        self._loop.call_soon(lambda: None)
        return future

    def end(self, number: int) -> None:
        """A command that nobody waits for any more."""
        command = self.pending.pop(number, None)
        if command is not None:
            self.ended.append(number)
            if command.timer is not None:
                command.timer.cancel()

    # ----------------------------------------------------------------------- what a worker asks --

    def listing(self) -> bytes | None:
        """The commands issued since the row before, for the row that is being written."""
        if not self._unlisted:
            return None
        text = orjson.dumps(listed(self._unlisted))
        self._unlisted.clear()
        return text

    def listed_at(self, number: int) -> int:
        """The row that lists a command, as far as replay saw it; 0 if none."""
        return self._listed.get(number, 0)

    def next_due(self) -> tuple[int, int] | None:
        """The earliest timer: due (µs) and command."""
        timers = self.timers
        while timers:
            if timers[0][1] in self.pending:
                return timers[0]
            heapq.heappop(timers)
        return None

    def groups(self) -> dict[int, int]:
        """Collation groups of what is pending: command → group.

        A group is formed by futures whose only consumer is one ``gather`` or one ``wait``: the run
        need not wake before all of them have arrived (or, positive numbers, one has failed). What
        consumes a future is read off its callbacks; anything that is not recognised stands alone,
        which at worst wakes a run for nothing.
        """
        found: dict[int, list[int]] = {}
        sign: dict[int, int] = {}
        out: dict[int, int] = {}
        for number, command in self.pending.items():
            if command.kind in "tr":  # neither waits for a message: a record's answer comes with the turn that asks
                continue
            consumer = _consumer(command.future)
            if consumer is None:
                out[number] = number
            else:
                key, sign[key] = consumer
                found.setdefault(key, []).append(number)
        for key, numbers in found.items():
            for number in numbers:
                out[number] = sign[key] * numbers[0]
        return out

    def random(self) -> random.Random:
        """Random numbers that are the same on each replay."""
        if self._random is None:
            self._random = random.Random(f"{self.info.run_id}/{self.info.workflow_id}")
        return self._random

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.random().getrandbits(128), version=4)

    def evict(self) -> None:
        """Lets the coroutine go: ``finally`` blocks run, and what they ask for is ignored."""
        self.evicted = True
        self._loop.close_tasks()
        self.pending.clear()


def cancelled(reason: str) -> bytes:
    """The outcome of what was asked to end, and has."""
    return payloads.encode({"type": "WorkflowCancelled", "message": reason})


def listed(commands: list[Command]) -> list[list[Any]]:
    """Commands as a journal row lists them."""
    return [[c.number, c.kind, c.name, c.digest] for c in commands]


def _consumer(future: Any) -> tuple[int, int] | None:
    """The gather or wait that is a future's only consumer: its identity, and the sign of its groups."""
    callbacks = getattr(future, "_callbacks", None)
    if not callbacks or len(callbacks) != 1:
        return None
    callback = callbacks[0][0]
    name = getattr(callback, "__qualname__", "")
    if name not in ("gather.<locals>._done_callback", "_wait.<locals>._on_completion"):
        return None
    try:
        cells = dict(zip(callback.__code__.co_freevars, callback.__closure__, strict=True))
        if name.startswith("gather"):
            return id(callback), -1 if cells["return_exceptions"].cell_contents else 1
        policy = cells["return_when"].cell_contents
    except (AttributeError, KeyError, ValueError):
        return None
    if policy == asyncio.ALL_COMPLETED:
        return id(callback), -1
    return (id(callback), 1) if policy == asyncio.FIRST_EXCEPTION else None


def _event(row: Row) -> str:
    names = {STARTED: "started", ACTIVITY_COMPLETED: "an activity's result", ACTIVITY_FAILED: "an activity's failure",
             TIMER_FIRED: "a timer", SIGNAL_RECEIVED: "a signal", COMMANDS: "more commands",
             RECORD_ANSWERED: "a record's answer", RECORD_REFUSED: "a record's refusal"}  # fmt: skip
    text = names.get(row.kind, f"event {row.kind}")
    return f"{text} (command {row.command})" if row.command is not None else text


_KINDS = {"a": "activity", "t": "timer", "w": "wait for signal", "s": "signal", "r": "record"}


def _show(mine: list[Any], other: list[Any]) -> str:
    """The first command in which two listings differ."""
    for i, command in enumerate(mine):
        if i >= len(other) or other[i] != command:
            number, kind, name, _ = command
            same = i < len(other) and other[i][:3] == command[:3]
            what = f"{_KINDS.get(kind, kind)} {name}".strip()
            return f"command {number}: {what}" + (" with other arguments" if same else "")
    return "nothing more"
