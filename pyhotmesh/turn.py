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

Workflow code is driven from plain callbacks of the event loop, never inside one of its tasks
(Python 3.14 refuses to enter a task inside another's).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection

from . import activity, direct, engine, payloads, retry
from .connection import connect, is_connection_trouble
from .engine import Capacity, TaskEnd, micros
from .errors import ApplicationError, HotMeshError
from .executor import Execution, Executor
from .heartbeat import Beat
from .replay import (
    ACTIVITY_FAILED,
    COMMANDS,
    LEASE_LOST,
    STARTED,
    TIMER_FIRED,
    ActivityCall,
    Command,
    Info,
    Instance,
    Row,
)
from .runs import KEEP, PARK, Parcel, Run
from .wire import INFINITY, Int4s, Int8s

log = logging.getLogger("pyhotmesh.worker")

CLAIM = 250  # runs per turn: the next batch is fetched while this one begins
MAX_BATCH_RUNS = 300  # a turn's fixed cost is that of ten runs
MIN_BATCH_RUNS = 50
MAX_BATCH_BYTES = 4_000_000
WARM = 2.0  # seconds that an idle run keeps its lease
POLL = 1.0
POLL_DEAF = 0.1  # without a listener
LOOKS = (
    0.005,
    0.02,
    0.08,
    0.32,
)  # after falling asleep: covers the gap between a sender's look and its commit
MOMENT = 1.0  # an activity that runs for longer gets a row
FAULTS = ("21", "22", "23", "54", "P0", "HM")  # error classes that may be one run's fault


class LeaseEnded(Exception):
    """This incarnation is dead: its runs are with other workers."""


class TurnLoop:
    """Holds runs and keeps turns going until ``stop``; see the module's head."""

    def __init__(
        self,
        *,
        dsn: str,
        worker_id: int,
        name: str,
        namespace: str,
        queues: Mapping[int, str],
        workflows: Mapping[str, Any],
        activities: Mapping[str, Any],
        max_runs: int,
        max_activities: int,
        cache_size: int | None,
        is_listening: Callable[[], bool],
        on_new_id: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self.dsn = dsn
        self.worker_id = worker_id
        self.name = name
        self.namespace = namespace
        self.queues = queues
        self.workflows = workflows
        self.activities = activities
        self.max_runs = max_runs
        self.cache_size = cache_size
        self._is_listening = is_listening
        self._on_new_id = on_new_id
        self._loop = asyncio.get_running_loop()
        self.executor = Executor(max_activities, self._activity_done)
        self.runs: dict[int, Run] = {}
        self.tasks: dict[tuple[int, int], Execution] = {}  # activity rows that this worker runs
        self._dirty: dict[int, Run] = {}  # runs with a gathering parcel
        self._ends: list[TaskEnd] = []
        self._timers: list[tuple[int, int]] = []  # (due, run id)
        self._done: deque[tuple[Execution, int, bytes, BaseException | None]] = deque()
        self._pump_scheduled = False
        self._event = asyncio.Event()
        self._conn: AsyncConnection[Any] | None = None
        self._asides: set[asyncio.Task[None]] = set()
        self._warm: AsyncConnection[Any] | None = None  # the connection that has planned its statements
        self._closed: list[int] = []  # of the turn before: who waits for them is looked up once more
        self._asleep = False
        self._quiet = False
        self._more = False  # the engine has more work ready
        self._heard = True  # a notification came, or it is time to look
        self._stayed = 0
        self._stayed_delay = 0.005
        self._after = 0
        self._next_due = float("inf")  # monotonic: something that is not held comes due
        self._suspects_allowed = 1
        self._suspects_held: set[int] = set()
        self._clock = (0, 0.0)  # engine's µs, and the monotonic clock when it was told
        self._floor_seen: deque[tuple[float, int]] = deque()
        self._full_claim = 0.0
        self._cool_at = 0.0
        self._coming = 0  # rows of an answer that is not fed yet: runs and tasks at most
        self._careful = False  # routing or claiming fails for everybody: see _find_fault
        self.on_beat: Callable[[float], None] = lambda at: None  # a sign of life is to be sent by then
        self.claiming = True
        self.stopping = False
        self.abandoned = False
        self.turned_at = time.monotonic()  # for the heartbeat: the loop is alive
        self.turns = 0

    # ---------------------------------------------------------------------------------- clock --

    def now(self) -> int:
        """The engine's clock, estimated: its last answer plus what has passed since, in µs."""
        told, at = self._clock
        return told + int((time.monotonic() - at) * 1_000_000)

    def wake(self) -> None:
        """A hint that there is something to fetch."""
        self._heard = True
        self._event.set()

    # -------------------------------------------------------------------------------- sending --

    async def run(self) -> None:
        """Turns until stopped and flushed. Raises LeaseEnded when this incarnation is dead."""
        looks = 0
        while not self.abandoned:
            self.turned_at = time.monotonic()
            if self._closed and not (self._dirty or self._ends or self._heard or self._more):
                # The second look for waiting clients; those that were told already need the processor first.
                await self._wait(0.001)
            if self._dirty or self._ends or self._heard or self._more or self._closed:
                self._event.clear()
                found = await self._turn()
                if found or self._dirty:
                    looks = 0
                if found and not self._more:
                    # Let what has just begun end, if it ends at once: its result goes with this turn.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                continue
            if self.stopping and not self.executor.running and not self.executor.queue and not self._done:
                return
            if not self._asleep:
                # Let what runs for a moment end first: an extra turn would only say 'asleep'.
                if not await self._wait(0.002) and not self._asleep:
                    self._event.clear()
                    await self._turn(asleep=True)
                    looks = 0
                continue
            bound = POLL if self._is_listening() else POLL_DEAF
            if self._stayed:
                bound = min(bound, self._stayed_delay)
                self._stayed_delay = min(self._stayed_delay * 2, 1.0)
            if looks < len(LOOKS):
                bound = min(bound, LOOKS[looks])
                looks += 1
            if not await self._wait(self._next_timer(bound)):
                self._heard = True  # a poll; timers that are due fire first

    async def _wait(self, seconds: float) -> bool:
        """Waits for an event; True if there was one."""
        if self._event.is_set():
            self._event.clear()
            return True
        handle = self._loop.call_later(seconds, self._event.set)
        began = time.monotonic()
        await self._event.wait()
        handle.cancel()
        self._event.clear()
        return time.monotonic() - began < seconds * 0.9 or bool(self._dirty or self._ends or self._heard)

    def _next_timer(self, bound: float) -> float:
        bound = min(bound, max(0.0, self._next_due - time.monotonic()))
        if self._timers:
            bound = min(bound, max(0.0, (self._timers[0][0] - self.now()) / 1_000_000))
        return bound

    async def _turn(self, asleep: bool = False) -> bool:
        """A turn with all that has gathered, and more while there is more to send or to fetch: the next one
        is on its way before the answer of this one is fed. True if one brought something."""
        if self._timer_is_due():
            await self._callback(self._fire_timers)
        found = False
        turn = self._prepare(asleep)
        sending = self._loop.create_task(self._send(*turn))
        try:
            while True:
                while self._timer_is_due() and not sending.done():
                    await self._callback(self._fire_timers)
                rows = await sending
                following = None
                if rows is None:
                    self._closed = []
                    found = True
                else:
                    self._asleep = turn[3]
                    self._head(rows)
                    if (self._dirty or self._more) and not self.abandoned:
                        following = self._prepare(asleep=False, busy=True)
                        sending = self._loop.create_task(self._send(*following))
                    found |= bool(await self._callback(self._answer, rows, turn[0]))
                if following is None:
                    return found
                turn = following
        finally:
            sending.cancel()

    def _timer_is_due(self) -> bool:
        return bool(self._timers) and self._timers[0][0] <= self.now()

    def _prepare(self, asleep: bool, busy: bool = False) -> tuple[list[Parcel], list[TaskEnd], list[int], bool]:
        """Seals a turn: its parcels, ended tasks, runs closed by the turn before, and how the worker will wait."""
        self._quiet = self._asleep and not self._heard and not self._more
        self._heard = False
        parcels = self._seal()
        ends, self._ends = self._ends, []
        closed, self._closed = self._closed, [p.run.run_id for p in parcels if p.end > KEEP]
        # A worker with little to do stays 'asleep' through its turns: that spares two writes each.
        if not asleep:
            busy = busy or bool(self.executor.running or self.executor.queue or self._more)
            asleep = not (busy or any(p.starts for p in parcels))
        return parcels, ends, closed, asleep

    async def _callback(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function as a plain callback of the loop, outside of any task."""
        future = self._loop.create_future()

        def call() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon(call)
        return await future

    def _capacity(self, asleep: bool) -> Capacity:
        coming = self._coming
        free = CLAIM if self.claiming else 0
        if free and len(self.runs) + coming > self.max_runs - CLAIM:
            free = self.max_runs - coming - sum(1 for r in self.runs.values() if r.runnable)
        now = time.monotonic()
        floor: datetime | None = None
        if now - self._full_claim > 5.0:
            self._full_claim = now
        elif self._clock[0] and now - self._full_claim > 0:
            while len(self._floor_seen) > 1 and now - self._floor_seen[1][0] > 10.0:
                self._floor_seen.popleft()
            if self._floor_seen and now - self._floor_seen[0][0] > 10.0:
                floor = datetime.fromtimestamp(self._floor_seen[0][1] / 1e6, UTC) - timedelta(seconds=1)
        queues = list(self.queues)
        random.shuffle(queues)
        # Whoever makes work for a worker that is asleep tells it so: a turn that only reports need not look.
        careful = self._careful or (self._quiet and self._is_listening())
        return Capacity(
            queues,
            0 if careful else max(0, min(CLAIM, free)),
            0 if careful or not self.claiming else max(0, self.executor.free - coming),
            max(0, self._suspects_allowed - len(self._suspects_held) - coming),
            floor,
            None if careful else self._after,
            None if asleep == self._asleep else asleep,
        )

    async def _send(
        self, parcels: list[Parcel], ends: list[TaskEnd], closed: list[int], asleep: bool
    ) -> list[tuple[Any, ...]] | None:
        """The call, with all that can go wrong with it. None: nothing to feed (see _recover)."""
        delay = 0.05
        while True:
            try:
                return await self._call(self._capacity(asleep), closed, parcels, ends)
            except (psycopg.Error, OSError) as error:
                state = getattr(error, "sqlstate", None)
                if state == "HM004":
                    raise LeaseEnded from error
                if is_connection_trouble(error):
                    log.warning("the database does not answer (%s); trying again", _first_line(error))
                    await self._adopt(parcels, ends)
                    return None
                if state is not None and state[:2] in FAULTS:
                    await self._find_fault(parcels, ends, error)
                    return None
                log.warning("a turn failed (%s %s); trying again", state, _first_line(error))
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)
                self.turned_at = time.monotonic()

    async def _call(
        self, capacity: Capacity, closed: list[int], parcels: list[Parcel], ends: list[TaskEnd]
    ) -> list[tuple[Any, ...]]:
        if self._conn is None or self._conn.closed:
            self._conn = await connect(self.dsn)
        if self._warm is not self._conn:
            self._warm = self._conn
            await direct.fetch(self._conn, engine.WARM_UP, (self.worker_id,))
        self.turns += 1
        return await direct.fetch(self._conn, *engine.turn_call(self.worker_id, capacity, closed, parcels, ends))

    async def _find_fault(self, parcels: list[Parcel], ends: list[TaskEnd], error: BaseException) -> None:
        """A turn was refused for what it carried: finds whose fault it is, so that neighbours do not pay.

        First an empty turn: if that fails too, routing or claiming meets something of somebody
        else's. Turns go on without them until the engine has found it and set it aside.
        """
        log.warning("a turn of %d runs was refused: %s", len(parcels), _first_line(error))
        idle = Capacity(list(self.queues), 0, 0, 0, None, None, None)
        try:
            rows = await self._call(self._capacity(False), [], [], [])
            self._head(rows)
            await self._callback(self._answer, rows, [])
        except psycopg.Error as again:
            if again.sqlstate == "HM004":
                raise LeaseEnded from again
            if not is_connection_trouble(again):
                log.error("routing or claiming fails (%s): going on without them", _first_line(again))
                self._careful = True
                self._aside(self._set_aside())
        await self._halve([*parcels, *ends], idle)

    async def _set_aside(self) -> None:
        """Has the engine look for what routing or claiming fails on; then both are tried again."""
        found = 0
        try:
            conn = await connect(self.dsn)
            try:
                ((found,),) = await direct.fetch(conn, engine.SET_ASIDE, (self.worker_id, Int4s(self.queues)))
            finally:
                await conn.close()
        except (psycopg.Error, OSError) as error:
            log.warning("could not look for it: %s", _first_line(error))
        if found > 0:
            log.error("%d set aside; see trouble in hotmesh.workflows, hotmesh.waiting and hotmesh.signals", found)
        else:
            await asyncio.sleep(0.2 if found < 0 else 5.0)  # another worker is at it, or nothing was found
        self._careful = False
        self.wake()

    async def _halve(self, items: list[Parcel | TaskEnd], idle: Capacity) -> None:
        parcels = [i for i in items if isinstance(i, Parcel)]
        ends = [i for i in items if isinstance(i, TaskEnd)]
        try:
            rows = await self._call(idle, [], parcels, ends)
        except (psycopg.Error, OSError) as error:
            state = str(getattr(error, "sqlstate", None) or "")
            if state == "HM004":
                raise LeaseEnded from error
            if is_connection_trouble(error) or state[:2] not in FAULTS:
                await self._adopt(parcels, ends)
            elif len(items) > 1:
                await self._halve(items[: len(items) // 2], idle)
                await self._halve(items[len(items) // 2 :], idle)
            elif parcels:
                await self._blocked(parcels[0].run, state, str(error))
            else:
                failure = payloads.encode_failure(ApplicationError(f"its outcome was refused: {error}", type="Refused"))
                self._ends.append(ends[0]._replace(kind=ACTIVITY_FAILED, payload=failure, due=None))
            return
        self._head(rows)
        await self._callback(self._answer, rows, parcels)

    async def _blocked(self, run: Run, code: str, message: str) -> None:
        """Parks a run with back-off and its error, visible in SQL, and forgets it here."""
        self._drop(run)
        log.error("workflow %s is parked: %s", run.workflow_id, message.splitlines()[0] if message else code)
        try:
            if self._conn is None or self._conn.closed:
                self._conn = await connect(self.dsn)
            await self._conn.execute(
                engine.TURN_FAILED,
                (self.worker_id, run.run_id, run.fence, code or "HM000", payloads.clean(message)),
            )
        except (psycopg.Error, OSError) as error:
            log.warning("could not note it (%s); the lease will be adopted or swept", _first_line(error))
            await self._adopt([], [])

    # ------------------------------------------------------------------------------- adopting --

    async def _adopt(self, parcels: list[Parcel], ends: list[TaskEnd]) -> None:
        """After a call whose outcome is unknown: a new incarnation takes over what this one held.

        The engine's answer tells for each run whether its parcel was recorded.
        """
        old, new = self.worker_id, engine.new_id()
        if self._conn is not None:
            await self._conn.close()
        delay = 0.05
        held = list(self.runs.values())
        # Also those that have ended but are not known to be recorded: else they would be run again.
        tasks = [(e.run_id, e.command, e.attempt) for e in self.tasks.values()]
        tasks += [(e.run, e.command, e.attempt) for e in (*ends, *self._ends)]
        while True:
            try:
                self._conn = await connect(self.dsn)
                cursor = await self._conn.execute(
                    engine.ADOPT,
                    (old, new, self.name, Int8s(r.run_id for r in held), Int8s(t[0] for t in tasks),
                     Int4s(t[1] for t in tasks), Int4s(t[2] for t in tasks)),
                )  # fmt: skip
                rows = await cursor.fetchall()
                break
            except (psycopg.Error, OSError) as error:
                if getattr(error, "sqlstate", None) == "HM004":
                    raise LeaseEnded from error
                self.turned_at = time.monotonic()
                if self.abandoned:
                    raise LeaseEnded from error
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)
        self.worker_id = new
        await self._on_new_id(old, new)
        log.info("connected again; %d runs go on", sum(1 for r in rows if r[1] is None))
        self._asleep = False
        self._heard = True
        await self._callback(self._adopted, rows, parcels, ends)

    def _adopted(self, rows: list[tuple[Any, ...]], parcels: list[Parcel], ends: list[TaskEnd]) -> None:
        kept = {run: (seq, fence) for run, command, seq, fence in rows if command is None}
        still = {(run, command): attempt for run, command, attempt, _ in rows if command is not None}
        sent = {p.run.run_id: p for p in parcels}
        recorded: list[Parcel] = []
        for run in list(self.runs.values()):
            parcel = sent.get(run.run_id)
            if run.run_id not in kept:
                if parcel is not None and parcel.end != KEEP:
                    recorded.append(parcel)  # closed or parked, as it asked
                    continue
                self._drop(run)
                continue
            seq, run.fence = kept[run.run_id]
            if parcel is None:
                if seq != (run.next.base if run.next else run.seq):
                    self._drop(run)
                continue
            last = parcel.base + len(parcel.rows)
            if seq == last and parcel.rows:
                recorded.append(parcel)
            elif seq == parcel.base:
                self._send_again(run, parcel)
            else:
                self._drop(run)
        for key, execution in list(self.tasks.items()):
            if still.get(key) != execution.attempt and not execution.finished:
                execution.cancel("its lease is gone")
                del self.tasks[key]
        self._ends = [e for e in (*ends, *self._ends) if still.get((e.run, e.command)) == e.attempt]
        self._settle(recorded, set())

    def _send_again(self, run: Run, parcel: Parcel) -> None:
        """Puts a parcel that was not recorded before what has gathered since."""
        run.sent = None
        later = run.next
        run.next = parcel
        self._dirty[run.run_id] = run
        if later is not None:
            for name in ("rows", "used", "back", "ended", "starts", "waits", "signals", "tasks"):
                getattr(parcel, name).extend(getattr(later, name))
            parcel.size += later.size
            parcel.lists |= later.lists
            parcel.end, parcel.due, parcel.outcome = later.end, later.due, later.outcome
            parcel.cleared = parcel.cleared or later.cleared

    # -------------------------------------------------------------------------------- sealing --

    def _seal(self) -> list[Parcel]:
        """Takes the gathered parcels, up to a batch's limits, and decides who parks."""
        self._spill()
        self._cool()
        parcels: list[Parcel] = []
        size = 0
        # Not all that is held in one batch: while a part is on its way, the others can run.
        limit = min(MAX_BATCH_RUNS, max(MIN_BATCH_RUNS, len(self.runs) // 2))
        for run_id, run in list(self._dirty.items()):
            parcel = run.next
            if parcel is None:
                del self._dirty[run_id]
                continue
            if run.sent is not None:
                continue
            if len(parcels) >= limit:
                self._event.set()
                break
            self._complete(run, parcel)
            if run.local and parcel.is_early:
                del self._dirty[run_id]  # goes with the activity's result, or with its row
                continue
            if parcel.is_empty:
                run.next = None
                del self._dirty[run_id]
                self._note_idle(run)
                continue
            size += parcel.size
            if parcels and size > MAX_BATCH_BYTES:
                self._event.set()
                break
            del self._dirty[run_id]
            run.next, run.sent = None, parcel
            parcels.append(parcel)
        return parcels

    def _complete(self, run: Run, parcel: Parcel) -> None:
        """Adds what only the whole parcel can tell: its listing, groups, and whether it ends the lease."""
        instance = run.instance
        if instance is None or parcel.end > KEEP:
            return
        if parcel.waits:
            groups = instance.groups()
            parcel.waits = [(number, kind, key, groups.get(number, number), due) for number, kind, key, _, due in parcel.waits]
        if not (run.local or parcel.starts or self._done) and self._may_park(run, instance):
            self._park(run, parcel, instance)
        if parcel.waits or parcel.tasks or parcel.signals or parcel.end == PARK or parcel.lists:
            listing = instance.listing()
            # Tasks must not be added twice: a row, even an empty one, shows whether the parcel was recorded.
            if listing is not None or (parcel.tasks and not parcel.rows):
                run.seq += 1
                parcel.rows.append((run.run_id, run.seq, COMMANDS, None, instance.now, None, listing))
        for number, _, _, group, _ in parcel.waits:
            run.registered[number] = group

    def _may_park(self, run: Run, instance: Instance) -> bool:
        if self.cache_size == 0:
            return True
        if run.idle_since == 0.0:
            due = instance.next_due()
            return due is not None and due[0] - self.now() > WARM * 1e6 and len(instance.pending) == 1
        return True

    def _park(self, run: Run, parcel: Parcel, instance: Instance) -> None:
        """The lease goes back: everything that the run waits for is written down."""
        due = instance.next_due()
        if due is not None and due[0] <= self.now() and self.cache_size != 0:
            return
        parcel.end = PARK
        parcel.due = due[0] if due is not None else INFINITY
        groups = instance.groups()
        new = {w[0] for w in parcel.waits}
        for number, command in instance.pending.items():
            if number in new:
                continue
            group = groups.get(number, number)
            if command.kind == "t":
                parcel.waits.append((number, "t", None, number, command.spec))
            elif run.registered.get(number) != group:
                parcel.waits.append((number, command.kind, command.name, group, None))

    def _cool(self) -> None:
        """Runs that were idle for long enough, or for which there is no memory, are to be parked."""
        now = time.monotonic()
        if now < self._cool_at and self.cache_size is None and not self.stopping:
            return
        self._cool_at = now + 0.05
        idle = [r for r in self.runs.values() if r.idle_since and not r.next and not r.sent]
        limit = self.cache_size if self.cache_size is not None else 10_000
        excess = len(idle) - limit if not self.stopping else len(idle)
        idle.sort(key=lambda r: r.idle_since)
        for i, run in enumerate(idle):
            if i < excess or now - run.idle_since > WARM:
                run.parcel()
                self._dirty[run.run_id] = run

    def _spill(self) -> None:
        """Activities that wait behind slow ones are offered to other workers."""
        for execution in self.executor.spill():
            run: Run = execution.run
            if run.sent is None or run.sent.end == KEEP:
                run.local.pop(execution.command, None)
                self._add_task(run, execution, held=False)
        now = time.monotonic()
        for execution in self.executor.running:
            if not execution.tasked and execution.run is not None and now - execution.begun > MOMENT:
                self._add_task(execution.run, execution, held=True)

    def _add_task(
        self,
        run: Run,
        execution: Execution,
        *,
        held: bool,
        due: int | None = None,
        failure: bytes | None = None,
    ) -> None:
        """Gives an activity a row: from its commit on that row is the licence to run it."""
        call: ActivityCall = execution.options
        now = self.now()
        parcel = run.parcel()
        self._dirty[run.run_id] = run
        deadline = now + int(call.schedule_to_close * 1e6) if call.schedule_to_close is not None else None
        parcel.tasks.append(
            (execution.command, call.task_queue, execution.name, execution.input, _options(call),
             execution.attempt, held, due, deadline, call.heartbeat_timeout, failure)
        )  # fmt: skip
        if execution.command not in run.registered:
            parcel.waits.append((execution.command, "a", execution.name, execution.command, None))
        if held:
            execution.tasked = True
            run.local.pop(execution.command, None)
            self.tasks[run.run_id, execution.command] = execution

    # -------------------------------------------------------------------------------- feeding --

    def _answer(self, rows: list[tuple[Any, ...]], parcels: list[Parcel]) -> bool:
        """Settles what was sent, and feeds what came back."""
        self._coming = 0
        leased: dict[int, Run] = {}
        inputs: dict[int, tuple[bytes, int]] = {}
        journals: dict[int, list[tuple[Any, ...]]] = {}
        open_tasks: dict[int, set[int]] = {}
        messages: list[tuple[Any, ...]] = []
        tasks: list[tuple[Any, ...]] = []
        rejected: set[int] = set()
        gone: list[int] = []
        for row in rows:
            kind = row[0]
            if kind == engine.LEASED:
                _, run_id, _, seq, fence, lost, queue_id, created, type_name, key, input, _, _ = row
                run = Run(run_id, fence, seq, lost, queue_id, self.queues.get(queue_id, ""), key, type_name)
                leased[run_id] = run
                inputs[run_id] = (input.encode(), micros(created))
            elif kind == engine.JOURNAL:
                journals.setdefault(row[1], []).append(row)
            elif kind == engine.MESSAGE:
                messages.append(row)
            elif kind == engine.REJECTED:
                rejected.add(row[1])
            elif kind == engine.GONE:
                gone.append(row[1])
            elif kind == engine.TASK_OPEN:
                open_tasks.setdefault(row[1], set()).add(row[5])
            elif kind == engine.TASK:
                tasks.append(row)
        self._settle([p for p in parcels if p.run.run_id not in rejected], rejected)
        for run_id in gone:
            if run_id in self.runs:
                self._drop(self.runs[run_id])
        for run in leased.values():
            old = self.runs.get(run.run_id)
            if old is not None:
                self._drop(old)
            self.runs[run.run_id] = run
            if run.lost >= 2:
                self._suspects_held.add(run.run_id)
            answered = {m[5] for m in messages if m[1] == run.run_id}
            self._guard(
                run, self._begin, run, *inputs[run.run_id], journals.get(run.run_id, []),
                open_tasks.get(run.run_id, set()) | answered,
            )  # fmt: skip
        for _, run_id, inbox_id, _, kind, command, _, _, _, _, payload, _, _ in messages:
            held = self.runs.get(run_id)
            if held is not None and inbox_id not in held.seen:
                self._guard(held, self._receive, held, inbox_id, kind, command, payload)
        for row in tasks:
            self._take_task(row)
        self._fire_timers()
        return bool(leased or messages or tasks)

    def _head(self, rows: list[tuple[Any, ...]]) -> None:
        """What an answer says of the engine; before the rest is fed, as the next turn may depend on it."""
        _, after, _, due_in, stayed, more, _, at = next(row[:8] for row in rows if row[0] == engine.HEAD)
        self._coming = len(rows) - 1
        at = micros(at)
        now = time.monotonic()
        self._clock = (max(at, self.now()) if at - self.now() > -1_000_000 else at, now)
        if not self._floor_seen or now - self._floor_seen[-1][0] > 1.0:
            self._floor_seen.append((now, at))
        self._after = after
        self._more = (more and self.claiming) or after > 0
        if stayed != self._stayed or not stayed:
            self._stayed_delay = 0.005
        self._stayed = stayed
        self._next_due = now + due_in / 1000 if due_in is not None else float("inf")

    def _settle(self, parcels: list[Parcel], rejected: set[int]) -> None:
        """A turn has committed: what waited for that begins; what ended is forgotten."""
        for parcel in parcels:
            run = parcel.run
            run.sent = None
            if parcel.used or parcel.back:
                run.seen.difference_update(parcel.used, parcel.back)
            if parcel.end != KEEP:
                self._forget(run)
                continue
            if parcel.cleared:
                run.lost = 0
                self._cleared(run)
            for command, attempt in parcel.starts:
                if command.number in run.local and run.run_id in self.runs:
                    self._begin_activity(run, command, attempt)
            self._note_idle(run)
        for run_id in rejected:
            if run_id in self.runs:
                log.info("the lease of run %s has moved on", run_id)
                self._drop(self.runs[run_id])

    def _cleared(self, run: Run) -> None:
        if run.run_id in self._suspects_held:
            self._suspects_held.discard(run.run_id)
            self._suspects_allowed = min(self._suspects_allowed * 2, 1000)

    def _note_idle(self, run: Run) -> None:
        if run.local or run.next or run.sent:
            run.idle_since = 0.0
        elif not run.idle_since:
            run.idle_since = time.monotonic()
            if self.cache_size is not None or self.stopping:
                self._event.set()
                self._heard = True

    def _guard(self, run: Run, function: Callable[..., None], *args: Any) -> None:
        """One run's failure is that run's: it is parked with its reason."""
        try:
            function(*args)
        except Exception as error:
            code = error.code if isinstance(error, HotMeshError) else "HM000"
            if not isinstance(error, HotMeshError):
                log.exception("workflow %s cannot go on", run.workflow_id)
            self._drop(run)
            self._aside(self._blocked(run, code, f"{type(error).__name__}: {error}"))

    def _begin(self, run: Run, input: bytes, created: int, journal: list[tuple[Any, ...]], elsewhere: set[int]) -> None:
        """A leased run's coroutine: fresh, or replayed from its journal."""
        definition = self.workflows.get(run.workflow_type)
        if definition is None:
            known = ", ".join(sorted(self.workflows)) or "none"
            raise HotMeshError(f"workflow type {run.workflow_type!r} is not registered on worker {self.name} (known: {known})")
        if len(journal) < run.seq:
            self._aside(self._page(run, input, created, journal, elsewhere))
            return
        info = Info(
            workflow_id=run.workflow_id, run_id=run.run_id, workflow_type=run.workflow_type,
            task_queue=run.queue, namespace=self.namespace, created_at=created,
        )  # fmt: skip
        run.instance = instance = Instance(definition, info, input)
        if not run.seq:
            now = self.now()
            run.parcel().rows.append((run.run_id, 1, STARTED, None, now, None, None))
            run.seq = 1
            self._dirty[run.run_id] = run
            instance.deliver(STARTED, None, now, None)
            self._carry(run)
            if run.local and run.next is not None and run.next.is_early:
                self._dirty.pop(run.run_id, None)
            return
        self._replay(run, journal, elsewhere)
        early, run.early = run.early, []
        for message in early:
            self._receive(run, *message)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that the turns need not wait for; it uses their connection in between."""
        task = self._loop.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _page(self, run: Run, input: bytes, created: int, journal: list[tuple[Any, ...]], elsewhere: set[int]) -> None:
        """Fetches the rest of a journal that is longer than what came with the turn."""
        try:
            while len(journal) < run.seq and self._conn is not None:
                page = await direct.fetch(self._conn, engine.JOURNAL_PAGE, (self.worker_id, run.run_id, len(journal), 5000))
                if not page:
                    self._drop(run)  # the lease is gone
                    return
                journal.extend(page)
        except (psycopg.Error, OSError):
            self._drop(run)  # the turn loop notices as well, and adopts without this run
            return
        if self.runs.get(run.run_id) is run:
            await self._callback(self._guard, run, self._begin, run, input, created, journal, elsewhere)
            self._event.set()

    def _replay(self, run: Run, journal: list[tuple[Any, ...]], elsewhere: set[int]) -> None:
        instance = run.instance
        assert instance is not None
        losses: list[int] = []
        listed: set[int] = set()
        for _, _, _, seq, kind, command, _, at, _, _, payload, commands, _ in journal:
            row = Row(
                seq, kind, command, micros(at),
                payload.encode() if payload is not None else None,
                commands.encode() if commands is not None else None,
            )  # fmt: skip
            if kind == LEASE_LOST:
                losses.append(seq)
            instance.replay(row)
        fresh = {c.number for c in instance.issued}
        listed = set(instance.pending) - fresh
        # What an earlier holder had registered is deleted by number when it ends; whether or not
        # it had come to that does no harm.
        for number in listed:
            run.registered.setdefault(number, 0)
        run.parcel()
        self._dirty[run.run_id] = run
        if run.lost:
            self._record(run, LEASE_LOST, None, None)
            losses.append(run.seq)
        for number in sorted(listed - elsewhere):
            command = instance.pending[number]
            if command.kind == "a" and self._is_local(run, command):
                attempt = 1 + sum(1 for seq in losses if seq > instance.listed_at(number))
                limit = command.spec.retry.maximum_attempts
                if limit and attempt > limit:
                    failure = payloads.encode_failure(ApplicationError("the worker that ran it was lost", type="WorkerLost"))
                    self._deliver(run, ACTIVITY_FAILED, number, failure)
                else:
                    self._start_activity(run, command, attempt)
        self._carry(run)

    def _record(self, run: Run, kind: int, command: int | None, payload: bytes | None, at: int | None = None) -> int:
        """Appends a journal row; returns the time that the code will see."""
        instance = run.instance
        assert instance is not None
        listing = instance.listing()
        at = max(at or self.now(), instance.now)
        run.seq += 1
        parcel = run.parcel()
        parcel.rows.append((run.run_id, run.seq, kind, command, at, payload, listing))
        if payload is not None:
            parcel.size += len(payload)
        self._dirty[run.run_id] = run
        run.idle_since = 0.0
        return at

    def _deliver(self, run: Run, kind: int, command: int | None, payload: bytes | None, at: int | None = None) -> None:
        """One event: journaled and fed, in this order, in one parcel."""
        parcel = run.parcel()
        at = self._record(run, kind, command, payload, at)
        if command is not None and command in run.registered:
            del run.registered[command]
            parcel.ended.append(command)
        if run.lost and kind != LEASE_LOST:
            parcel.cleared = True
        assert run.instance is not None
        run.instance.deliver(kind, command, at, payload)
        self._carry(run)

    def _receive(self, run: Run, inbox_id: int, kind: int, command: int | None, payload: str | None) -> None:
        """A message from the engine for a held run."""
        instance = run.instance
        if instance is None:  # its journal is still being fetched
            run.early.append((inbox_id, kind, command, payload))
            return
        if (run.next is not None and run.next.end > KEEP) or (run.sent is not None and run.sent.end != KEEP):
            return  # closing or parking: the engine puts it back
        run.seen.add(inbox_id)
        parcel = run.parcel()
        self._dirty[run.run_id] = run
        if command is not None and command not in instance.pending:
            parcel.back.append(inbox_id)
            return
        parcel.used.append(inbox_id)
        self._deliver(run, kind, command, payload.encode() if payload is not None else None)

    def _fire_timers(self) -> None:
        """Timers of held runs are the holder's. A batch of them at a time: many may be due at once, and what
        the first ones lead to need not wait for the last."""
        now = self.now()
        for _ in range(MAX_BATCH_RUNS):
            if not self._timers or self._timers[0][0] > now:
                return
            due, run_id = heapq.heappop(self._timers)
            run = self.runs.get(run_id)
            if run is None or run.instance is None or run.timer != due:
                continue
            run.timer = 0
            if run.sent is not None and run.sent.end != KEEP:
                continue
            self._guard(run, self._fire, run, now)

    def _fire(self, run: Run, now: int) -> None:
        assert run.instance is not None
        while run.instance.outcome is None:
            due = run.instance.next_due()
            if due is None or due[0] > now:
                break
            self._deliver(run, TIMER_FIRED, due[1], None, max(now, due[0]))
        self._watch(run)

    def _watch(self, run: Run) -> None:
        """Puts the run's next timer on the heap."""
        assert run.instance is not None
        due = run.instance.next_due()
        if due is not None and due[0] != run.timer:
            run.timer = due[0]
            heapq.heappush(self._timers, (due[0], run.run_id))

    def _carry(self, run: Run) -> None:
        """Takes over what the code has asked for, given up, or returned."""
        instance = run.instance
        assert instance is not None
        if instance.issued:
            issued = list(instance.issued)
            instance.issued.clear()
            for command in issued:
                kind = command.kind
                if kind == "a":
                    if command.number in instance.pending:
                        self._ask(run, command)
                elif kind == "w":
                    run.parcel().waits.append((command.number, "w", command.name, command.number, None))
                elif kind == "s":
                    run.parcel().signals.append(command.spec)
        if instance.ended:
            for number in instance.ended:
                self._give_up(run, number)
            instance.ended.clear()
        outcome = instance.outcome
        if outcome is not None:
            parcel = run.parcel()
            self._dirty[run.run_id] = run
            listing = instance.listing()
            if listing is not None:
                run.seq += 1
                parcel.rows.append((run.run_id, run.seq, COMMANDS, None, instance.now, None, listing))
            parcel.end, parcel.outcome = outcome
            parcel.size += len(outcome[1])
            parcel.waits.clear()
            parcel.starts.clear()
            for execution in run.local.values():
                if isinstance(execution, Execution):
                    execution.cancel("the workflow has closed")
            run.local.clear()
            return
        self._watch(run)
        self._note_idle(run)

    def _give_up(self, run: Run, number: int) -> None:
        parcel = run.parcel()
        self._dirty[run.run_id] = run
        parcel.waits = [w for w in parcel.waits if w[0] != number]
        if run.registered.pop(number, None) is not None:
            parcel.ended.append(number)
        execution = run.local.pop(number, None)
        if isinstance(execution, Execution):
            execution.cancel("the workflow has given it up")

    # ----------------------------------------------------------------------------- activities --

    def _is_local(self, run: Run, command: Command) -> bool:
        queue = command.spec.task_queue
        return (queue is None or queue == run.queue) and command.name in self.activities

    def _ask(self, run: Run, command: Command) -> None:
        """An activity that the code has asked for: here if it may be, else as a row for others."""
        call: ActivityCall = command.spec
        local = self._is_local(run, command)
        rowless = call.schedule_to_close is None and call.heartbeat_timeout is None
        if local and rowless and not self.stopping:
            self._start_activity(run, command, 1)
            return
        self._add_task(run, self._execution(run, command, 0, None), held=False)

    def _start_activity(self, run: Run, command: Command, attempt: int) -> None:
        """Begins it at once if nothing that it follows from is still on its way to the disk."""
        bounded = command.spec.retry.maximum_attempts
        if bounded or run.sent is not None or (run.next is not None and run.next.has_result):
            run.local[command.number] = command
            parcel = run.parcel()
            parcel.starts.append((command, attempt))
            parcel.lists |= bool(bounded)
            self._dirty[run.run_id] = run
        else:
            self._begin_activity(run, command, attempt)

    def _begin_activity(self, run: Run, command: Command, attempt: int) -> None:
        run.local[command.number] = execution = self._execution(run, command, attempt, self.activities[command.name])
        run.idle_since = 0.0
        self.executor.submit(execution)

    def _execution(self, run: Run, command: Command, attempt: int, definition: Any) -> Execution:
        call: ActivityCall = command.spec
        return Execution(run.run_id, command.number, attempt, command.name, call.input, call, definition, self._describe, run)

    def _describe(self, execution: Execution) -> activity.Context:
        """The context of an activity of a held run."""
        return self._context(execution, execution.run.workflow_id, execution.run.queue, None)

    def _context(self, execution: Execution, workflow_id: str, queue: str, details: bytes | None) -> activity.Context:
        def beat(data: bytes) -> None:
            execution.details = data
            execution.beat_due = True
            timeout = execution.options.heartbeat_timeout
            if timeout is not None:
                self.on_beat(max(time.monotonic(), execution.beat_sent + timeout / 4))

        return activity.Context(
            name=execution.name,
            attempt=execution.attempt,
            workflow_id=workflow_id,
            run_id=execution.run_id,
            activity_id=execution.command,
            task_queue=queue,
            namespace=self.namespace,
            heartbeat_details=details,
            is_local=not execution.tasked,
            beat=beat,
        )

    def _take_task(self, row: tuple[Any, ...]) -> None:
        """A leased activity task."""
        _, run_id, _, _, attempt, command, queue_id, _, name, workflow_id, input, options, details = row
        call = _call(name, input.encode(), options)
        definition = self.activities.get(name)
        if definition is None:
            known = ", ".join(sorted(self.activities)) or "none"
            failure = payloads.encode_failure(
                ApplicationError(
                    f"activity {name!r} is not registered on worker {self.name} (known: {known})",
                    type="NotRegistered",
                )
            )
            self._end_task(TaskEnd(run_id, command, attempt, 0, failure, self.now() + 1_000_000))
            return
        limit = call.retry.maximum_attempts
        if limit and attempt > limit:
            failure = payloads.encode_failure(ApplicationError("the worker that ran it was lost", type="WorkerLost"))
            self._end_task(TaskEnd(run_id, command, attempt, ACTIVITY_FAILED, failure, None))
            return
        described = workflow_id, self.queues.get(queue_id, ""), details.encode() if details else None
        execution = Execution(
            run_id, command, attempt, name, input.encode(), call, definition, lambda e: self._context(e, *described), None
        )
        execution.tasked = True
        self.tasks[run_id, command] = execution
        self.executor.submit(execution)

    def _activity_done(self, execution: Execution, kind: int, payload: bytes, error: BaseException | None) -> None:
        self._done.append((execution, kind, payload, error))
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Feeds what activities have returned; a plain callback."""
        self._pump_scheduled = False
        done = self._done
        while done:
            execution, kind, payload, error = done.popleft()
            if execution.tasked:
                self._task_done(execution, kind, payload, error)
                continue
            run = self.runs.get(execution.run_id)
            if run is None or run is not execution.run or run.local.pop(execution.command, None) is None:
                continue
            if kind == ACTIVITY_FAILED:
                delay = execution.options.retry.delay(execution.attempt, error)
                if delay is not None:
                    due = self.now() + int(delay * 1e6)
                    self._add_task(run, execution, held=False, due=due, failure=payload)
                    self._note_idle(run)
                    continue
            self._guard(run, self._deliver, run, kind, execution.command, payload)
        self._event.set()

    def _task_done(self, execution: Execution, kind: int, payload: bytes, error: BaseException | None) -> None:
        self.tasks.pop((execution.run_id, execution.command), None)
        due: int | None = None
        if kind == ACTIVITY_FAILED:
            delay = execution.options.retry.delay(execution.attempt, error)
            if delay is not None:
                kind, due = 0, self.now() + int(delay * 1e6)
        self._end_task(TaskEnd(execution.run_id, execution.command, execution.attempt, kind, payload, due))

    def _end_task(self, end: TaskEnd) -> None:
        self._ends.append(end)
        self._event.set()

    def take_beats(self) -> list[Beat]:
        """What the heartbeat is to tell of running tasks. On its thread."""
        beats = []
        for (run_id, command), execution in list(self.tasks.items()):
            details = None
            if execution.beat_due:
                execution.beat_due = False
                execution.beat_sent = time.monotonic()
                details = execution.details
            beats.append(Beat(run_id, command, execution.attempt, details))
        return beats

    def beats_lost(self, beats: Sequence[Beat]) -> None:
        """They have not reached the engine: what was due is due again. On the heartbeat's thread."""
        for beat in beats:
            execution = self.tasks.get((beat.run, beat.command))
            if execution is not None and beat.details is not None:
                execution.beat_due = True

    def task_gone(self, run_id: int, command: int) -> None:
        """The heartbeat learned that this task is no longer ours to run."""
        execution = self.tasks.pop((run_id, command), None)
        if execution is not None:
            execution.cancel("the activity is no longer wanted")

    # ------------------------------------------------------------------------------ forgetting --

    def _drop(self, run: Run) -> None:
        """Lets go of a run that is no longer ours: nothing of it is sent any more."""
        for execution in run.local.values():
            if isinstance(execution, Execution):
                execution.cancel("the lease of its workflow is gone")
        run.local.clear()
        run.next = None
        self._forget(run)

    def _forget(self, run: Run) -> None:
        self._dirty.pop(run.run_id, None)
        if self.runs.get(run.run_id) is run:
            del self.runs[run.run_id]
        self._cleared(run) if run.lost == 0 else self._suspects_held.discard(run.run_id)
        if run.instance is not None:
            run.instance.evict()
            run.instance = None

    async def close(self) -> None:
        """Drops everything; the engine is told by whoever calls this (retire), or finds out."""
        self.executor.close()

        def drop_all() -> None:
            for run in list(self.runs.values()):
                self._drop(run)

        await self._callback(drop_all)
        if self._conn is not None:
            await self._conn.close()


def _options(call: ActivityCall) -> bytes:
    return payloads.encode(
        {
            "start_to_close": call.start_to_close,
            "heartbeat_timeout": call.heartbeat_timeout,
            "retry": call.retry.to_dict(),
        }
    )


def _call(name: str, input: bytes, options: str) -> ActivityCall:
    data = payloads.decode(options.encode())
    return ActivityCall(
        name, input, None, data.get("start_to_close"), None, data.get("heartbeat_timeout"),
        retry.RetryPolicy.from_dict(data["retry"]),
    )  # fmt: skip


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
