"""Parcels out: what goes into a turn, and which runs end their lease with it.

Whether a run parks is decided here, when a batch is sealed: nothing of it runs, nothing is on its way to
it, and it has waited for long enough, or its next timer is far off, or there is no memory for more.
"""

from __future__ import annotations

import time

from .held import Held
from .replay import COMMANDS, Instance
from .runs import KEEP, PARK, Parcel, Run
from .wire import INFINITY
from .work import Work

MAX_BATCH_RUNS = 300  # a turn's fixed cost is that of ten runs
MIN_BATCH_RUNS = 50
MAX_BATCH_BYTES = 4_000_000
WARM = 2.0  # seconds that an idle run keeps its lease
MAX_WARM = 10_000  # idle runs in memory, unless a worker says otherwise


class Sealer:
    """Seals the parcels of a turn; see the module's head."""

    def __init__(self, held: Held, work: Work) -> None:
        self._held = held
        self._work = work
        self._cool_at = 0.0

    def seal(self) -> list[Parcel]:
        """Takes the gathered parcels, up to a batch's limits, and decides who parks."""
        held = self._held
        self._work.spill()
        self._cool()
        if held.suspects_held or held.suspect_tasks:
            held.acquit()
        parcels: list[Parcel] = []
        size = 0
        # Not all that is held in one batch: while a part is on its way, the others can run.
        limit = min(MAX_BATCH_RUNS, max(MIN_BATCH_RUNS, len(held.runs) // 2))
        for run_id, run in list(held.dirty.items()):
            parcel = run.next
            if parcel is None:
                del held.dirty[run_id]
                continue
            if run.sent is not None:
                continue
            if len(parcels) >= limit:
                held.event.set()
                break
            if parcel.more is not None or not (run.local or parcel.starts):
                self._complete(run, parcel)
            if run.local and not parcel.has_result and parcel.is_early:
                del held.dirty[run_id]  # goes with the activity's result, or with its row
                continue
            if not parcel.rows and parcel.is_empty:
                run.next = None
                del held.dirty[run_id]
                held.note_idle(run)
                continue
            size += parcel.size
            if parcels and size > MAX_BATCH_BYTES:
                held.event.set()
                break
            del held.dirty[run_id]
            run.next, run.sent = None, parcel
            parcels.append(parcel)
        return parcels

    def _complete(self, run: Run, parcel: Parcel) -> None:
        """Adds what only the whole parcel can tell: its listing, groups, and whether it ends the lease. A step
        that only goes on (something of its run runs or is to start, nothing else is asked) is complete as it is."""
        instance = run.instance
        if instance is None or parcel.end > KEEP:
            return
        more = parcel.more
        if more is not None and more.waits:
            groups = instance.groups()
            more.waits = [(number, kind, key, groups.get(number, number), due) for number, kind, key, _, due in more.waits]
        if not (run.local or parcel.starts or self._work.has_results) and self._may_park(run, instance):
            self._park(run, parcel, instance)
            more = parcel.more
        if parcel.end == PARK or (more is not None and more.asks):
            listing = instance.listing()
            # Tasks must not be added twice: a row, even an empty one, shows whether the parcel was recorded.
            if listing is not None or (more is not None and more.tasks and not parcel.rows):
                run.seq += 1
                parcel.rows.append((run.run_id, run.seq, COMMANDS, None, instance.now, None, listing))
                parcel.has_result = True
        if more is not None:
            for number, _, _, group, _ in more.waits:
                run.registered[number] = group

    def _may_park(self, run: Run, instance: Instance) -> bool:
        if self._held.cache_size == 0 or run.idle_since:
            return True
        due = instance.next_due()
        return due is not None and due[0] - self._held.now() > WARM * 1e6 and len(instance.pending) == 1

    def _park(self, run: Run, parcel: Parcel, instance: Instance) -> None:
        """The lease goes back: everything that the run waits for is written down."""
        due = instance.next_due()
        if due is not None and due[0] <= self._held.now() and self._held.cache_size != 0:
            return
        parcel.end = PARK
        parcel.due = due[0] if due is not None else INFINITY
        groups = instance.groups()
        waits = parcel.extra().waits
        new = {w[0] for w in waits}
        for number, command in instance.pending.items():
            if number in new:
                continue
            group = groups.get(number, number)
            if command.kind == "t":
                waits.append((number, "t", None, number, command.spec))
            elif command.kind != "r" and run.registered.get(number) != group:
                waits.append((number, command.kind, command.name, group, None))

    def _cool(self) -> None:
        """Runs that were idle for long enough, or for which there is no memory, are to be parked."""
        held = self._held
        now = time.monotonic()
        if now < self._cool_at and held.cache_size is None and not held.stopping:
            return
        self._cool_at = now + 0.05
        idle = [r for r in held.runs.values() if r.idle_since and not r.next and not r.sent]
        limit = 0 if held.stopping else held.cache_size if held.cache_size is not None else MAX_WARM
        excess = len(idle) - limit
        idle.sort(key=lambda r: r.idle_since)
        for i, run in enumerate(idle):
            if i < excess or now - run.idle_since > WARM:
                run.parcel()
                held.dirty[run.run_id] = run
