"""What a start needs, checked and laid out for the engine. Shared by every way to start a workflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import payloads, workflow
from .durations import parse as parse_duration
from .errors import InvalidDuration, PayloadError
from .ids import format_guid, guid_bytes
from .wire import Floats, Int2s, Jsons, Texts, Uuids

CONFLICT = ("fail", "use_existing", "terminate_existing")
REUSE = ("allow_duplicate", "allow_duplicate_failed_only", "reject_duplicate")


@dataclass(slots=True)  # not frozen: it would take three times as long to make
class StartRequest:
    """One workflow to start.

    Durations are seconds, ``timedelta`` or text. ``priority`` is 1 (first) to 5; ``retention`` is how
    long the closed run is kept (default 7 days); ``execution_timeout`` closes the run when it has passed.
    """

    workflow: str | Callable[..., Any]
    args: Sequence[Any] = ()
    task_queue: str = "default"
    workflow_id: str | None = None
    priority: int = 3
    start_delay: Any = None
    execution_timeout: Any = None
    retention: Any = None
    memo: Any = None
    raw_id: bytes = field(default_factory=guid_bytes, repr=False)

    @property
    def request_id(self) -> str:
        """Of the call that starts it: one that is repeated with it starts the same run."""
        return format_guid(self.raw_id)

    @property
    def id(self) -> str:
        return self.workflow_id if self.workflow_id is not None else self.request_id


def arguments(namespace: str, requests: Sequence[StartRequest], ids: Sequence[str]) -> list[Any]:
    """The aligned arrays of ``hotmesh_engine.start``; a column that nobody uses is left out."""
    kind: Any = object()
    queue: Any = object()
    name = ""
    names, inputs = [], []
    encode = payloads.encode
    for wid, request in zip(ids, requests, strict=True):
        if request.workflow_id is not None:
            payloads.check_name(wid, "workflow_id")
        if request.workflow is not kind:  # nearly always that of the one before
            name, kind = payloads.check_name(workflow.name_of(request.workflow), "workflow type"), request.workflow
        names.append(name)
        if request.task_queue is not queue:
            queue = payloads.check_name(request.task_queue, "task_queue")
        if type(request.priority) is not int or not 1 <= request.priority <= 5:
            raise PayloadError("priority", f"must be 1 (first) to 5 (last), not {request.priority!r:.100}")
        args = request.args
        if type(args) is not list:
            if not isinstance(args, Sequence) or isinstance(args, str | bytes):
                raise PayloadError("args", f"must be a list of the arguments, not {args!r:.100}")
            args = list(args)
        inputs.append(encode(args))
    priorities = [r.priority for r in requests]
    return [
        namespace,
        Texts(names),
        Texts(ids),
        Texts([r.task_queue for r in requests]),
        Jsons(inputs),
        Uuids([r.raw_id for r in requests]),
        _optional([r.start_delay for r in requests], _delay, Floats),
        _optional([r.execution_timeout for r in requests], _finite, Floats),
        _optional([r.retention for r in requests], lambda d: interval(parse_duration(d)), Texts),
        None if priorities.count(3) == len(priorities) else Int2s(priorities),
        _optional([r.memo for r in requests], encode, Jsons),
    ]


def _optional(values: list[Any], convert: Callable[[Any], Any], kind: Any) -> Any:
    if values.count(None) == len(values):
        return None
    return kind(None if v is None else convert(v) for v in values)


def check_policies(conflict: str, reuse: str) -> None:
    """Refuses policies that there are not."""
    if conflict not in CONFLICT or reuse not in REUSE:
        raise PayloadError("policy", f"unknown: {conflict!r}, {reuse!r}", f"choose of {CONFLICT} and {REUSE}")


def check_alone(search: Any, conn: Any) -> None:
    """Refuses to write a record in a transaction of the caller's: it would keep the record's other writers waiting."""
    if search is not None and conn is not None:
        raise PayloadError("search", "cannot be written within a transaction of yours", "start without conn=, or without search=")


def _delay(duration: Any) -> float:
    seconds = parse_duration(duration)
    if seconds == float("inf"):
        raise InvalidDuration("start_delay cannot be endless", hint="start it when it is wanted")
    return seconds


def _finite(duration: Any) -> float | None:
    seconds = parse_duration(duration)
    return None if seconds == float("inf") else seconds


def interval(seconds: float) -> str:
    """As PostgreSQL reads it; for ever is a thousand years, of 360 days to it."""
    return "1000 years" if seconds >= 1000 * 360 * 86400 else f"{seconds:.6f} seconds"
