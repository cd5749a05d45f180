"""What a worker knows of a run that it holds, and what it has to tell the engine about it.

A ``Parcel`` is one run's part of a turn. It is kept until the turn's outcome is known: after a lost
reply the worker learns by the run's last seq whether the parcel was recorded, and sends it again
only if it was not.
"""

from __future__ import annotations

from typing import Any

from .executor import Execution
from .replay import CANCEL_REQUESTED, COMMANDS, LEASE_LOST, SIGNAL_RECEIVED, STARTED, TIMER_FIRED, Instance

KEEP = 0
PARK = -1
INTERNAL = frozenset((STARTED, TIMER_FIRED, SIGNAL_RECEIVED, COMMANDS, LEASE_LOST, CANCEL_REQUESTED))  # kinds of rows


class More:
    """What few parcels carry: made when it is needed, as an ordinary step is rows and what starts after them."""

    __slots__ = ("back", "cleared", "ended", "lists", "records", "signals", "tasks", "used", "waits")

    def __init__(self) -> None:
        self.cleared = False
        self.lists = False  # its commands must be durable before they are carried out: they have bounded attempts
        self.used: list[int] = []
        self.back: list[int] = []
        self.ended: list[int] = []
        self.waits: list[tuple[int, str, str | None, int, int | None]] = []
        self.signals: list[tuple[str, bytes]] = []
        self.tasks: list[tuple[Any, ...]] = []
        self.records: list[tuple[int, str, bytes]] = []  # asked of its record: command, operation, arguments

    def extend(self, later: More) -> None:
        for name in ("used", "back", "ended", "waits", "signals", "tasks", "records"):
            getattr(self, name).extend(getattr(later, name))
        self.lists |= later.lists
        self.cleared |= later.cleared

    @property
    def asks(self) -> bool:
        """Whether there is something in it that a row has to list first."""
        return bool(self.waits or self.tasks or self.signals or self.records or self.lists)

    @property
    def is_empty(self) -> bool:
        return not (self.asks or self.ended or self.used or self.back or self.cleared)


class Parcel:
    """One run's part of one turn."""

    __slots__ = ("base", "due", "end", "has_result", "more", "outcome", "rows", "run", "size", "starts")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.base = run.seq
        self.rows: list[tuple[int, int, int, int | None, int, bytes | None, bytes | None]] = []
        self.has_result = False  # it records what must be durable before anything that follows from it begins
        self.starts: list[Execution] = []  # activities to begin when this is durable
        self.more: More | None = None
        self.size = 100  # bytes, roughly
        self.end = KEEP
        self.due: int | None = None
        self.outcome: bytes | None = None

    @property
    def ends_lease(self) -> bool:
        """The run is parked or closed with it."""
        return self.end != KEEP

    @property
    def is_empty(self) -> bool:
        """Nothing in it to send."""
        return self.end == KEEP and not (self.rows or self.starts) and (self.more is None or self.more.is_empty)

    @property
    def is_early(self) -> bool:
        """Says only that the run has started: nothing is lost if that is never recorded."""
        return (
            len(self.rows) == 1 and not self.has_result and self.end == KEEP and not self.starts
            and (self.more is None or not (self.more.asks or self.more.ended or self.more.cleared))
        )  # fmt: skip

    @property
    def is_internal(self) -> bool:
        """Nobody outside of the engine acts on it. If a crash of the server takes it, the run goes over it again: so it
        need not be durable before the run goes on. What is recorded later is flushed after it, as the log has an order."""
        more = self.more
        return not (
            self.starts or self.end > KEEP or (more is not None and (more.tasks or more.signals or more.records or more.lists))
        ) and all(row[2] in INTERNAL for row in self.rows)

    def extra(self) -> More:
        """What few parcels carry, made if need be."""
        if self.more is None:
            self.more = More()
        return self.more

    def extend(self, later: Parcel) -> None:
        """Takes over what has gathered since."""
        self.rows += later.rows
        self.starts += later.starts
        self.has_result |= later.has_result
        self.size += later.size
        if later.more is not None:
            self.extra().extend(later.more)
        self.end, self.due, self.outcome = later.end, later.due, later.outcome


class Run:
    """A leased run: its live coroutine, and where its journal stands."""

    __slots__ = (
        "cancel_reason",
        "early",
        "fence",
        "idle_since",
        "instance",
        "is_call",
        "local",
        "lost",
        "next",
        "queue",
        "queue_id",
        "registered",
        "run_id",
        "seen",
        "sent",
        "seq",
        "timer",
        "workflow_id",
        "workflow_type",
    )

    def __init__(
        self,
        run_id: int,
        fence: int,
        seq: int,
        lost: int,
        queue_id: int,
        queue: str,
        workflow_id: str,
        workflow_type: str,
    ) -> None:
        self.run_id = run_id
        self.fence = fence
        self.seq = seq  # of the last row written into a parcel
        self.lost = lost
        self.queue_id = queue_id
        self.queue = queue
        self.workflow_id = workflow_id
        self.workflow_type = workflow_type
        self.instance: Instance | None = None
        self.next: Parcel | None = None  # gathers for the next turn
        self.sent: Parcel | None = None  # in flight
        self.is_call = False
        self.cancel_reason: str | None = None  # of a call that was asked to end
        self.local: dict[int, Execution] = {}  # activities running or queued here, by command
        self.registered: dict[int, int] = {}  # commands with a row in `waiting`, and their group
        self.seen: set[int] = set()  # inbox ids taken over, until the turn that deletes them is known
        self.early: list[tuple[Any, ...]] = []  # messages that came before its journal
        self.idle_since = 0.0  # monotonic; 0: busy
        self.timer = 0  # due time of the timer that the loop has on its heap

    def parcel(self) -> Parcel:
        """The parcel that gathers, made if need be."""
        if self.next is None:
            self.next = Parcel(self)
        return self.next

    @property
    def is_suspect(self) -> bool:
        """Its lease was lost twice in a row: it may be what kills its workers."""
        return self.lost >= 2

    @property
    def runnable(self) -> bool:
        """Something of it runs, or is about to: it takes one of the worker's places."""
        return bool(self.local or self.next or self.sent)
