"""Activities of a worker: those of held runs, which need no row, and leased tasks, whose row is their licence.

An activity is *local* if the holder of its run can run it itself, on the run's own queue. It gets a row
in `activity_task` if it is another queue's, waits for a retry, runs for longer than a moment, or waits
for a place while slow ones take all of them: then any worker of its queue may run it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import activity, payloads, retry
from .engine import TaskEnd
from .errors import ApplicationError
from .executor import Execution, Executor
from .heartbeat import Beat
from .held import Held
from .replay import ACTIVITY_FAILED, ActivityCall, ActivityOptions, Command
from .runs import PARK, Run

MOMENT = 1.0  # seconds: an activity that runs for longer gets a row

Result = Callable[[Run, int, int, bytes, int], None]
CallResult = Callable[[Run, Execution, int, bytes, BaseException | None], None]


class Work:
    """Starts activities and takes their results; see the module's head."""

    def __init__(self, held: Held, activities: Mapping[str, Any], max_activities: int) -> None:
        self._held = held
        self._activities = activities
        self.executor = Executor(max_activities, self._ended)
        self._done: deque[tuple[Execution, int, bytes, BaseException | None]] = deque()
        self._pump_scheduled = False
        self.on_result: Result  # feeds a held run
        self.on_fault: Callable[[Run, BaseException], None]  # parks one that could not be fed
        self.on_call: CallResult  # closes a call, or has it tried again
        self.on_beat: Callable[[float], None] = lambda at: None  # a sign of life is to be sent by then

    @property
    def is_busy(self) -> bool:
        """Something runs or waits for a place."""
        return self.executor.is_busy

    @property
    def has_results(self) -> bool:
        """Something has ended and is not fed yet."""
        return bool(self._done)

    # ------------------------------------------------------------------------- of held runs --

    def is_local(self, run: Run, command: Command) -> bool:
        queue = command.spec.options.task_queue
        return (queue is None or queue == run.queue) and command.name in self._activities

    def ask(self, run: Run, command: Command) -> None:
        """An activity that the code has asked for: here if it may be, else as a row for others."""
        call: ActivityCall = command.spec
        options = call.options
        if (
            options.schedule_to_close is None and options.heartbeat_timeout is None and not self._held.stopping
            and self.is_local(run, command)
        ):  # fmt: skip
            self.start(run, command, 1)
        else:
            execution = Execution(run.run_id, command.number, 0, call.name, call.input, options, None, self.describe, run)
            self._add_task(run, execution, held=False)

    def start(self, run: Run, command: Command, attempt: int) -> None:
        """Begins it at once if nothing that it follows from is still on its way to the disk."""
        call: ActivityCall = command.spec
        name, input, options = call
        run.local[command.number] = execution = Execution(
            run.run_id, command.number, attempt, name, input, options, self._activities[name], self.describe, run
        )
        run.idle_since = 0.0
        bounded = options.retry.maximum_attempts
        parcel = run.next
        if not bounded and run.sent is None and (parcel is None or not parcel.has_result):
            self.executor.submit(execution)
            return
        if parcel is None:
            parcel = run.parcel()
        parcel.starts.append(execution)
        if bounded:
            parcel.extra().lists = True
        self._held.dirty[run.run_id] = run

    def describe(self, execution: Execution) -> activity.Context:
        """The context of an activity or call of a held run."""
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
            namespace=self._held.namespace,
            heartbeat_details=details,
            is_local=not execution.tasked,
            beat=beat,
        )

    def spill(self) -> None:
        """Activities that wait behind slow ones are offered to other workers; slow ones get a row."""
        for execution in self.executor.spill():
            run: Run = execution.run
            if run.is_call:
                self._give_back(run)
            elif run.sent is None or not run.sent.ends_lease:
                run.local.pop(execution.command, None)
                self._add_task(run, execution, held=False)
        now = time.monotonic()
        for execution in self.executor.running:
            if not execution.tasked and now - execution.begun > MOMENT and not execution.run.is_call:
                self._add_task(execution.run, execution, held=True)

    def _give_back(self, run: Run) -> None:
        """A call that has not begun: whoever has a place for it may claim it."""
        run.local.clear()
        parcel = run.parcel()
        parcel.end, parcel.due = PARK, self._held.now()
        self._held.dirty[run.run_id] = run

    def _add_task(
        self, run: Run, execution: Execution, *, held: bool, due: int | None = None, failure: bytes | None = None
    ) -> None:
        """Gives an activity a row: from its commit on that row is the licence to run it."""
        options: ActivityOptions = execution.options
        more = run.parcel().extra()
        self._held.dirty[run.run_id] = run
        within = options.schedule_to_close
        deadline = self._held.now() + int(within * 1e6) if within is not None else None
        more.tasks.append(
            (execution.command, options.task_queue, execution.name, execution.input, _encode(options),
             execution.attempt, held, due, deadline, options.heartbeat_timeout, failure)
        )  # fmt: skip
        if execution.command not in run.registered:
            more.waits.append((execution.command, "a", execution.name, execution.command, None))
        if held:
            execution.tasked = True
            run.local.pop(execution.command, None)
            self._held.tasks[run.run_id, execution.command] = execution

    # ------------------------------------------------------------------------- leased tasks --

    def take_task(self, row: tuple[Any, ...]) -> None:
        """A leased activity task."""
        _, run_id, _, lost, attempt, command, queue_id, _, name, workflow_id, input, encoded, details = row
        options = _decode(encoded)
        definition = self._activities.get(name)
        if definition is None:
            known = ", ".join(sorted(self._activities)) or "none"
            failure = payloads.encode_failure(
                ApplicationError(
                    f"activity {name!r} is not registered on worker {self._held.name} (known: {known})",
                    type="NotRegistered",
                )
            )
            self._end(TaskEnd(run_id, command, attempt, 0, failure, self._held.now() + 1_000_000))
            return
        limit = options.retry.maximum_attempts
        if limit and attempt > limit:
            self._end(TaskEnd(run_id, command, attempt, ACTIVITY_FAILED, worker_lost(), None))
            return
        described = workflow_id, self._held.queues.get(queue_id, ""), details.encode() if details else None
        execution = Execution(
            run_id, command, attempt, name, input.encode(), options, definition, lambda e: self._context(e, *described), None
        )
        execution.tasked = execution.has_row = True
        self._held.tasks[run_id, command] = execution
        self._held.suspect_tasks.pop((run_id, command), None)
        if lost >= 2:
            self._held.suspect_tasks[run_id, command] = time.monotonic()
        self.executor.submit(execution)

    def _end(self, end: TaskEnd) -> None:
        self._held.ends.append(end)
        self._held.event.set()

    def take_ends(self) -> list[TaskEnd]:
        """What became of tasks, for the turn that has just been sealed. Not of one whose row is still to go: the engine would
        know of no such task, and then lease it for ever to a worker that has done with it."""
        held = self._held
        ready: list[TaskEnd] = []
        ends, held.ends = held.ends, []
        for end in ends:
            (held.ends if held.is_unsent(end.run, end.command) else ready).append(end)
        return ready

    def take_beats(self) -> list[Beat]:
        """What the heartbeat is to tell of running tasks. On its thread. Not of one whose row may not be there yet: the
        engine would say that it is gone, and lease it, a moment later, to a worker that has dropped it."""
        beats = []
        for (run_id, command), execution in self._held.tasks.copy().items():
            if not execution.has_row:
                continue
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
            execution = self._held.tasks.get((beat.run, beat.command))
            if execution is not None and beat.details is not None:
                execution.beat_due = True

    def task_gone(self, run_id: int, command: int, attempt: int) -> None:
        """The heartbeat learned that this attempt is no longer ours to run; a later one may have come to us meanwhile."""
        execution = self._held.tasks.get((run_id, command))
        if execution is not None and execution.attempt == attempt:
            del self._held.tasks[run_id, command]
            execution.cancel("the activity is no longer wanted")

    # ------------------------------------------------------------------------------ results --

    def _ended(self, execution: Execution, kind: int, payload: bytes, error: BaseException | None) -> None:
        self._done.append((execution, kind, payload, error))
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._held.loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Feeds what activities have returned; a plain callback."""
        self._pump_scheduled = False
        held, done, deliver = self._held, self._done, self.on_result
        at = held.now()
        while done:
            execution, kind, payload, error = done.popleft()
            if execution.tasked:
                self._task_done(execution, kind, payload, error)
                continue
            run = held.runs.get(execution.run_id)
            if run is None or run is not execution.run or run.local.pop(execution.command, None) is None:
                continue
            if run.is_call:
                self.on_call(run, execution, kind, payload, error)
                continue
            if kind == ACTIVITY_FAILED:
                delay = execution.options.retry.delay(execution.attempt, error)
                if delay is not None:
                    self._add_task(run, execution, held=False, due=held.now() + int(delay * 1e6), failure=payload)
                    held.note_idle(run)
                    continue
            try:  # as Feeder._guard does: every step comes by here
                deliver(run, kind, execution.command, payload, at)
            except BaseException as error:
                self.on_fault(run, error)
        held.event.set()

    def _task_done(self, execution: Execution, kind: int, payload: bytes, error: BaseException | None) -> None:
        self._held.tasks.pop((execution.run_id, execution.command), None)
        self._held.clear_task((execution.run_id, execution.command))
        due: int | None = None
        if kind == ACTIVITY_FAILED:
            delay = execution.options.retry.delay(execution.attempt, error)
            if delay is not None:
                kind, due = 0, self._held.now() + int(delay * 1e6)
        self._end(TaskEnd(execution.run_id, execution.command, execution.attempt, kind, payload, due))


def worker_lost() -> bytes:
    """The failure of an activity whose last permitted attempt died with its worker."""
    return payloads.encode_failure(ApplicationError("the worker that ran it was lost", type="WorkerLost"))


def _encode(options: ActivityOptions) -> bytes:
    """As a task's row holds them."""
    return payloads.encode(
        {
            "start_to_close": options.start_to_close,
            "heartbeat_timeout": options.heartbeat_timeout,
            "retry": options.retry.to_dict(),
        }
    )


def _decode(encoded: str) -> ActivityOptions:
    data = payloads.decode(encoded)
    policy = retry.RetryPolicy.from_dict(data["retry"])
    return ActivityOptions(None, data.get("start_to_close"), None, data.get("heartbeat_timeout"), policy)
