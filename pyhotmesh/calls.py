"""Calls, a worker's side of them: runs that are one function, in its worker's memory from claim to close.

    leased ──► the function runs ──► returned, or failed for good: closed with its outcome
                                └──► failed, to be tried again: a journal row, parked until then

Who asks a call to end has its function cancelled, or told; the call ends as that ends, and is not tried again.

No coroutine, no commands. The journal's rows count the attempts that have ended: failures that were
retried, and leases that were lost.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from . import arguments
from .errors import HotMeshError
from .executor import Execution
from .held import Held
from .replay import ACTIVITY_FAILED, CANCELLED, COMPLETED, FAILED, LEASE_LOST, ActivityOptions, cancelled
from .retry import RetryPolicy
from .runs import PARK, Run
from .work import Work, worker_lost

PREFIX = "call:"  # of the queues of topics

# Without a policy an exception goes to the caller at once. A call whose worker died runs again, whatever
# number of workers that costs: as any run it is set aside if it kills them (a suspect).
ONCE = RetryPolicy(maximum_attempts=1)


class Callback(NamedTuple):
    """A function that serves a topic."""

    topic: str
    fn: Callable[..., Any]
    is_async: bool
    convert: arguments.Convert | None
    retry: RetryPolicy | None


def callback(topic: str, fn: Callable[..., Any], retry: RetryPolicy | None) -> Callback:
    """What a worker has to know of a function to serve a topic with it."""
    if not callable(fn):
        raise TypeError(f"a callback is a function, async or not; this is {fn!r:.100}")
    is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
    return Callback(topic, fn, is_async, arguments.converter(fn), retry)


def queue_of(topic: str) -> str:
    """The task queue of a topic's calls."""
    return PREFIX + topic


def workflow_id(topic: str, id: str) -> str:
    """The workflow id of a call, as ``hotmesh_engine.call_id`` makes it."""
    return f"{PREFIX}{topic.replace('%', '%25').replace(':', '%3A')}:{id}"


class Calls:
    """Runs leased calls; see the module's head."""

    def __init__(self, held: Held, work: Work, callbacks: dict[str, Callback]) -> None:
        self._held = held
        self._work = work
        self._callbacks = callbacks
        work.on_call = self._ended

    def begin(self, run: Run, input: bytes) -> None:
        """A call that was just leased."""
        definition = self._callbacks.get(run.workflow_type)
        if definition is None:
            raise HotMeshError(f"topic {run.workflow_type!r} is not connected on worker {self._held.name}")
        run.is_call = True
        retry = definition.retry or ONCE
        attempt = run.seq + 1
        if run.lost:
            self._note(run, LEASE_LOST, None)
            attempt += 1
            if definition.retry is not None and 0 < retry.maximum_attempts < attempt:
                self._close(run, FAILED, worker_lost())
                return
        options = ActivityOptions(None, None, None, None, retry)
        execution = Execution(run.run_id, 0, attempt, run.workflow_type, input, options, definition, self._work.describe, run)
        run.local[0] = execution
        if run.lost and definition.retry is not None and retry.maximum_attempts:
            run.parcel().starts.append(execution)  # the attempt that was lost is on the disk first
        else:
            self._work.executor.submit(execution)

    def cancel(self, run: Run, reason: str) -> None:
        """The call is asked to end. The message stays in its inbox until it has: whoever runs it next is asked too."""
        execution = run.local.get(0)
        if execution is None or run.cancel_reason is not None:
            return
        run.cancel_reason = reason
        if execution.task is not None:
            execution.cancel(reason, wanted=True)
            return
        execution.cancel(reason)  # it has not begun
        run.local.clear()
        self._close(run, CANCELLED, cancelled(reason))

    def _ended(self, run: Run, execution: Execution, kind: int, payload: bytes, error: BaseException | None) -> None:
        if kind != ACTIVITY_FAILED:
            self._close(run, COMPLETED, payload)
            return
        if run.cancel_reason is not None:
            if getattr(error, "type", None) == "CancelledError":
                self._close(run, CANCELLED, cancelled(run.cancel_reason))
            else:
                self._close(run, FAILED, payload)
            return
        delay = execution.options.retry.delay(execution.attempt, error)
        if delay is None:
            self._close(run, FAILED, payload)
            return
        self._note(run, ACTIVITY_FAILED, payload)
        parcel = run.parcel()
        parcel.end, parcel.due = PARK, self._held.now() + int(delay * 1e6)

    def _close(self, run: Run, status: int, outcome: bytes) -> None:
        parcel = run.parcel()
        parcel.end, parcel.outcome = status, outcome
        parcel.size += len(outcome)
        if run.lost:
            parcel.extra().cleared = True
        self._held.dirty[run.run_id] = run

    def _note(self, run: Run, kind: int, payload: bytes | None) -> None:
        """A journal row: one more attempt has ended."""
        parcel = run.parcel()
        run.seq += 1
        parcel.rows.append((run.run_id, run.seq, kind, None, self._held.now(), payload, None))
        parcel.has_result = True
        parcel.size += len(payload or b"")
        self._held.dirty[run.run_id] = run
