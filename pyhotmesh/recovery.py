"""When a turn fails: whose fault it is, and what became of a turn whose reply was lost.

*Refused* (an error class that input can cause): an empty turn tells whether what the worker sent is to
blame. If so the batch is halved until the culprit stands alone, and that run is parked with its reason.
If not, routing or claiming meets something of somebody else's: turns go on without them while the engine
looks for it and sets it aside (aside.sql).

*Unknown* (the connection broke): a new incarnation adopts what this one held (workers.sql), and learns by
each run's last seq whether its parcel was recorded. Nothing is sent twice. What the server has lost (see
``Parcel.is_internal``) this worker's memory is ahead of: such runs are released, and begin from the journal.

Anything else is repeated whole, by the loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from . import engine, payloads
from .connection import is_connection_trouble, refusal
from .engine import Capacity, TaskEnd
from .errors import ApplicationError
from .feeding import Feeder
from .held import Held
from .line import Line, Rows
from .replay import ACTIVITY_FAILED
from .runs import KEEP, Parcel, Run
from .wire import Int4s, Int8s

log = logging.getLogger("pyhotmesh.worker")

FAULTS = ("21", "22", "23", "54", "P0", "HM")  # error classes that may be one run's fault


class LeaseEnded(Exception):
    """This incarnation is dead: its runs are with other workers."""


class Recovery:
    """See the module's head. ``feed(rows, parcels)`` takes the answer of a turn; ``on_new_id(old, new)`` tells
    whoever else uses the incarnation's id."""

    def __init__(
        self,
        held: Held,
        line: Line,
        feeder: Feeder,
        feed: Callable[[Rows, list[Parcel]], Awaitable[Any]],
        on_new_id: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self._held = held
        self._line = line
        self._feeder = feeder
        self._feed = feed
        self._on_new_id = on_new_id
        feeder.on_fault = self.park_blocked
        self._adopting = asyncio.Lock()
        self.is_careful = False  # routing or claiming fails for everybody
        self.given_up = False  # the worker is to end: no more attempts to reach the database

    # ------------------------------------------------------------------------------- refused --

    async def find_fault(self, parcels: list[Parcel], ends: list[TaskEnd], capacity: Capacity, error: BaseException) -> None:
        """A turn was refused for what it carried: finds whose fault it is, so that neighbours do not pay.
        ``capacity``: what a turn would ask for that carries nothing."""
        log.warning("a turn of %d runs was refused: %s", len(parcels), first_line(error))
        idle = Capacity(list(self._held.queues), 0, 0, 0, None, None, None)
        try:
            await self._feed(await self._line.turn(capacity, [], [], []), [])
        except psycopg.Error as again:
            if again.sqlstate == "HM004":
                raise LeaseEnded from again
            if not is_connection_trouble(again):
                log.error("routing or claiming fails (%s): going on without them", first_line(again))
                self.is_careful = True
                self._feeder.aside(self._set_aside())
        await self._halve([*parcels, *ends], idle)

    async def _set_aside(self) -> None:
        """Has the engine look for what routing or claiming fails on; then both are tried again."""
        found = 0
        try:
            ((found,),) = await self._line.apart(engine.SET_ASIDE, (self._held.worker_id, Int4s(self._held.queues)))
        except (psycopg.Error, OSError) as error:
            log.warning("could not look for it: %s", first_line(error))
        if found > 0:
            log.error("%d set aside; see trouble in hotmesh.workflows, hotmesh.waiting and hotmesh.signals", found)
        else:
            await asyncio.sleep(0.2 if found < 0 else 5.0)  # another worker is at it, or nothing was found
        self.is_careful = False
        self._held.wake()

    async def _halve(self, items: list[Parcel | TaskEnd], idle: Capacity) -> None:
        parcels = [i for i in items if isinstance(i, Parcel)]
        ends = [i for i in items if isinstance(i, TaskEnd)]
        try:
            rows = await self._line.turn(idle, [], parcels, ends)
        except (psycopg.Error, OSError) as error:
            state = str(getattr(error, "sqlstate", None) or "")
            if state == "HM004":
                raise LeaseEnded from error
            if is_connection_trouble(error) or state[:2] not in FAULTS:
                await self.adopt(parcels, ends)
            elif len(items) > 1:
                await self._halve(items[: len(items) // 2], idle)
                await self._halve(items[len(items) // 2 :], idle)
            elif parcels:
                self._held.drop(parcels[0].run)
                await self.park_blocked(parcels[0].run, state, str(error))
            else:
                failure = payloads.encode_failure(ApplicationError(f"its outcome was refused: {error}", type="Refused"))
                self._held.ends.append(ends[0]._replace(kind=ACTIVITY_FAILED, payload=failure, due=None))
            return
        await self._feed(rows, parcels)

    async def park_blocked(self, run: Run, code: str, message: str) -> None:
        """Parks a run that was dropped, with back-off and its error, visible in SQL."""
        log.error("workflow %s is parked: %s", run.workflow_id, message.splitlines()[0] if message else code)
        params = (self._held.worker_id, run.run_id, run.fence, code or "HM000", payloads.clean(message))
        try:
            await self._line.fetch(engine.TURN_FAILED, params)
        except (psycopg.Error, OSError) as error:
            log.warning("could not note it (%s); the worker adopts what it holds, without it", first_line(error))
            if not is_connection_trouble(error):
                await asyncio.sleep(random.uniform(0.5, 1.0))  # it will be claimed again, by whomever, and fail again
            # Not adopt: a turn may be on its way, and only who sent it knows what it carried.
            self._line.fail()
            self._held.wake()

    # ------------------------------------------------------------------------------- unknown --

    async def adopt(self, parcels: list[Parcel], ends: list[TaskEnd]) -> None:
        """After a call whose outcome is unknown: a new incarnation takes over what this one held.

        The engine's answer tells for each run whether its parcel was recorded. What was dropped here while the database
        was away has moved as well, if it was listed first: once more then, without it.
        """
        async with self._adopting:
            while await self._adopt(parcels, ends):
                parcels, ends = [], []

    async def _adopt(self, parcels: list[Parcel], ends: list[TaskEnd]) -> bool:
        """True if something moved that is not held."""
        held = self._held
        old, new = held.worker_id, engine.new_id()
        delay, said = 0.05, ""
        while True:
            runs = list(held.runs.values())
            # Also those that have ended but are not known to be recorded: else they would be run again.
            stands = [_stands(run) for run in runs]
            tasks = [(e.run_id, e.command, e.attempt) for e in held.tasks.values()]
            tasks += [(e.run, e.command, e.attempt) for e in (*ends, *held.ends)]
            # fmt: off
            params = (
                old, new, held.name, Int8s(r.run_id for r in runs), Int8s(t[0] for t in tasks), Int4s(t[1] for t in tasks),
                Int4s(t[2] for t in tasks), Int4s(base for base, _ in stands), Int4s(last for _, last in stands),
            )
            # fmt: on
            try:
                await self._line.close()
                rows = await self._line.fetch(engine.ADOPT, params)
                break
            except (psycopg.Error, OSError) as error:
                if getattr(error, "sqlstate", None) == "HM004" or self.given_up:
                    raise LeaseEnded from error
                if refusal(error) is not None and said != (said := first_line(error)):  # it needs somebody's hand
                    log.warning("still no connection (%s); trying again", said)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)
        held.worker_id = new
        await self._on_new_id(old, new)
        log.info("connected again; %d runs go on", sum(1 for r in rows if r[1] is None))
        held.heard = True
        strays = any(command is None and run not in held.runs for run, command, _, _ in rows)
        await self._feeder.callback(self._sort_out, rows, parcels, ends)
        return strays

    def _sort_out(self, rows: Rows, parcels: list[Parcel], ends: list[TaskEnd]) -> None:
        """Settles what was recorded; what was not is sent again. Runs that fit neither the engine has released."""
        held = self._held
        kept = {run: (seq, fence) for run, command, seq, fence in rows if command is None}
        still = {(run, command): attempt for run, command, attempt, _ in rows if command is not None}
        sent = {p.run.run_id: p for p in parcels}
        recorded: list[Parcel] = []
        for run in list(held.runs.values()):
            parcel = sent.get(run.run_id)
            if run.run_id not in kept:
                if parcel is not None and parcel.end != KEEP:
                    recorded.append(parcel)  # closed or parked, as it asked
                    continue
                held.drop(run)
                continue
            seq, run.fence = kept[run.run_id]
            if parcel is None:
                continue
            if parcel.rows and seq > parcel.base:
                recorded.append(parcel)
            else:
                self._send_again(run, parcel)
        for key, execution in list(held.tasks.items()):
            if still.get(key) != execution.attempt and not execution.finished and not held.is_unsent(*key):
                execution.cancel("its lease is gone")
                del held.tasks[key]
        held.ends[:] = [
            e for e in (*ends, *held.ends)
            if still.get((e.run, e.command)) == e.attempt or held.is_unsent(e.run, e.command)
        ]  # fmt: skip
        self._feeder.settle(recorded, set())

    def _send_again(self, run: Run, parcel: Parcel) -> None:
        """Puts a parcel that was not recorded before what has gathered since."""
        run.sent = None
        if run.next is not None:
            parcel.extend(run.next)
        run.next = parcel
        self._held.dirty[run.run_id] = run


def _stands(run: Run) -> tuple[int, int]:
    """The last row of a run's journal, before and after the parcel that is in flight, if there is one."""
    if run.sent is not None:
        return run.sent.base, run.sent.base + len(run.sent.rows)
    seq = run.next.base if run.next else run.seq
    return seq, seq


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
