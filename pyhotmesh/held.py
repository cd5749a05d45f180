"""What a worker holds: its runs, the tasks that it runs, what happened since its last turn, and the clock.

The parts of the turn loop share this: feeding (answers and events in), work (activities), sealing (parcels
out), recovery (when a turn fails), and the loop itself, which keeps turns going.
"""

from __future__ import annotations

import asyncio
import heapq
import time

from .engine import TaskEnd
from .executor import Execution
from .runs import Run

LIVES = 6  # lease times that an activity has to live to be no suspect; `has_lived` in tend.sql


class Held:
    """The state that the parts of one incarnation's turn loop share."""

    def __init__(
        self, *, worker_id: int, name: str, namespace: str, queues: dict[int, str], cache_size: int | None, lease: float
    ) -> None:  # fmt: skip
        self.worker_id = worker_id
        self.name = name
        self.namespace = namespace
        self.queues = queues
        self.cache_size = cache_size
        self.lease = lease  # seconds
        self.loop = asyncio.get_running_loop()
        self.runs: dict[int, Run] = {}
        self.tasks: dict[tuple[int, int], Execution] = {}  # activity rows that this worker runs
        self.dirty: dict[int, Run] = {}  # runs with a gathering parcel
        self.ends: list[TaskEnd] = []  # tasks that have ended, for the next turn
        self.event = asyncio.Event()  # something has happened
        self.heard = True  # a notification came, or it is time to look
        self.fetching = False  # an answer that may have messages is on its way, or not fed yet
        self.asks = False  # for runs that were given to this worker and are not known here
        self.claiming = True
        self.stopping = False
        self.suspects_allowed = 1
        self.suspects_held: dict[int, float] = {}  # runs: since when (monotonic)
        self.suspect_tasks: dict[tuple[int, int], float] = {}  # the same of tasks
        self._timers: list[tuple[int, int]] = []  # (due, run id)
        self._clock = (0, 0.0)  # engine's µs, and the monotonic clock when it was told

    # ------------------------------------------------------------------------------------- time --

    def now(self) -> int:
        """The engine's clock, estimated: its last answer plus what has passed since, in µs."""
        told, at = self._clock
        return told + int((time.monotonic() - at) * 1_000_000)

    @property
    def knows_time(self) -> bool:
        """Whether the engine has told it yet. Until then no code may run: its timers would be due at once."""
        return bool(self._clock[0])

    def told(self, at: int) -> None:
        """The engine's time, as an answer gives it: never backwards for what is only delay, but the clock
        itself may have been set back."""
        self._clock = (max(at, self.now()) if at - self.now() > -1_000_000 else at, time.monotonic())

    def watch(self, run: Run) -> None:
        """Puts the run's next timer on the heap."""
        assert run.instance is not None
        due = run.instance.next_due()
        if due is not None and due[0] != run.timer:
            run.timer = due[0]
            heapq.heappush(self._timers, (due[0], run.run_id))

    def timer_is_due(self) -> bool:
        return bool(self._timers) and self._timers[0][0] <= self.now()

    def until_timer(self) -> float:
        """Seconds to the next timer of a held run."""
        return max(0.0, (self._timers[0][0] - self.now()) / 1_000_000) if self._timers else float("inf")

    def take_due(self, now: int) -> Run | None:
        """A run whose timer is due; None if there is no more."""
        while self._timers and self._timers[0][0] <= now:
            due, run_id = heapq.heappop(self._timers)
            run = self.runs.get(run_id)
            if run is None or run.instance is None or run.timer != due:
                continue
            run.timer = 0
            if run.sent is None or not run.sent.ends_lease:
                return run
        return None

    # ------------------------------------------------------------------------------------- runs --

    def wake(self) -> None:
        """A hint that there is something to fetch."""
        self.heard = True
        self.event.set()

    def add(self, run: Run) -> None:
        """A run that was just leased; if it was held before, that lease is gone."""
        if run.run_id in self.runs:
            self.drop(self.runs[run.run_id])
        self.runs[run.run_id] = run
        if run.is_suspect:
            self.suspects_held[run.run_id] = time.monotonic()

    def note_idle(self, run: Run) -> None:
        if run.local or run.next or run.sent:
            run.idle_since = 0.0
        elif not run.idle_since:
            run.idle_since = time.monotonic()
            if self.cache_size is not None or self.stopping:
                self.wake()

    @property
    def suspects(self) -> int:
        """How many it holds: runs and tasks."""
        return len(self.suspects_held) + sum(1 for key in self.suspect_tasks if key in self.tasks)

    def acquit(self) -> None:
        """Suspects that have been here for a lease time, and this worker lives: they are none any more, once the engine
        has accepted that (see the sweep in tend.sql). A call may take days, and others wait for its place. Of tasks the
        engine sees by itself how long they have lived."""
        before = time.monotonic() - self.lease * LIVES
        for key, since in list(self.suspect_tasks.items()):
            if since <= before:
                self.clear_task(key)
        before = time.monotonic() - self.lease
        for run_id, since in self.suspects_held.items():
            run = self.runs[run_id]
            if since <= before and run.sent is None and (run.next is None or not run.next.ends_lease):
                run.parcel().extra().cleared = True
                self.dirty[run_id] = run

    def clear(self, run: Run) -> None:
        """It is recorded that a run has got on, or has lived, after a lost lease: it is no suspect, and another may come."""
        run.lost = 0
        if self.suspects_held.pop(run.run_id, None) is not None:
            self.suspects_allowed = min(self.suspects_allowed * 2, 1000)

    def clear_task(self, key: tuple[int, int]) -> None:
        """An attempt has ended, or has lived for long: if it was a suspect's, another may come."""
        if self.suspect_tasks.pop(key, None) is not None:
            self.suspects_allowed = min(self.suspects_allowed * 2, 1000)

    def is_unsent(self, run_id: int, command: int) -> bool:
        """Whether the row of an activity task has yet to go into a turn."""
        run = self.runs.get(run_id)
        more = run.next.more if run is not None and run.next is not None else None
        return more is not None and any(task[0] == command for task in more.tasks)

    def drop(self, run: Run) -> None:
        """Lets go of a run that is no longer ours: nothing of it is sent any more."""
        for execution in run.local.values():
            execution.cancel("the lease of its workflow is gone")
        run.local.clear()
        run.next = None
        self.forget(run)

    def forget(self, run: Run) -> None:
        """A run that has ended here: closed, parked, or dropped."""
        self.dirty.pop(run.run_id, None)
        if self.runs.get(run.run_id) is run:
            del self.runs[run.run_id]
        if run.lost:
            self.suspects_held.pop(run.run_id, None)
        else:
            self.clear(run)
        if run.instance is not None:
            run.instance.evict()
            run.instance = None
