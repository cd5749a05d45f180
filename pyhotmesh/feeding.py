"""Events into held runs: what an answer brings, what timers and activities lead to.

Whatever a run's code sees is journaled and fed in one go, in this order, into the parcel that gathers:

    record a row ──► deliver it to the coroutine ──► carry over what the code asked for, gave up, returned

Workflow code is driven from plain callbacks of the event loop, never inside one of its tasks (Python
3.14 refuses to enter a task inside another's).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import orjson
import psycopg

from . import engine, payloads
from .calls import PREFIX, Calls
from .engine import micros
from .errors import HotMeshError
from .held import Held
from .interrupts import is_ctrl_c
from .replay import (
    ACTIVITY_FAILED,
    COMMANDS,
    LEASE_LOST,
    SIGNAL_RECEIVED,
    STARTED,
    TIMER_FIRED,
    Info,
    Instance,
    Row,
)
from .runs import KEEP, Parcel, Run
from .wire import Int8s
from .work import Work, worker_lost

log = logging.getLogger("pyhotmesh.worker")

PAGE = 5000  # journal rows fetched at once
TIMERS = 300  # runs whose timers fire in one go: what the first ones lead to need not wait for the last

Journal = list[tuple[Any, ...]]


class Feeder:
    """Feeds held runs; see the module's head.

    ``fetch`` runs a statement on the turns' connection.
    """

    def __init__(
        self,
        held: Held,
        work: Work,
        calls: Calls,
        workflows: Mapping[str, Any],
        fetch: Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]],
    ) -> None:
        self._held = held
        self._work = work
        self._calls = calls
        self._workflows = workflows
        self._fetch = fetch
        self.on_fault: Callable[[Run, str, str], Coroutine[Any, Any, None]]  # parks a run that cannot go on
        self._asides: set[asyncio.Task[None]] = set()
        work.on_result, work.on_fault = self._deliver, self._fault

    async def callback(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function as a plain callback of the loop, outside of any task."""
        future = self._held.loop.create_future()

        def call() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self._held.loop.call_soon(call)
        return await future

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that the turns need not wait for; it uses their connection in between."""
        task = self._held.loop.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _guard(self, run: Run, function: Callable[..., None], *args: Any) -> None:
        """One run's failure is that run's: it is parked with its reason."""
        try:
            function(*args)
        except BaseException as error:
            self._fault(run, error)

    def _fault(self, run: Run, error: BaseException) -> None:
        if is_ctrl_c(error):
            raise error
        code = error.code if isinstance(error, HotMeshError) else "HM000"
        if not isinstance(error, HotMeshError):
            log.exception("workflow %s cannot go on", run.workflow_id, exc_info=error)
        self._held.drop(run)
        self.aside(self.on_fault(run, code, f"{type(error).__name__}: {error}"))

    # ------------------------------------------------------------------------------- answers --

    def answer(self, rows: list[tuple[Any, ...]], parcels: list[Parcel]) -> bool:
        """Settles what was sent, and feeds what came back. True if something came."""
        held = self._held
        leased: dict[int, Run] = {}
        inputs: dict[int, tuple[bytes, int]] = {}
        journals: dict[int, Journal] = {}
        open_tasks: dict[int, set[int]] = {}
        messages: list[tuple[Any, ...]] = []
        answered: dict[int, set[int]] = {}  # commands of runs that have a message
        tasks: list[tuple[Any, ...]] = []
        rejected: set[int] = set()
        gone: list[int] = []
        for row in rows:
            kind = row[0]
            if kind == engine.LEASED:
                _, run_id, _, seq, fence, lost, queue_id, created, type_name, key, input, _, _ = row
                run = Run(run_id, fence, seq, lost, queue_id, held.queues.get(queue_id, ""), key, type_name)
                leased[run_id] = run
                inputs[run_id] = (input.encode(), micros(created))
            elif kind == engine.JOURNAL:
                journals.setdefault(row[1], []).append(row)
            elif kind == engine.MESSAGE:
                messages.append(row)
                answered.setdefault(row[1], set()).add(row[5])
            elif kind == engine.REJECTED:
                rejected.add(row[1])
            elif kind == engine.GONE:
                gone.append(row[1])
            elif kind == engine.TASK_OPEN:
                open_tasks.setdefault(row[1], set()).add(row[5])
            elif kind == engine.TASK:
                tasks.append(row)
        self.settle([p for p in parcels if p.run.run_id not in rejected] if rejected else parcels, rejected)
        for run_id in gone:
            if run_id in held.runs:
                held.drop(held.runs[run_id])
        for run_id, run in leased.items():
            elsewhere = open_tasks.get(run_id, set()) | answered.get(run_id, set())
            self._lease(run, *inputs[run_id], journals.get(run_id, []), elsewhere)
        for _, run_id, inbox_id, _, kind, command, _, _, _, _, payload, _, _ in messages:
            receiver = held.runs.get(run_id)
            if receiver is not None:
                self._guard(receiver, self._receive, receiver, inbox_id, kind, command, payload)
        for row in tasks:
            self._work.take_task(row)
        self.fire_timers()
        return bool(leased or messages or tasks)

    def settle(self, parcels: list[Parcel], rejected: set[int]) -> None:
        """A turn has committed: what waited for that begins; what ended is forgotten."""
        held, submit = self._held, self._work.executor.submit
        for parcel in parcels:
            run = parcel.run
            run.sent = None
            more = parcel.more
            if more is not None:
                run.seen.difference_update(more.used, more.back)
                for task in more.tasks:
                    if (execution := held.tasks.get((run.run_id, task[0]))) is not None:
                        execution.has_row = True
                if more.cleared:
                    held.clear(run)
            if parcel.end != KEEP:
                held.forget(run)
                continue
            for execution in parcel.starts:
                if run.local.get(execution.command) is execution:
                    submit(execution)
            if not run.local:
                held.note_idle(run)
        for run_id in rejected:
            if run_id in held.runs:
                log.info("the lease of run %s has moved on", run_id)
                held.drop(held.runs[run_id])

    # ------------------------------------------------------------------------------ beginning --

    def _lease(self, run: Run, input: bytes, created: int, journal: Journal, elsewhere: set[int]) -> None:
        """A run that is ours from now on."""
        if not self._held.knows_time:  # it was given before the engine's first answer: its start is the time, nearly
            self._held.told(created)
        self._held.add(run)
        if run.queue.startswith(PREFIX):
            self._guard(run, self._calls.begin, run, input)
        else:
            self._guard(run, self._begin, run, input, created, journal, elsewhere)

    def _begin(self, run: Run, input: bytes, created: int, journal: Journal, elsewhere: set[int]) -> None:
        """A leased run's coroutine: fresh, or replayed from its journal. ``elsewhere``: commands that have a
        task or a message."""
        definition = self._workflows.get(run.workflow_type)
        if definition is None:
            known = ", ".join(sorted(self._workflows)) or "none"
            raise HotMeshError(
                f"workflow type {run.workflow_type!r} is not registered on worker {self._held.name} (known: {known})"
            )
        if len(journal) < run.seq:
            self.aside(self._page(run, input, created, journal, elsewhere))
            return
        info = Info(
            workflow_id=run.workflow_id, run_id=run.run_id, workflow_type=run.workflow_type,
            task_queue=run.queue, namespace=self._held.namespace, created_at=created,
        )  # fmt: skip
        run.instance = instance = Instance(definition, info, input)
        if not run.seq:
            now = self._held.now()
            run.parcel().rows.append((run.run_id, 1, STARTED, None, now, None, None))
            run.seq = 1
            self._held.dirty[run.run_id] = run
            instance.deliver(STARTED, None, now, None)
            self._carry(run, instance)
            if run.local and run.next is not None and run.next.is_early:
                self._held.dirty.pop(run.run_id, None)
            return
        self._replay(run, instance, journal, elsewhere)
        early, run.early = run.early, []
        for message in early:
            self._receive(run, *message)

    async def _page(self, run: Run, input: bytes, created: int, journal: Journal, elsewhere: set[int]) -> None:
        """Fetches the rest of a journal that is longer than what came with the turn."""
        held = self._held
        try:
            while len(journal) < run.seq:
                page = await self._fetch(engine.JOURNAL_PAGE, (held.worker_id, run.run_id, len(journal), PAGE))
                if not page:
                    held.drop(run)  # the lease is gone
                    return
                journal.extend(page)
        except (psycopg.Error, OSError):
            held.drop(run)  # the turn loop notices as well, and adopts without this run
            return
        if held.runs.get(run.run_id) is run:
            await self.callback(self._guard, run, self._begin, run, input, created, journal, elsewhere)
            held.event.set()

    def _replay(self, run: Run, instance: Instance, journal: Journal, elsewhere: set[int]) -> None:
        losses: list[int] = []
        for _, _, _, seq, kind, command, _, at, _, _, payload, commands, _ in journal:
            row = Row(
                seq, kind, command, micros(at),
                payload.encode() if payload is not None else None,
                commands.encode() if commands is not None else None,
            )  # fmt: skip
            if kind == LEASE_LOST:
                losses.append(seq)
            instance.replay(row)
        listed = set(instance.pending) - {c.number for c in instance.issued}
        # What an earlier holder had registered is deleted by number when it ends; whether or not
        # it had come to that does no harm.
        for number in listed:
            run.registered.setdefault(number, 0)
        run.parcel()
        self._held.dirty[run.run_id] = run
        if run.lost:
            at = self._record(run, LEASE_LOST, None, None)
            instance.deliver(LEASE_LOST, None, at, None)  # no code runs, but its time is that row's, as in a replay
            losses.append(run.seq)
        for number in sorted(listed - elsewhere):
            command = instance.pending[number]
            if command.kind == "a" and self._work.is_local(run, command):
                attempt = 1 + sum(1 for seq in losses if seq > instance.listed_at(number))
                limit = command.spec.options.retry.maximum_attempts
                if limit and attempt > limit:
                    self._deliver(run, ACTIVITY_FAILED, number, worker_lost())
                else:
                    self._work.start(run, command, attempt)
        self._carry(run, instance)

    # --------------------------------------------------------------------------------- events --

    def _record(self, run: Run, kind: int, command: int | None, payload: bytes | None, at: int | None = None) -> int:
        """Appends a journal row; returns the time that the code will see."""
        instance = run.instance
        assert instance is not None
        if at is None:
            at = self._held.now()
        if at < instance.now:
            at = instance.now
        parcel = run.next or run.parcel()  # before the row is counted: a parcel knows the last row before it
        run.seq = seq = run.seq + 1
        parcel.rows.append((run.run_id, seq, kind, command, at, payload, instance.listing()))
        parcel.has_result = True
        if payload is not None:
            parcel.size += len(payload)
        self._held.dirty[run.run_id] = run
        run.idle_since = 0.0
        return at

    def _deliver(self, run: Run, kind: int, command: int | None, payload: bytes | None, at: int | None = None) -> None:
        """One event: journaled and fed, in this order, in one parcel."""
        at = self._record(run, kind, command, payload, at)
        if command in run.registered:
            assert command is not None
            del run.registered[command]
            run.parcel().extra().ended.append(command)
        if run.lost and kind != LEASE_LOST:
            run.parcel().extra().cleared = True
        instance = run.instance
        assert instance is not None
        instance.deliver(kind, command, at, payload)
        self._carry(run, instance)

    def given(self, what: str) -> None:
        """A run that was leased to this worker with its start, or with the message that it was parked for, and came
        with the notification."""
        held = self._held
        run_id, queue_id, created, type_name, key, input, *parked = orjson.loads(what)
        fence, lost, rows, elsewhere, inbox_id, command, payload = parked or (0, 0, [], [], None, None, None)

        def begin() -> None:
            known = held.runs.get(run_id)
            if known is not None:
                # Another lease of it: the answer that says that this has ended is still on its way.
                held.asks |= known.fence != fence
                return
            run = Run(run_id, fence, len(rows), lost, queue_id, held.queues.get(queue_id, ""), key, type_name)
            journal: Journal = [
                (engine.JOURNAL, run_id, None, seq, kind, number, None, at, None, None, result, commands, None)
                for seq, kind, number, at, result, commands in rows
            ]
            self._lease(run, input.encode(), micros(created), journal, set(elsewhere))
            if inbox_id is not None and held.runs.get(run_id) is run:
                self._guard(run, self._receive, run, inbox_id, SIGNAL_RECEIVED, command, payload)
            held.event.set()

        self._held.loop.call_soon(begin)  # notifications may come within a task

    async def ask_for_given(self) -> None:
        """Fetches runs that were given to this worker and whose notification was lost, or came too early."""
        held = self._held
        known = Int8s(run_id for run_id, run in held.runs.items() if run.fence <= 0)
        try:
            rows = await self._fetch(engine.GIVEN, (held.worker_id, known))
        except (psycopg.Error, OSError):
            return  # the turn loop notices as well
        new = [row for row in rows if row[0] == engine.MESSAGE or row[1] not in held.runs]
        if new:
            await self.callback(self.answer, new, [])
            held.event.set()

    def pushed(self, run_id: int, inbox_id: int, command: int, payload: str) -> None:
        """A signal that came with its notification, for a run that this worker held when it was sent. It is left to be
        fetched if older messages may be on their way, which it would overtake."""

        def receive() -> None:
            run = self._held.runs.get(run_id)
            if self._held.fetching:
                self._held.wake()
            elif run is not None:
                self._guard(run, self._receive, run, inbox_id, SIGNAL_RECEIVED, command, payload)
                self._held.event.set()

        self._held.loop.call_soon(receive)  # notifications may come within a task

    def _receive(self, run: Run, inbox_id: int, kind: int, command: int | None, payload: str | None) -> None:
        """A message from the engine for a held run. It may come twice, with a notification and with an answer."""
        instance = run.instance
        if inbox_id in run.seen:
            return
        if run.is_call:
            run.seen.add(inbox_id)
            self._calls.cancel(run, str(payloads.decode(payload or '"cancelled"')))
            return
        if instance is None:  # its journal is still being fetched
            run.early.append((inbox_id, kind, command, payload))
            return
        if (run.next is not None and run.next.end > KEEP) or (run.sent is not None and run.sent.end != KEEP):
            return  # closing or parking: the engine puts it back
        run.seen.add(inbox_id)
        more = run.parcel().extra()
        self._held.dirty[run.run_id] = run
        if command is not None and command not in instance.pending:
            more.back.append(inbox_id)
            return
        more.used.append(inbox_id)
        self._deliver(run, kind, command, payload.encode() if payload is not None else None)

    def fire_timers(self) -> None:
        """Timers of held runs are the holder's."""
        held = self._held
        if not held.timer_is_due():
            return
        now = held.now()
        for _ in range(TIMERS):
            run = held.take_due(now)
            if run is None:
                return
            self._guard(run, self._fire, run, now)

    def _fire(self, run: Run, now: int) -> None:
        assert run.instance is not None
        while run.instance.outcome is None:
            due = run.instance.next_due()
            if due is None or due[0] > now:
                break
            self._deliver(run, TIMER_FIRED, due[1], None, max(now, due[0]))
        self._held.watch(run)

    # ------------------------------------------------------------------------------- commands --

    def _carry(self, run: Run, instance: Instance) -> None:
        """Takes over what the code has asked for, given up, or returned."""
        if instance.issued:
            issued, instance.issued = instance.issued, []
            for command in issued:
                kind = command.kind
                if kind == "a":
                    if command.number in instance.pending:
                        self._work.ask(run, command)
                elif kind == "w":
                    run.parcel().extra().waits.append((command.number, "w", command.name, command.number, None))
                elif kind == "s":
                    run.parcel().extra().signals.append(command.spec)
                elif kind == "r":
                    parcel = run.parcel()
                    parcel.extra().records.append((command.number, *command.spec))
                    parcel.size += len(command.spec[1])
        if instance.ended:
            for number in instance.ended:
                self._give_up(run, number)
            instance.ended.clear()
        if instance.outcome is not None:
            self._finish(run, instance, *instance.outcome)
            return
        if instance.timers:
            self._held.watch(run)
        if not run.local:
            self._held.note_idle(run)

    def _give_up(self, run: Run, number: int) -> None:
        more = run.parcel().extra()
        self._held.dirty[run.run_id] = run
        more.waits = [w for w in more.waits if w[0] != number]
        if run.registered.pop(number, None) is not None:
            more.ended.append(number)
        execution = run.local.pop(number, None)
        if execution is not None:
            execution.cancel("the workflow has given it up")

    def _finish(self, run: Run, instance: Instance, status: int, outcome: bytes) -> None:
        """The code has returned or raised: its parcel closes the run."""
        parcel = run.parcel()
        self._held.dirty[run.run_id] = run
        listing = instance.listing()
        if listing is not None:
            run.seq += 1
            parcel.rows.append((run.run_id, run.seq, COMMANDS, None, instance.now, None, listing))
        parcel.end, parcel.outcome = status, outcome
        parcel.size += len(outcome)
        parcel.starts.clear()
        if parcel.more is not None:
            parcel.more.waits.clear()
        for execution in run.local.values():
            execution.cancel("the workflow has closed")
        run.local.clear()
