"""Activities: ordinary functions, async or not, and what they may ask about themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from . import arguments, payloads

F = TypeVar("F", bound=Callable[..., Any])


class Described(Protocol):
    """Whatever knows its context (an execution: it makes it when it is asked)."""

    @property
    def context(self) -> Context: ...


_current: ContextVar[Described] = ContextVar("hotmesh_activity")


class Definition(NamedTuple):
    """A registered activity."""

    name: str
    fn: Callable[..., Any]
    is_async: bool
    convert: arguments.Convert | None


class Context:
    """What an activity knows about the attempt that it is in."""

    __slots__ = (
        "activity_id", "attempt", "beat", "heartbeat_details", "is_cancelled", "is_local", "name", "namespace", "run_id",
        "task_queue", "workflow_id",
    )  # fmt: skip

    def __init__(
        self, *, name: str, attempt: int, workflow_id: str, run_id: int, activity_id: int, task_queue: str,
        namespace: str, heartbeat_details: bytes | None, is_local: bool, beat: Callable[[bytes], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.attempt = attempt  #: 1 for the first try
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.activity_id = activity_id
        self.task_queue = task_queue
        self.namespace = namespace
        self.heartbeat_details = payloads.decode(heartbeat_details) if heartbeat_details else ()  #: of the attempt before
        self.is_local = is_local
        self.beat = beat
        self.is_cancelled = False


def enter(execution: Described) -> Token[Described]:
    """Makes an execution the current one of this task; ``leave`` undoes it."""
    return _current.set(execution)


leave = _current.reset


@overload
def defn(fn: F) -> F: ...
@overload
def defn(*, name: str | None = None) -> Callable[[F], F]: ...
def defn(fn: Any = None, *, name: str | None = None) -> Any:
    """Marks a function as an activity, if it is to have another name than its own."""

    def mark(f: Any) -> Any:
        f.__hotmesh_activity__ = payloads.check_name(name or f.__name__, "activity")
        return f

    return mark(fn) if fn is not None else mark


def name_of(fn: str | Callable[..., Any]) -> str:
    """The name under which an activity is registered."""
    if isinstance(fn, str):
        return fn
    name: str = getattr(fn, "__hotmesh_activity__", None) or fn.__name__
    return name


def collect(source: Any) -> dict[str, Definition]:
    """Activities by name: the public functions of a module or object, or an iterable of functions."""
    found: list[Callable[..., Any]]
    if isinstance(source, ModuleType):
        found = [
            f for n, f in vars(source).items()
            if not n.startswith("_") and inspect.isfunction(f)
            and (f.__module__ == source.__name__ or hasattr(f, "__hotmesh_activity__"))
            and not hasattr(f, "__hotmesh_workflow__")
        ]  # fmt: skip
    elif isinstance(source, Iterable):
        found = list(source)
    else:
        found = [f for n, f in inspect.getmembers(source, callable) if not n.startswith("_")]
    out: dict[str, Definition] = {}
    for fn in found:
        name = name_of(fn)
        if name in out and out[name].fn is not fn:
            raise ValueError(f"two activities are named {name!r}: give one another name with @activity.defn(name=...)")
        is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
        out[name] = Definition(name, fn, is_async, arguments.converter(fn))
    return out


def info() -> Context:
    """The attempt that this code runs in: name, attempt, workflow_id, heartbeat_details, ..."""
    try:
        return _current.get().context
    except LookupError:
        raise RuntimeError("activity.info() was called outside of an activity") from None


def heartbeat(*details: Any) -> None:
    """A sign of life; the next attempt finds the newest details in ``info().heartbeat_details``."""
    info().beat(payloads.encode(list(details)))


def cancelled() -> bool:
    """Whether nobody wants the result any more. Sync activities that run for long should ask."""
    return info().is_cancelled
