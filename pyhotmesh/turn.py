"""The loop that talks to the engine: gathers what runs produced, sends it as one turn, feeds what comes back.

::

      feed ◄──────────── answer of turn k ◄──────────── hotmesh_engine.turn(...)
       │ deliver one event, drain                              ▲
       ▼                                                       │ one in flight; the next batch gathers
    commands ──► local activities ──► results ──► parcels ─────┘

One turn is in flight per incarnation. A step's result is durable before anything that follows from
it begins: activities that were asked for after a result wait in their parcel until its turn has
committed. While a turn is in flight, parcels for the next one gather; a run has at most one parcel
in flight and one gathering.

The parts: `held` (what the worker holds), `feeding` (answers and events in), `work` (activities), `sealing`
(parcels out), `recovery` (a turn that failed), `line` (the connection).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg

from . import engine
from .calls import PREFIX, Callback, Calls
from .connection import is_connection_trouble
from .engine import Capacity, TaskEnd, micros
from .feeding import Feeder
from .held import Held
from .line import Line, Rows
from .looks import SOON, UNLOOKED, Floor, Looks
from .recovery import FAULTS, LeaseEnded, Recovery, first_line
from .runs import KEEP, PARK, Parcel
from .sealing import Sealer
from .work import Work

log = logging.getLogger("pyhotmesh.worker")

CLAIM = 250  # runs per turn: the next batch is fetched while this one begins
STAYED = 0.001  # seconds until what stayed, as somebody held a lock for a commit, is routed again; doubled each time
FEW = 8  # runs with something to say at one time, beyond which a worker is busy
NOTHING = Capacity((), 0, 0, 0, None, None, None)


class TurnLoop:
    """Keeps turns going until it is stopped; see the module's head."""

    def __init__(
        self,
        *,
        dsn: str,
        worker_id: int,
        name: str,
        namespace: str,
        queues: dict[int, str],
        workflows: Mapping[str, Any],
        activities: Mapping[str, Any],
        callbacks: dict[str, Callback],
        max_runs: int,
        max_activities: int,
        cache_size: int | None,
        lease: float = 10.0,
        is_listening: Callable[[], bool],
        on_new_id: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self.held = held = Held(
            worker_id=worker_id, name=name, namespace=namespace, queues=queues, cache_size=cache_size, lease=lease
        )  # fmt: skip
        self._line = Line(dsn, held)
        self.work = Work(held, activities, max_activities)
        self.feeder = Feeder(held, self.work, Calls(held, self.work, callbacks), workflows, self._line.fetch)
        self._sealer = Sealer(held, self.work)
        self._recovery = Recovery(held, self._line, self.feeder, self._feed, on_new_id)
        self._max_runs = max_runs
        self._serves_calls = any(name.startswith(PREFIX) for name in queues.values())
        self._is_listening = is_listening
        self._closed: list[int] = []  # of the turn before: who waits for them is looked up once more
        self._asleep = False
        self._told: tuple[bool, bool] | None = None  # what the engine knows of this: asleep, and takes new work
        self._looks = Looks()
        self._looked = self._rose = False  # of the last turns: one looked for work; the flag that says 'asleep' went up
        self._untold = False  # nobody was told of a run that the turn before closed
        self._closed_at = 0.0  # monotonic: when to look once more who waits for what has closed
        self._asked_at = time.monotonic()  # for runs that were given and are not known here
        self._quiet = False
        self._more = False  # the engine has more work ready
        self._stayed = 0
        self._stayed_delay = STAYED
        self._after = 0
        self._next_due = float("inf")  # monotonic: something that is not held comes due
        self._due = Floor()  # microseconds of the engine's clock
        self._messages = Floor()  # ids
        self._messages_from: int | None = None  # where the looks that self._after goes on with began
        self._capable = NOTHING  # of the turn that was sent last
        self._coming = 0  # rows of an answer that is not fed yet: runs and tasks at most
        self.turned_at = time.monotonic()  # for the heartbeat: the loop is alive

    def serve(self, queues: dict[int, str]) -> None:
        """More queues, that the engine knows already."""
        self.held.queues.update(queues)
        self._due.forget()
        self._serves_calls = any(name.startswith(PREFIX) for name in self.held.queues.values())
        self._told = None
        self.held.wake()

    def take(self, new: bool) -> None:
        """Whether to take new work; the engine is told with the next turn."""
        self.held.claiming = new
        self._told = None
        self.held.wake()

    def told_of_commit(self) -> None:
        """A caller's transaction has made work, or the clock has been moved."""
        self._due.told()
        self._messages.told()
        self.held.wake()

    def stop(self) -> None:
        """Takes nothing new; ends when what it holds has ended or is parked."""
        self.held.stopping = True
        self.take(False)

    def given(self, what: str) -> None:
        """A run that came with its notification: the engine has taken down the flag that says 'asleep'."""
        self._told = None
        self.feeder.given(what)

    def abandon(self) -> None:
        """Ends at once; what it holds is handed back as it is."""
        self._recovery.given_up = True
        self.held.wake()

    async def run(self) -> None:
        """Turns until stopped and flushed. Raises LeaseEnded when this incarnation is dead."""
        held = self.held
        while not self._recovery.given_up:
            now = self.turned_at = time.monotonic()
            is_due = now >= self._looks.at
            pending = held.dirty or held.ends or held.heard or self._more or is_due
            if self._closed and (now >= self._closed_at or held.stopping):
                pending = True  # who waits for these is looked up once more, with whatever else there is
            if held.asks or now - self._asked_at > 1.0:
                self._asked_at, held.asks = now, False
                self.feeder.aside(self.feeder.ask_for_given())
            if pending:
                held.heard = bool(held.heard or is_due)
                if await self._turn(by_the_clock=is_due) and not self._more:
                    # Let what has just begun end, if it ends at once: its result goes with this turn.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                continue
            if held.stopping and not self.work.is_busy and not self.work.has_results:
                return
            if not self._asleep or self._told is None:
                # Let what runs for a moment end first: an extra turn would only say 'asleep'.
                if not await self._wait(0.002):
                    await self._turn(asleep=True)
                continue
            if self._closed:
                await self._wait(min(self._closed_at, self._looks.at) - now)
                continue
            bound = min(self._looks.at, self._next_due) - now
            if self._stayed:
                bound = min(bound, self._stayed_delay)
                self._stayed_delay = min(self._stayed_delay * 2, 1.0)
            if not await self._wait(min(max(0.0, bound), held.until_timer())):
                held.heard = True  # a poll; timers that are due fire first

    async def _wait(self, seconds: float) -> bool:
        """Waits for an event; True if there was one."""
        held = self.held
        if held.event.is_set():
            held.event.clear()
            return True
        handle = held.loop.call_later(seconds, held.event.set)
        began = time.monotonic()
        await held.event.wait()
        handle.cancel()
        held.event.clear()
        return time.monotonic() - began < seconds * 0.9 or bool(held.dirty or held.ends or held.heard)

    # --------------------------------------------------------------------------------- turns --

    async def _turn(self, asleep: bool = False, by_the_clock: bool = False) -> bool:
        """A turn with all that has gathered, and more while there is more to send or to fetch: the next one
        is on its way before the answer of this one is fed. True if one brought something.
        ``by_the_clock``: it is to look for work that nobody told of."""
        self.held.event.clear()
        self._looked = self._rose = False
        found = await self._turns(asleep)
        now = time.monotonic()
        self._looks.after(
            now, looked=self._looked, rose=self._rose, found=found, untold=found and by_the_clock,
            is_listening=self._is_listening(),
        )  # fmt: skip
        self._closed_at = now + (SOON if self._untold else UNLOOKED)
        return found

    async def _turns(self, asleep: bool) -> bool:
        held, callback, fire_timers = self.held, self.feeder.callback, self.feeder.fire_timers
        if held.timer_is_due():
            await callback(fire_timers)
        found = False
        turn = self._prepare(asleep)
        sending = held.loop.create_task(self._send(*turn))
        try:
            while True:
                while held.timer_is_due() and not sending.done():
                    await callback(fire_timers)
                rows = await sending
                following = None
                if rows is None:
                    self._closed = []
                    found = True
                else:
                    self._asleep = turn[3]
                    self._head(rows, self._capable)
                    if (held.dirty or self._more) and not self._recovery.given_up:
                        following = self._prepare(asleep=False, busy=self._coming > 0 or self._more or len(held.dirty) > FEW)
                        sending = held.loop.create_task(self._send(*following))
                    self._coming = 0
                    found |= bool(await callback(self.feeder.answer, rows, turn[0]))
                held.fetching = following is not None and bool(self._capable.queues)
                if following is None:
                    return found
                turn = following
        finally:
            sending.cancel()

    def _prepare(self, asleep: bool, busy: bool = False) -> tuple[list[Parcel], list[TaskEnd], list[int], bool]:
        """Seals a turn: its parcels, ended tasks, runs closed by the turn before, and how the worker will wait."""
        held = self.held
        heard, held.heard = held.heard or self._more, False
        parcels = self._sealer.seal()
        parking = any(p.end == PARK for p in parcels)  # what they wait for may come due soon
        self._quiet = self._asleep and not heard and not parking
        ends = self.work.take_ends()
        closed, self._closed = self._closed, [p.run.run_id for p in parcels if p.end > KEEP]
        # A worker with little to do stays 'asleep' through its turns: that spares two writes each.
        if not asleep:
            busy = busy or self.work.is_busy or self._more
            asleep = not (busy or any(p.starts for p in parcels))
        return parcels, ends, closed, asleep

    def _capacity(self, asleep: bool) -> Capacity:
        held = self.held
        takes = held.claiming and not self._recovery.is_careful
        # Whoever makes work for a worker that is asleep tells it so: a turn that only reports need not look.
        quiet = self._quiet and self._is_listening()
        news = (asleep, takes) != self._told
        self._told = asleep, takes
        self._looked |= not quiet
        self._rose |= news and asleep
        if quiet and asleep == self._asleep and takes:
            return Capacity((), 0, 0, 0, None, None, asleep if news else None)
        coming = self._coming
        free = CLAIM if held.claiming else 0
        if free and len(held.runs) + coming > self._max_runs - CLAIM:
            free = self._max_runs - coming - sum(1 for r in held.runs.values() if r.runnable)
        queues = list(held.queues) if takes else [0]  # 0: of no queue
        if self._serves_calls and self.work.executor.is_slow:
            # More calls than there are places for would only wait here, and others may have time for them.
            free = min(free, self.work.executor.free)
        random.shuffle(queues)
        careful = self._recovery.is_careful or quiet
        now = time.monotonic()
        if not self._after:
            self._messages_from = self._messages.at(now)
        return Capacity(
            queues,
            0 if careful else max(0, min(CLAIM, free)),
            0 if careful or not held.claiming else max(0, self.work.executor.free - coming),
            max(0, held.suspects_allowed - held.suspects - coming),
            None if (floor := self._due.at(now)) is None else datetime.fromtimestamp(floor / 1e6, UTC),
            None if careful else self._after or self._messages_from or 0,
            asleep if news else None,
        )

    async def _send(self, parcels: list[Parcel], ends: list[TaskEnd], closed: list[int], asleep: bool) -> Rows | None:
        """The call, with all that can go wrong with it. None: nothing to feed (see recovery)."""
        delay = 0.05
        while True:
            try:
                self._capable = self._capacity(asleep)
                self.held.fetching |= bool(self._capable.queues)
                return await self._line.turn(self._capable, closed, parcels, ends)
            except (psycopg.Error, OSError) as error:
                state = getattr(error, "sqlstate", None)
                if state == "HM004":
                    raise LeaseEnded from error
                if is_connection_trouble(error):
                    log.warning("the database does not answer (%s); trying again", first_line(error))
                    await self._recovery.adopt(parcels, ends)
                    self._asleep, self._told = False, None
                    return None
                self._told = None
                if state is not None and state[:2] in FAULTS:
                    await self._recovery.find_fault(parcels, ends, self._capacity(False), error)
                    return None
                log.warning("a turn failed (%s %s); trying again", state, first_line(error))
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)

    def _head(self, rows: Rows, asked: Capacity) -> None:
        """What an answer says of the engine; before the rest is fed, as the next turn may depend on it."""
        _, after, last_id, due_in, stayed, more, untold, epoch = next(row[:8] for row in rows if row[0] == engine.HEAD)
        self._untold = bool(untold)
        self._coming = len(rows) - 1
        at = micros(epoch)
        now = time.monotonic()
        self.held.told(at)
        if asked.runs and not (more and sum(row[0] == engine.LEASED for row in rows) >= asked.runs):
            self._due.took_all(now, at - 1_000_000, None if asked.due_floor is None else micros(asked.due_floor.timestamp()))
        if asked.after is not None and last_id is not None and not (after or stayed):
            self._messages.took_all(now, last_id, self._messages_from)
        self._after = after
        self._more = (more and self.held.claiming) or after > 0
        if stayed != self._stayed or not stayed:
            self._stayed_delay = STAYED
        self._stayed = stayed
        if due_in != -1:
            self._next_due = now + due_in / 1000 if due_in is not None else float("inf")

    async def _feed(self, rows: Rows, parcels: list[Parcel]) -> None:
        self._head(rows, NOTHING)
        self._coming = 0
        await self.feeder.callback(self.feeder.answer, rows, parcels)

    async def close(self) -> None:
        """Drops everything; the engine is told by whoever calls this (retire), or finds out."""
        self.work.executor.close()

        def drop_all() -> None:
            for run in list(self.held.runs.values()):
                self.held.drop(run)

        await self.feeder.callback(drop_all)
        await self._line.close()
