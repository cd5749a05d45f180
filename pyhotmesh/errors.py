"""Errors: one tree, each with a stable code, what happened, and what to do.

Codes of class HM are also the SQLSTATEs that the engine's functions raise.
"""

from __future__ import annotations

import builtins
from typing import Any


class HotMeshError(Exception):
    """Base of all errors of this package."""

    code = "HM000"

    def __init__(self, message: str = "", *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class WorkflowAlreadyStarted(HotMeshError):
    """The workflow id is taken, and the policy says that this is an error."""

    code = "HM001"


class WorkflowNotFound(HotMeshError):
    """No workflow of that id is open (or kept)."""

    code = "HM002"


class PayloadError(HotMeshError):
    """A value that PostgreSQL or JSON cannot hold unchanged; refused before anything was sent."""

    code = "HM003"

    def __init__(self, path: str, reason: str = "", advice: str | None = None) -> None:
        super().__init__(f"{path}: {reason}" if reason else path, hint=advice)
        self.path = path


class WorkerLost(HotMeshError):
    """The lease of this worker has ended; its runs are with others."""

    code = "HM004"


class NotInTransaction(HotMeshError):
    """This cannot be done in a caller's transaction."""

    code = "HM005"


class SchemaVersionError(HotMeshError):
    """The database has no schema of pyhotmesh, or one of another version."""

    code = "HM006"


class RunBusy(HotMeshError):
    """Others are changing the same workflow at this moment; try again."""

    code = "HM007"


class WorkflowFailed(HotMeshError):
    """The workflow raised; ``cause`` is what it raised."""

    code = "HM020"

    def __init__(self, message: str = "", *, cause: BaseException | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.cause = cause


class CallFailed(WorkflowFailed):
    """The callback of a topic raised; ``cause`` is what it raised, with its type, message and cause."""

    code = "HM033"


class WorkflowInterrupted(HotMeshError):
    """The workflow was ended from outside, at once."""

    code = "HM021"


class WorkflowCancelled(HotMeshError):
    """The workflow was cancelled and has cleaned up."""

    code = "HM022"


class ActivityError(HotMeshError):
    """An activity failed for good; ``cause`` is its last failure."""

    code = "HM023"

    def __init__(
        self,
        message: str = "",
        *,
        cause: BaseException | None = None,
        activity: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.cause = cause
        self.activity = activity


class TimeoutError(HotMeshError, builtins.TimeoutError):
    """Time has run out; ``kind`` says which: result, wait_for, start_to_close, schedule_to_close, heartbeat, execution."""

    code = "HM024"

    def __init__(self, message: str = "", *, kind: str = "", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.kind = kind


class NonDeterminismError(HotMeshError):
    """Workflow code no longer fits its history; the run stays open until it fits again."""

    code = "HM025"

    def __init__(self, message: str = "", *, expected: Any = None, found: Any = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.expected = expected
        self.found = found


class InvalidDuration(HotMeshError, ValueError):
    """Not a duration."""

    code = "HM026"


class InvalidSchedule(HotMeshError, ValueError):
    """Not a schedule: no cron expression, one that never comes, an unknown time zone, an interval of nothing.

    ``detail`` shows the expression with marks under what is wrong; ``str()`` has all of it.
    """

    code = "HM027"

    def __str__(self) -> str:
        marked = f"\n{self.detail.strip(chr(10))}" if self.detail else ""
        return f"{self.message}{marked}\n{self.hint}" if marked and self.hint else super().__str__() + marked


class ScheduleNotFound(HotMeshError):
    """There is no schedule of that id."""

    code = "HM029"


class OutcomeUnknown(HotMeshError):
    """The connection was lost during a call that cannot be repeated safely."""

    code = "HM030"


class NotConnected(HotMeshError):
    """The database cannot be reached."""

    code = "HM031"


class InvalidQuery(HotMeshError, ValueError):
    """Not a search that can be carried out: an unknown field, operator or value, or words that cannot be read."""

    code = "HM040"


class RecordError(HotMeshError):
    """A record cannot do this: it is not there, or its document does not fit the operation."""

    code = "HM041"


class WrongLoop(HotMeshError, RuntimeError):
    """A client was used where it cannot work: in another event loop than before, or in one that it would block."""

    code = "HM034"


class ApplicationError(HotMeshError):
    """A failure of user code, as it is recorded; raise it to say how it is to be treated.

    ``type`` is matched against a policy's ``non_retryable_error_types``; ``next_retry_delay`` (a
    duration) replaces the policy's interval once.
    """

    code = "HM032"

    def __init__(
        self,
        message: str = "",
        *details: Any,
        type: str | None = None,
        non_retryable: bool = False,
        next_retry_delay: Any = None,
    ) -> None:
        super().__init__(message)
        self.details = details
        self.type = type or "ApplicationError"
        self.non_retryable = non_retryable
        self.next_retry_delay = next_retry_delay

    def __str__(self) -> str:
        if self.type == "ApplicationError":
            return self.message
        return f"{self.type}: {self.message}" if self.message else self.type


_BY_STATE: dict[str, type[HotMeshError]] = {
    cls.code: cls
    for cls in (
        WorkflowAlreadyStarted, WorkflowNotFound, WorkerLost, NotInTransaction, SchemaVersionError, RunBusy, WorkflowFailed,
        InvalidDuration, InvalidSchedule, ScheduleNotFound, InvalidQuery, RecordError,
    )
}  # fmt: skip


def from_sqlstate(state: str, message: str, detail: str | None = None, hint: str | None = None) -> HotMeshError:
    """The error for a SQLSTATE of class HM."""
    if state == "HM003":
        return PayloadError(message, advice=hint)
    if state == "HM006":
        message = f"the schema of pyhotmesh is missing or of another version: {message}"
        hint = "run: hotmesh db upgrade --dsn ..."
    return _BY_STATE.get(state, HotMeshError)(message, detail=detail, hint=hint)
