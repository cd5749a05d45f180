"""What workflow code may use.

A workflow is an async function that asks for things (activities, timers, signals) and may use asyncio's
``gather``, ``wait``, ``TaskGroup``, ``timeout`` and ``sleep``. It must ask for the same things in the same
order when it is replayed from its history: no clock, no randomness, no I/O but through this module and
activities. (``asyncio.as_completed`` starts bare coroutines in an order of its own: give it tasks.)
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import logging
import random as _random
import uuid
from asyncio.events import _get_running_loop
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, TypeVar, cast, overload

from . import activity, payloads
from .documents import Entity, Search
from .durations import Duration, parse
from .errors import TimeoutError
from .loop import WorkflowLoop
from .replay import ActivityCall, ActivityOptions, Definition, Info, Instance
from .retry import RetryPolicy

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = ActivityOptions(None, None, None, None, RetryPolicy())


def _instance() -> Instance:
    loop = _get_running_loop()
    if type(loop) is not WorkflowLoop:
        raise RuntimeError("this may be called in workflow code only")
    return loop.instance


# --------------------------------------------------------------------------------------- definition --


@overload
def defn(fn: F) -> F: ...
@overload
def defn(*, name: str | None = None) -> Callable[[F], F]: ...
def defn(fn: Any = None, *, name: str | None = None) -> Any:
    """Marks an async function, or a class with a method marked ``@workflow.run``, as a workflow."""

    def mark(target: Any) -> Any:
        given = name or target.__name__
        if inspect.isclass(target):
            mains = [m for _, m in inspect.getmembers(target, inspect.isfunction) if hasattr(m, "__hotmesh_run__")]
            if len(mains) != 1:
                raise TypeError(f"workflow class {target.__name__} needs exactly one method marked @workflow.run")
            main = mains[0]

            def make(*args: Any) -> Any:
                return main(target(), *args)

            target.__hotmesh_workflow__ = Definition(given, make)  # type: ignore[attr-defined]
        else:
            if not inspect.iscoroutinefunction(target):
                raise TypeError(f"workflow {target.__name__} must be an async function")
            target.__hotmesh_workflow__ = Definition(given, target)
        return target

    return mark(fn) if fn is not None else mark


def run(fn: F) -> F:
    """Marks the method of a workflow class that is the workflow."""
    fn.__hotmesh_run__ = True  # type: ignore[attr-defined]
    return fn


def definition_of(target: Any) -> Definition:
    """What ``defn`` noted."""
    found = vars(target).get("__hotmesh_workflow__") if hasattr(target, "__dict__") else None
    if not isinstance(found, Definition):
        raise TypeError(f"{target!r} is not a workflow: decorate it with @workflow.defn")
    return found


def name_of(target: str | Callable[..., Any]) -> str:
    """The name under which a workflow is registered."""
    return target if isinstance(target, str) else definition_of(target).name


# --------------------------------------------------------------------------------------- activities --


def execute_activity(
    fn: str | Callable[..., Any],
    *args: Any,
    task_queue: str | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    retry_policy: RetryPolicy | None = None,
) -> Awaitable[Any]:
    """Asks for an activity; await the result, or raises ``ActivityError`` (``.cause``).

    ``start_to_close_timeout`` bounds one attempt, ``schedule_to_close_timeout`` all of them together;
    ``heartbeat_timeout`` is how long it may be silent while its worker is not. ``task_queue``: of another worker.
    """
    instance = _instance()
    name = activity.name_of(fn) if callable(fn) else payloads.check_name(fn, "activity")
    options = _options(task_queue, start_to_close_timeout, schedule_to_close_timeout, heartbeat_timeout, retry_policy)
    return instance.start_activity(ActivityCall(name, payloads.encode(args), options))


def _options(
    task_queue: str | None,
    start_to_close: Duration | None,
    schedule_to_close: Duration | None,
    heartbeat: Duration | None,
    policy: RetryPolicy | None,
) -> ActivityOptions:
    if task_queue is None and start_to_close is None and schedule_to_close is None and heartbeat is None and policy is None:
        return _DEFAULTS
    queue = None if task_queue is None else payloads.check_name(task_queue, "task_queue")
    return ActivityOptions(
        queue, _seconds(start_to_close), _seconds(schedule_to_close), _seconds(heartbeat), policy or _DEFAULTS.retry
    )


def _seconds(duration: Duration | None) -> float | None:
    if duration is None:
        return None
    seconds = parse(duration)
    return None if seconds == float("inf") else seconds


class _Proxy:
    """Looks like a module of activities; a call asks for the activity and returns a future."""

    def __init__(self, source: Any, options: ActivityOptions) -> None:
        self._functions = {name: d.fn for name, d in activity.collect(source).items()}
        if isinstance(source, ModuleType):
            self._functions |= {n: f for n, f in vars(source).items() if inspect.isfunction(f) and not n.startswith("_")}
        self._options = options

    def __getattr__(self, name: str) -> Any:
        fn = self._functions.get(name)
        if fn is None:
            known = ", ".join(sorted(self._functions)) or "none"
            raise AttributeError(f"no activity {name!r} (known: {known})")
        activity_name, options = activity.name_of(fn), self._options

        def ask(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                args = inspect.signature(fn).bind(*args, **kwargs).args
            return _instance().start_activity(ActivityCall(activity_name, payloads.encode(args), options))

        ask.__name__ = name
        self.__dict__[name] = ask
        return ask


def proxy_activities(
    source: T,
    *,
    task_queue: str | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    retry_policy: RetryPolicy | None = None,
) -> T:
    """A stand-in for a module (or object, or list of functions) whose calls are activities.

    Typed like the module. Options as of ``execute_activity``. Calls return futures: ``gather`` them.
    """
    options = _options(task_queue, start_to_close_timeout, schedule_to_close_timeout, heartbeat_timeout, retry_policy)
    return cast(T, _Proxy(source, options))


# -------------------------------------------------------------------------------- signals and time --


def wait_for(signal_id: str, timeout: Duration | None = None) -> Awaitable[Any]:
    """Waits for a signal and returns its payload; ``TimeoutError`` (kind ``wait_for``) after ``timeout``."""
    payloads.check_name(signal_id, "signal_id")
    return _instance().wait_for_signal(signal_id, _seconds(timeout))


async def signal(signal_id: str, payload: Any = None) -> None:
    """Sends a signal, once, when this step is recorded."""
    payloads.check_name(signal_id, "signal_id")
    _instance().send_signal(signal_id, payloads.encode(payload))


def sleep_for(duration: Duration) -> Awaitable[float]:
    """Sleeps, for a second or for a year, and returns the seconds slept (true, so that it can drive a loop)."""
    instance = _instance()
    seconds = parse(duration)
    if seconds == float("inf"):
        return instance.wait_condition(lambda: False)
    return instance.sleep(seconds)


async def wait_condition(predicate: Callable[[], bool], timeout: Duration | None = None) -> None:
    """Waits until the predicate is true; it is looked at after each event. ``TimeoutError`` after ``timeout``."""
    instance = _instance()
    future = instance.wait_condition(predicate)
    seconds = _seconds(timeout)
    if seconds is None:
        await future
        return
    try:
        async with asyncio.timeout(seconds):
            await future
    except builtins.TimeoutError as error:
        raise TimeoutError(f"the condition was not met within {seconds:g} s", kind="wait_condition") from error


def search() -> Search:
    """The record of this workflow, field by field."""
    return Search(_instance())


def entity() -> Entity:
    """The record of this workflow as one nested document."""
    return Entity(_instance())


def info() -> Info:
    """Workflow id, run id, type, task queue, namespace."""
    return _instance().info


def now() -> datetime:
    """The time of the event that this code answers to; the same on each replay."""
    return datetime.fromtimestamp(_instance().now / 1_000_000, UTC)


def random() -> _random.Random:
    """A random generator that gives the same numbers on each replay."""
    return _instance().random()


def uuid4() -> uuid.UUID:
    """A UUID that is the same on each replay."""
    return _instance().uuid4()


class _Logger(logging.LoggerAdapter[logging.Logger]):
    """Silent on replay; names the workflow."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        loop = _get_running_loop()
        if type(loop) is WorkflowLoop and loop.instance.replaying:
            return False
        return super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        loop = _get_running_loop()
        if type(loop) is WorkflowLoop:
            return f"{msg} [{loop.instance.info.workflow_id}]", kwargs
        return msg, kwargs


logger = _Logger(logging.getLogger("pyhotmesh.workflow"), {})
