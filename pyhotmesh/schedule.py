"""Schedules: workflows that start again and again, by the clock of the database.

``client.schedule.create("nightly", report, interval="0 3 * * *", time_zone="Europe/Berlin")``
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from . import cron, engine, joined, payloads, workflow
from .errors import InvalidDuration, PayloadError, ScheduleNotFound
from .handle import Handle
from .ids import guid_bytes

if TYPE_CHECKING:
    from .client import Client

Rows = list[Any]  # ScheduleClient has a method of the name

OVERLAPS = ("skip", "buffer_one", "allow_all", "cancel_other")
_COLUMNS = (
    'namespace, schedule_id, status, "interval", time_zone, workflow_type, task_queue, input, next_slot, due_at, last_slot, '
    "cycles, max_cycles, overlap, catchup, jitter, execution_timeout, retention, priority, memo, failures, "
    "pause_after_failures, open_runs, buffered, note, trouble_code, trouble, trouble_since, trouble_times, created_at, updated_at"
)
_FIRING = "slot, origin, decision, outcome, workflow_id, run_id, decided_at, closed_at, missed_until"


class Unchanged(enum.Enum):
    """The type of ``UNCHANGED``."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return self.name


UNCHANGED: Final = Unchanged.UNCHANGED  # what ``update`` leaves as it is; None is a value like others


def specification(given: dict[str, Any]) -> bytes:
    """The arguments of ``create`` and ``update`` as the engine takes them, checked. None goes along: as if never given."""
    spec: dict[str, Any] = {}
    for name, value in given.items():
        if value is UNCHANGED:
            continue
        if name not in _CHECKS:
            raise PayloadError(name, "a schedule has no such option", f"there are {', '.join(_CHECKS)}")
        if value is None and name in ("workflow", "interval", "kind"):
            if name == "interval":
                cron.check_interval(value)  # says what one is
            raise PayloadError(name, "a schedule needs one; this is None")
        spec[name] = None if value is None else _CHECKS[name](name, value)
    return payloads.encode(spec)


def _args(name: str, value: Any) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise PayloadError(name, f"must be a list of the arguments, not {value!r:.100}")
    payloads.encode(list(value))
    return list(value)


def _number(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= (5 if name == "priority" else 999_999_999):
        raise PayloadError(name, f"must be a whole number from 1 {'to 5' if name == 'priority' else 'on'}, not {value!r:.100}")
    return value


def _overlap(name: str, value: Any) -> str:
    if value not in OVERLAPS:
        raise PayloadError(name, f"unknown: {value!r:.100}", f"choose of {', '.join(OVERLAPS)}")
    return str(value)


def _kind(name: str, value: Any) -> str:
    if value not in ("workflow", "call"):
        raise PayloadError(name, f"unknown: {value!r:.100}", "workflow, or call: of a topic")
    return str(value)


def _catchup(name: str, value: Any) -> float | str:
    if value in ("none", "last"):
        return str(value)
    try:
        return cron.seconds(name, value, endless=True)
    except InvalidDuration as error:
        raise InvalidDuration(error.message, hint="'none', 'last', or a duration such as '1 hour'") from None


def _paused(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise PayloadError(name, f"must be True or False, not {value!r:.100}")
    return value


def _note(name: str, value: Any) -> str:
    payloads.text_bytes(value, name)
    return str(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "workflow": lambda name, value: payloads.check_name(workflow.name_of(value), "workflow type"),
    "task_queue": lambda name, value: payloads.check_name(value, name),
    "kind": _kind,
    "args": _args,
    "interval": lambda name, value: cron.check_interval(value),
    "time_zone": lambda name, value: cron.check_time_zone(value),
    "delay": cron.seconds,
    "max_cycles": _number,
    "overlap": _overlap,
    "catchup": _catchup,
    "jitter": cron.seconds,
    "pause_after_failures": _number,
    "priority": _number,
    "execution_timeout": lambda name, value: cron.seconds(name, value, endless=True),
    "retention": lambda name, value: cron.seconds(name, value, endless=True),
    "memo": lambda name, value: value,
    "paused": _paused,
    "note": _note,
}


def creation(namespace: str, schedule_id: str, given: dict[str, Any]) -> list[Any]:
    """The arguments of the engine's call; repeated with the same ones it answers the same."""
    if not 1 <= len(payloads.text_bytes(schedule_id, "schedule_id")) <= 900:
        raise PayloadError("schedule_id", f"must have 1 to 900 bytes, this is {schedule_id!r:.100}", "for example 'nightly'")
    return [namespace, schedule_id, specification(given).decode(), UUID(bytes=guid_bytes())]


class ScheduleClient:
    """``client.schedule``: creates schedules and finds them. ``client.schedule(...)`` is ``create(...)``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(
        self,
        schedule_id: str,
        workflow: str | Callable[..., Any],
        *,
        interval: Any,
        args: Sequence[Any] = (),
        task_queue: str | None = None,
        kind: str = "workflow",
        time_zone: str = "UTC",
        delay: Any = None,
        max_cycles: int | None = None,
        overlap: str = "skip",
        catchup: Any = "1 minute",
        jitter: Any = None,
        pause_after_failures: int | None = None,
        priority: int = 3,
        execution_timeout: Any = None,
        retention: Any = None,
        memo: Any = None,
        paused: bool = False,
        note: str | None = None,
        conn: Any = None,
    ) -> bool:
        """Creates a schedule; True if this call did, False if there is one of that id (it stays as it is).

        Args:
            interval: a cron expression (5 fields, or 6 with seconds first; ``@daily``), or a duration: the first
                slot is then one interval from now, the others follow without drift.
            task_queue: ``default`` without it; of calls that of their topic.
            kind: ``workflow``, or ``call``: then ``workflow`` is a topic that ``MeshCall`` serves.
            time_zone: of a cron expression. A local time that a shift of the clock leaves out runs at the shift,
                one that comes twice runs the first time; an expression with an open hour (``*/15 * * * *``) goes
                by elapsed time.
            delay: nothing runs before it has passed; of an interval it is the time to the first slot.
            max_cycles: so many slots start a run, then the schedule is over. What is skipped, missed, triggered or
                backfilled does not count.
            overlap: what a slot means while a run of the schedule is open: ``skip``; ``buffer_one`` (one waits, and
                starts when that run has closed); ``allow_all``; ``cancel_other``: the open one is cancelled
                (``Handle.cancel``), and the new one starts when it has closed; of several that wait only the newest.
            catchup: slots that nobody fired because no worker was there: ``"none"``, ``"last"`` (the newest
                alone), or a duration: all that are not older, under ``skip`` one after another.
            jitter: each slot is later by a part of it, the same whoever computes it, and never as late as the next slot.
            pause_after_failures: so many runs failed in a row pause it.
            priority, execution_timeout, retention, memo: of its runs, as in ``client.workflow.start``.
            conn: joins the caller's transaction: the schedule is there if and only if that commits.

        Each slot starts one run, with the workflow id ``<schedule_id>:<slot>`` (UTC, ISO 8601: ``nightly:
        2026-11-25T03:00:00Z``), however many workers there are. A run that fails never stops its schedule.

        Raises:
            InvalidSchedule: the expression, interval or time zone is none; with position and advice.
            InvalidDuration: a duration is none.
        """
        given = {
            "workflow": workflow, "interval": interval, "args": args, "task_queue": task_queue, "kind": kind,
            "time_zone": time_zone, "delay": delay, "max_cycles": max_cycles, "overlap": overlap, "catchup": catchup,
            "jitter": jitter, "pause_after_failures": pause_after_failures, "priority": priority,
            "execution_timeout": execution_timeout, "retention": retention, "memo": memo, "paused": paused, "note": note,
        }  # fmt: skip
        params = creation(self._client.namespace, schedule_id, given)
        if conn is not None:
            return bool((await joined.execute(conn, engine.CREATE_SCHEDULE, params))[0][0])
        return bool(await self._client._value(engine.CREATE_SCHEDULE, params))

    __call__ = create

    def get(self, schedule_id: str) -> ScheduleHandle:
        """A handle by id; no round trip."""
        payloads.text_bytes(schedule_id, "schedule_id")
        return ScheduleHandle(self._client, schedule_id)

    async def list(self, *, limit: int = 1000) -> Rows:
        """All schedules of the namespace by id, as rows of the view ``hotmesh.schedules``."""
        rows = await self._client._rows(
            f"select {_COLUMNS} from hotmesh.schedules where namespace = %s order by schedule_id limit %s",
            (self._client.namespace, limit),
        )
        return [_row(_COLUMNS, row) for row in rows]


class ScheduleHandle:
    """A schedule, by its id. All calls raise ``ScheduleNotFound`` if there is none."""

    __slots__ = ("_client", "schedule_id")

    def __init__(self, client: Client, schedule_id: str) -> None:
        self._client = client
        self.schedule_id = schedule_id

    def __repr__(self) -> str:
        return f"ScheduleHandle({self.schedule_id!r})"

    @property
    def _name(self) -> tuple[str, str]:
        return self._client.namespace, self.schedule_id

    async def describe(self) -> dict[str, Any]:
        """The schedule's row in the view ``hotmesh.schedules``."""
        rows = await self._client._rows(
            f"select {_COLUMNS} from hotmesh.schedules where namespace = %s and schedule_id = %s", self._name
        )
        if not rows:
            raise ScheduleNotFound(f"no schedule {self.schedule_id!r:.200} in namespace {self._client.namespace!r:.200}")
        return _row(_COLUMNS, rows[0])

    async def pause(self, note: str | None = None) -> bool:
        """Stops it until ``resume``; what runs goes on. False if it is paused already."""
        if note is not None:
            payloads.text_bytes(note, "note")
        return bool(await self._client._value(engine.PAUSE_SCHEDULE, (self.schedule_id, note, self._client.namespace)))

    async def resume(self) -> bool:
        """Lets a paused or troubled one go on with its next slot (what came due meanwhile is not caught up), and
        forgets its failures. False if it was neither."""
        return bool(await self._client._value(engine.RESUME_SCHEDULE, (self.schedule_id, self._client.namespace)))

    async def trigger(self) -> Handle:
        """Starts a run now, beside whatever runs; also while it is paused."""
        slot = await self._client._value(engine.TIME, ())  # first: a call that is repeated with it starts no second run
        rows = await self._client._rows(engine.TRIGGER_SCHEDULE, (*self._name, slot))
        return Handle(self._client, rows[0][0], rows[0][1])

    async def backfill(self, start: datetime, end: datetime) -> int:
        """Runs the slots of a past window (both ends included, times with a zone) that have not run: with the overlap
        policy ``allow_all`` at once, else one after another; also while it is paused. Returns how many they are."""
        window = backfill_window(start, end)
        return int(await self._client._value(engine.BACKFILL_SCHEDULE, (self.schedule_id, *window, self._client.namespace)))

    async def update(
        self,
        *,
        workflow: str | Callable[..., Any] | Unchanged = UNCHANGED,
        interval: Any = UNCHANGED,
        args: Sequence[Any] | Unchanged | None = UNCHANGED,
        task_queue: str | Unchanged | None = UNCHANGED,
        kind: str | Unchanged = UNCHANGED,
        time_zone: str | Unchanged | None = UNCHANGED,
        delay: Any = UNCHANGED,
        max_cycles: int | Unchanged | None = UNCHANGED,
        overlap: str | Unchanged | None = UNCHANGED,
        catchup: Any = UNCHANGED,
        jitter: Any = UNCHANGED,
        pause_after_failures: int | Unchanged | None = UNCHANGED,
        priority: int | Unchanged | None = UNCHANGED,
        execution_timeout: Any = UNCHANGED,
        retention: Any = UNCHANGED,
        memo: Any = UNCHANGED,
        paused: bool | Unchanged | None = UNCHANGED,
        note: str | Unchanged | None = UNCHANGED,
    ) -> None:
        """Changes what is named, as in ``create``, and nothing else. None sets back: ``update(max_cycles=None)`` is as if
        it had never been given. A new interval, time zone or delay counts from now. Runs that are open, or wait in the
        buffer, go on; those in the buffer start with the new arguments."""
        changes = {
            "workflow": workflow, "interval": interval, "args": args, "task_queue": task_queue, "kind": kind,
            "time_zone": time_zone, "delay": delay, "max_cycles": max_cycles, "overlap": overlap, "catchup": catchup,
            "jitter": jitter, "pause_after_failures": pause_after_failures, "priority": priority,
            "execution_timeout": execution_timeout, "retention": retention, "memo": memo, "paused": paused, "note": note,
        }  # fmt: skip
        await self._client._value(engine.UPDATE_SCHEDULE, (*self._name, specification(changes).decode()))

    async def delete(self) -> bool:
        """Deletes it and its history; runs that it started go on. False if there is none."""
        return bool(await self._client._value(engine.DELETE_SCHEDULE, (self.schedule_id, self._client.namespace)))

    async def next_runs(self, n: int = 5) -> list[datetime]:
        """The next slots, 10,000 at most."""
        rows = await self._client._rows(engine.NEXT_RUNS, (self.schedule_id, n, self._client.namespace))
        return [slot for (slot,) in rows]

    async def history(self, limit: int = 100) -> list[dict[str, Any]]:
        """What became of its slots, newest first, as rows of the view ``hotmesh.firings``: ``decision`` (started,
        buffered, skipped, missed, refused), of what was started the ``outcome``."""
        rows = await self._client._rows(
            f"select {_FIRING} from hotmesh.firings where namespace = %s and schedule_id = %s order by slot desc limit %s",
            (*self._name, limit),
        )
        return [_row(_FIRING, row) for row in rows]


def backfill_window(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    for name, at in (("start", start), ("end", end)):
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise PayloadError(name, f"must be a datetime with a time zone, not {at!r:.100}")
    return start, end


def _row(columns: str, row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(columns.replace('"', "").split(", "), row, strict=True))
