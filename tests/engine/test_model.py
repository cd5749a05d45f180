"""The engine's functions against a model of Python dicts: whatever is called in whatever order, the tables say
what the model says, and nothing is wrong in them.

A run here is what a worker makes of it: it waits for signals and activities, gives waits up, sends, parks and
closes as hypothesis likes. HOTMESH_MODEL_EXAMPLES=2000 looks for longer (50 examples without it).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

FOREVER = 10**9  # hours
RETENTION = 7 * 24
IDS = ["a", "b", "c", "d", "e", "f"]
KEYS = ["k", "l"]
STEPS = ["wait", "wait", "both", "act", "acts", "see", "see", "give up", "send"]
TABLES = (
    "run", "outcome", "live", "open_id", "trouble", "journal", "inbox", "waiting", "message", "unrouted", "undelivered",
    "request", "activity_task", "worker", "sleeper", "waiter", "queue", "stand_in", "namespace",
)  # fmt: skip

TURN = """
select kind, run, id, seq, num, command, payload from hotmesh_engine.turn(
  %(worker)s, %(queues)s::int[], %(runs)s, %(activities)s, %(suspects)s, null, 0, null, '{}',
  p_run => %(p_run)s::bigint[], p_fence => %(p_fence)s::int[], p_base => %(p_base)s::int[], p_end => %(p_end)s::smallint[],
  p_due => (select coalesce(array_agg(case when h >= 1000000000 then 'infinity' else hotmesh.now() + h * interval '1 hour' end
                                      order by o), '{}') from unnest(%(p_due)s::int[]) with ordinality u(h, o)),
  p_outcome => %(p_outcome)s::json[], p_cleared => %(p_cleared)s::bigint[],
  j_run => %(j_run)s::bigint[], j_seq => %(j_seq)s::int[], j_kind => %(j_kind)s::smallint[], j_command => %(j_command)s::int[],
  j_at => array_fill(hotmesh.now(), array[cardinality(%(j_run)s::bigint[])]), j_payload => %(j_payload)s::json[],
  j_commands => array_fill(null::json, array[cardinality(%(j_run)s::bigint[])]),
  p_used => %(p_used)s::bigint[], p_back => %(p_back)s::bigint[],
  w_run => %(w_run)s::bigint[], w_command => %(w_command)s::int[], w_kind => %(w_kind)s::text[], w_key => %(w_key)s::text[],
  w_group => %(w_group)s::int[], w_due => array_fill(null::timestamptz, array[cardinality(%(w_run)s::bigint[])]),
  e_run => %(e_run)s::bigint[], e_command => %(e_command)s::int[],
  t_run => %(t_run)s::bigint[], t_command => %(t_command)s::int[],
  t_queue => array_fill(null::text, array[cardinality(%(t_run)s::bigint[])]),
  t_activity => array_fill('act'::text, array[cardinality(%(t_run)s::bigint[])]),
  t_input => array_fill('[]'::json, array[cardinality(%(t_run)s::bigint[])]),
  t_options => array_fill('{}'::json, array[cardinality(%(t_run)s::bigint[])]),
  t_attempt => array_fill(0, array[cardinality(%(t_run)s::bigint[])]),
  t_held => array_fill(false, array[cardinality(%(t_run)s::bigint[])]),
  t_due => array_fill(null::timestamptz, array[cardinality(%(t_run)s::bigint[])]),
  t_deadline => array_fill(null::timestamptz, array[cardinality(%(t_run)s::bigint[])]),
  t_heartbeat => array_fill(null::float8, array[cardinality(%(t_run)s::bigint[])]),
  t_failure => array_fill(null::json, array[cardinality(%(t_run)s::bigint[])]),
  d_run => %(d_run)s::bigint[], d_command => %(d_command)s::int[], d_attempt => %(d_attempt)s::int[],
  d_kind => %(d_kind)s::smallint[], d_payload => %(d_payload)s::json[],
  d_due => (select coalesce(array_agg(hotmesh.now() + h * interval '1 hour' order by o), '{}')
              from unnest(%(d_due)s::int[]) with ordinality u(h, o)),
  s_run => %(s_run)s::bigint[], s_key => %(s_key)s::text[], s_payload => %(s_payload)s::json[])"""
COLUMNS = [
    "p_run", "p_fence", "p_base", "p_end", "p_due", "p_outcome", "p_cleared", "j_run", "j_seq", "j_kind", "j_command",
    "j_payload", "p_used", "p_back", "w_run", "w_command", "w_kind", "w_key", "w_group", "e_run", "e_command", "t_run",
    "t_command", "d_run", "d_command", "d_attempt", "d_kind", "d_payload", "d_due", "s_run", "s_key", "s_payload",
]  # fmt: skip


@dataclass
class Signal:
    key: str
    payload: int
    expires: int


@dataclass
class Message:
    """In a run's inbox: the signal, an activity's outcome (kind 2, 3), or a request to end (8; its key there is the
    negative inbox id, as it answers no command)."""

    kind: int
    payload: int
    signal: Signal | None = None
    shared: bool = False


@dataclass
class Wait:
    kind: str
    key: str
    group: int


@dataclass
class Run:
    run: int
    id: str
    priority: int
    due: int
    deadline: int | None
    holder: int | None = None
    lost: int = 0
    seq: int = 0
    status: int | None = None  # None: open
    closed: int = 0
    trouble: bool = False
    waits: dict[int, Wait] = field(default_factory=dict)
    inbox: dict[int, Message] = field(default_factory=dict)
    commands: Iterator[int] = field(default_factory=lambda: count(1))


@dataclass
class Task:
    due: int
    attempt: int = 0
    holder: int | None = None


@dataclass
class Lease:
    """What a worker knows of a run."""

    fence: int
    seq: int
    handed: dict[int, int] = field(default_factory=dict)  # command → inbox id


class Engine(RuleBasedStateMachine):
    conn: psycopg.Connection[Any]  # one for all examples: it has its plans

    def __init__(self) -> None:
        super().__init__()
        self.sql(f"truncate {', '.join(f'hotmesh_engine.{t}' for t in TABLES)}")
        self.sql("update hotmesh_engine.clock set ahead = '0'")
        self.now = 0  # hours
        self.numbers = count(1)
        self.runs: dict[int, Run] = {}
        self.buffer: list[Signal] = []  # in the order of their places
        self.tasks: dict[tuple[int, int], Task] = {}
        self.workers: dict[int, dict[int, Lease]] = {}
        self.held_tasks: dict[int, dict[tuple[int, int], int]] = {}  # worker → task → attempt
        self.dead: list[int] = []
        self.places: dict[int, int] = {}

        for _ in range(2):
            self.register()
        for id in IDS[:3]:
            self.begin(id, 3, 0, None, "fail", "allow_duplicate")

    # ---------------------------------------------------------------------------------- tools --

    def sql(self, query: str, *params: Any, **named: Any) -> list[tuple[Any, ...]]:
        cursor = self.conn.execute(query.encode(), named or params or None)
        return cursor.fetchall() if cursor.description else []

    @property
    def open(self) -> list[Run]:
        return [r for r in self.runs.values() if r.status is None]

    def by_id(self, workflow_id: str) -> Run | None:
        return next((r for r in self.open if r.id == workflow_id), None)

    # ---------------------------------------------------------------------------------- model --

    def deliver(self, key: str) -> None:
        """The oldest signal of a key goes to every wait that has none."""
        signal = next((s for s in self.buffer if s.key == key and s.expires > self.now), None)
        waits = [(r, c) for r in self.open for c, w in r.waits.items() if w.kind == "w" and w.key == key and c not in r.inbox]
        if signal is None or not waits:
            return
        self.buffer.remove(signal)
        for run, command in waits:
            run.inbox[command] = Message(5, signal.payload, signal, len(waits) > 1)
        for run, _ in waits:
            self.judge(run)

    def judge(self, run: Run) -> None:
        """A parked run whose group is complete comes due."""
        if run.holder is not None or run.trouble or run.due <= self.now:
            return
        for command, message in run.inbox.items():
            wait = run.waits.get(command)
            if wait is None or (message.kind == 3 and wait.group > 0):
                run.due = self.now
                return
            if all(c in run.inbox for c, w in run.waits.items() if w.group == wait.group):
                run.due = self.now
                return

    def put_back(self, messages: list[Message]) -> None:
        for message in messages:
            if message.signal is not None and not message.shared:
                self.buffer.append(message.signal)
        self.buffer.sort(key=lambda s: s.payload)

    def close(self, run: Run, status: int) -> None:
        run.status, run.closed, run.holder, run.trouble = status, self.now, None, False
        self.put_back(list(run.inbox.values()))
        run.inbox.clear()
        run.waits.clear()

    def settle(self) -> None:
        """Everything is routed: nothing stays, as nobody else holds a lock."""
        assert self.sql("select hotmesh.route()") == [(0,)]
        assert self.sql("select hotmesh.route()") == [(0,)]
        for key in KEYS:
            self.deliver(key)

    def release(self, run: Run) -> None:
        run.holder = None
        for leases in self.workers.values():
            leases.pop(run.run, None)

    # ---------------------------------------------------------------------------------- rules --

    @rule(
        id=st.sampled_from(IDS), priority=st.integers(1, 5), delay=st.sampled_from([0, 0, 0, 0, 0, 2]),
        timeout=st.sampled_from([None, None, None, 5]),
        conflict=st.sampled_from(["fail", "use_existing", "terminate_existing"]),
        reuse=st.sampled_from([*["allow_duplicate"] * 6, "allow_duplicate_failed_only", "reject_duplicate"]),
    )  # fmt: skip
    def start(self, id: str, priority: int, delay: int, timeout: int | None, conflict: str, reuse: str) -> None:
        self.begin(id, priority, delay, timeout, conflict, reuse)

    def begin(self, id: str, priority: int, delay: int, timeout: int | None, conflict: str, reuse: str) -> None:
        existing = self.by_id(id)
        closed = [r for r in self.runs.values() if r.id == id and r.status is not None and r.closed + RETENTION > self.now]
        forbidden = (reuse == "reject_duplicate" and closed) or (
            reuse == "allow_duplicate_failed_only" and any(r.status == 1 for r in closed)
        )
        call = (
            "select run_id, started from hotmesh_engine.start('default', '{t}', array[%s], '{q}', array['[]'::json],"
            " array[gen_random_uuid()], array[%s::float8], array[%s::float8], p_priority => array[%s::smallint],"
            " p_on_conflict => %s, p_reuse => %s)"
        )
        params = (id, delay * 3600, None if timeout is None else timeout * 3600, priority, conflict, reuse)
        if existing is not None and conflict == "use_existing":
            assert self.sql(call, *params) == [(existing.run, False)]
        elif (existing is not None and conflict == "fail") or (
            forbidden or (existing and conflict == "terminate_existing" and reuse == "reject_duplicate")
        ):
            with pytest.raises(psycopg.Error) as caught:
                self.sql(call, *params)
            assert caught.value.sqlstate == "HM001"
        else:
            ((run, started),) = self.sql(call, *params)
            assert started
            if existing is not None:
                self.close(existing, 4)
            deadline = None if timeout is None else self.now + delay + timeout
            self.runs[run] = Run(run, id, priority, self.now + delay, deadline)
        self.settle()

    def register(self) -> None:
        worker = 1_000_000_000 + next(self.numbers)
        self.sql("select hotmesh_engine.register(%s, 'w', 'default', '{q}', 36000, '0')", worker)
        self.workers[worker] = {}
        self.held_tasks[worker] = {}

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3))
    def signal(self, keys: list[str]) -> None:
        for key in keys:
            payload = next(self.numbers)
            assert self.sql("select hotmesh_engine.signal('default', %s, %s::text::json)", key, payload) == [(0,)]
            self.buffer.append(Signal(key, payload, self.now + RETENTION))
            self.settle()

    def interrupt(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(IDS))
        run = self.by_id(id)
        if run is None:
            with pytest.raises(psycopg.Error) as caught:
                self.sql("select hotmesh.interrupt(%s)", id)
            assert caught.value.sqlstate == "HM002"
        else:
            self.sql("select hotmesh.interrupt(%s)", id)
            self.close(run, 4)
        self.settle()

    def cancel(self, data: st.DataObject) -> None:
        if not self.open:
            return
        run = data.draw(st.sampled_from(self.open))
        assert self.sql("select hotmesh_engine.tell_run(%s, 'cancel', 'why', false)", run.run) == [(0,)]
        ((id,),) = self.sql("select max(inbox_id) from hotmesh_engine.inbox where run_id = %s and kind = 8", run.run)
        run.inbox[-id] = Message(8, 0)
        self.judge(run)
        self.settle()

    def time_passes(self, data: st.DataObject) -> None:
        hours = data.draw(st.sampled_from([1, 2, 2, 5, 5, 8 * 24]))
        self.sql("select hotmesh_engine.skip(%s * interval '1 hour')", hours)
        self.now += hours
        self.sql("select hotmesh_engine.deadlines()")
        for run in self.open:
            if run.deadline is not None and run.deadline <= self.now:
                self.close(run, 5)
        self.settle()

    def prune(self, data: st.DataObject) -> None:
        expired = [r.run for r in self.runs.values() if r.status is not None and r.closed + RETENTION <= self.now]
        assert self.sql("select hotmesh.prune()") == [(len(expired),)]
        for run in expired:
            del self.runs[run]
        self.buffer = [s for s in self.buffer if s.expires > self.now]

    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(list(self.workers)), label="worker")
        claims = data.draw(st.sampled_from([100, 100, 100, 1, 0]), label="claims")
        suspects = data.draw(st.sampled_from([100, 0, 1]), label="suspects") if claims else 0
        tasks = data.draw(st.sampled_from([100, 1, 0]), label="tasks")
        leases = self.workers[worker]
        p: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        rejected = set()
        closing: list[tuple[Run, int]] = []
        for run_id, lease in list(leases.items()):
            if not data.draw(st.booleans(), label=f"run {run_id} has something"):
                continue
            run = self.runs.get(run_id)
            if run is None or run.status is not None:
                rejected.add(run_id)
            self._parcel(run if run_id not in rejected else None, run_id, lease, p, closing, data)
        for (run_id, command), attempt in list(self.held_tasks[worker].items()):
            kind = data.draw(st.sampled_from([2, 3, None, 0, 9]), label=f"task {command} of {run_id}")
            if kind is not None:
                self._end_task(worker, run_id, command, attempt, kind, p)
        for run, status in closing:
            self.close(run, status)
        for run_id in {r for r, end in zip(p["p_run"], p["p_end"], strict=True) if end == -1} - rejected:
            self.judge(self.runs[run_id])
        ready = {r.run for r in self.open if r.holder is None and r.due <= self.now}
        rows = self.sql(TURN, worker=worker, queues=self.queues(), runs=claims, suspects=suspects, activities=tasks, **p)
        for key in KEYS:
            self.deliver(key)
        for run_id, command in zip(p["d_run"], p["d_command"], strict=True):
            owner = self.runs.get(run_id)
            if owner is not None and owner.status is None and command in owner.inbox:
                self.judge(owner)
        assert {r[1] for r in rows if r[0] == 4} == rejected
        for run_id in rejected:
            leases.pop(run_id)
        self._claimed(worker, rows, claims, suspects, ready)
        self._tasks_claimed(worker, rows, tasks)
        for kind, run_id, id, _, _, command, _ in rows:
            if kind == 5:
                leases.pop(run_id, None)
                assert run_id not in self.runs or self.runs[run_id].holder != worker
            elif kind == 3:
                lease = leases[run_id]
                assert id not in lease.handed.values(), "handed out twice"
                lease.handed[-id if command is None else command] = id
        for run_id, lease in leases.items():
            run = self.runs.get(run_id)
            if run is not None and run.status is None:
                assert set(run.inbox) <= set(lease.handed), "all that is there has been handed out"
        self.settle()

    def queues(self) -> list[int]:
        return [q for (q,) in self.sql("select queue_id from hotmesh_engine.queue where name = 'q'")]

    def _parcel(self, run: Run | None, run_id: int, lease: Lease, p: Any, closing: Any, data: st.DataObject) -> None:
        """What a run has to tell; ``run`` None: it has been closed, so nothing of it counts."""
        p["p_run"].append(run_id)
        p["p_fence"].append(lease.fence)
        p["p_base"].append(lease.seq)
        steps = data.draw(st.lists(st.sampled_from(STEPS), max_size=4))
        seq = lease.seq

        def row(kind: int, command: int | None = None, payload: Any = None) -> None:
            nonlocal seq
            seq += 1
            for name, value in zip(
                ("j_run", "j_seq", "j_kind", "j_command", "j_payload"), (run_id, seq, kind, command, payload), strict=True
            ):
                p[name].append(value)

        row(6 if seq else 1)
        new: set[int] = set()
        if run is not None and run.lost and data.draw(st.booleans(), label="clears"):
            p["p_cleared"].append(run_id)
            run.lost = 0
            run.trouble = False
        for step in steps if run is not None else []:
            assert run is not None
            if step in ("wait", "both", "act", "acts"):
                acts = step.startswith("act")
                commands = [next(run.commands) for _ in range(2 if step in ("both", "acts") else 1)]
                sign = data.draw(st.sampled_from([1, -1]), label="fails early, or when all are there")
                for command in commands:
                    key = "act" if acts else data.draw(st.sampled_from(KEYS))
                    wait = Wait("a" if acts else "w", key, sign * commands[0])
                    run.waits[command] = wait
                    new.add(command)
                    values = (run_id, command, wait.kind, key, wait.group)
                    for name, value in zip(("w_run", "w_command", "w_kind", "w_key", "w_group"), values, strict=True):
                        p[name].append(value)
                    if acts:
                        p["t_run"].append(run_id)
                        p["t_command"].append(command)
                        self.tasks[run_id, command] = Task(self.now)
            elif step == "see":
                ready = sorted(c for c in lease.handed if c in run.inbox and (c in run.waits or c < 0))
                if ready and ready[0] < 0:
                    del run.inbox[ready[0]]
                    row(8, None, '"why"')
                    p["p_used"].append(lease.handed.pop(ready[0]))
                elif ready:
                    command = ready[0]
                    message = run.inbox.pop(command)
                    del run.waits[command]
                    row(message.kind, command, str(message.payload))
                    p["p_used"].append(lease.handed.pop(command))
                    p["e_run"].append(run_id)
                    p["e_command"].append(command)
            elif step == "give up":
                old = sorted(c for c, w in run.waits.items() if c not in new and w.kind == "w")
                if old:
                    command = old[-1]
                    del run.waits[command]
                    lease.handed.pop(command, None)
                    if command in run.inbox:
                        self.put_back([run.inbox.pop(command)])
                    p["e_run"].append(run_id)
                    p["e_command"].append(command)
            else:
                payload = next(self.numbers)
                key = data.draw(st.sampled_from(KEYS))
                self.buffer.append(Signal(key, payload, self.now + RETENTION))
                for name, value in zip(("s_run", "s_key", "s_payload"), (run_id, key, str(payload)), strict=True):
                    p[name].append(value)
        end = data.draw(st.sampled_from([0, 0, 0, 0, -1, -1, 1, 2]), label="end")
        due = data.draw(st.sampled_from([FOREVER, FOREVER, 2]), label="due")
        p["p_end"].append(end)
        p["p_due"].append(due)
        p["p_outcome"].append("7" if end > 0 else None)
        lease.seq = seq
        if run is None:
            return
        run.seq = seq
        if end > 0:
            closing.append((run, end))
        elif end == -1:
            run.due = due if due == FOREVER else self.now + due
            run.lost = 0
            run.trouble = False
        if end:
            self.release(run)

    def _end_task(self, worker: int, run_id: int, command: int, attempt: int, kind: int, p: Any) -> None:
        payload = next(self.numbers)
        values = (run_id, command, attempt, kind, str(payload), 1)
        for name, value in zip(("d_run", "d_command", "d_attempt", "d_kind", "d_payload", "d_due"), values, strict=True):
            p[name].append(value)
        del self.held_tasks[worker][run_id, command]
        task = self.tasks.get((run_id, command))
        if task is None or task.holder != worker or task.attempt != attempt:
            return
        if kind in (0, 9):
            task.holder, task.due, task.attempt = None, self.now + 1, attempt - (kind == 9)
            return
        del self.tasks[run_id, command]
        run = self.runs.get(run_id)
        if run is not None and run.status is None:
            run.inbox[command] = Message(kind, payload)

    def _claimed(self, worker: int, rows: list[tuple[Any, ...]], claims: int, suspects: int, ready: set[int]) -> None:
        """``ready``: before routing. What routing has made due is leased by this turn or by the next."""
        leased = {r[1]: r for r in rows if r[0] == 1}
        free = [r for r in self.open if r.holder is None]
        perhaps = {r.run for r in free if r.due <= self.now}
        for limit, some in ((claims, [r for r in free if r.lost < 2]), (suspects, [r for r in free if r.lost >= 2])):
            taken = [r for r in some if r.run in leased]
            certain = [r for r in some if r.run in ready]
            assert {r.run for r in taken} <= perhaps
            assert len(taken) <= limit
            assert len(taken) >= min(limit, len(certain))
            if limit == 1 and taken and taken[0] in certain and certain[0].lost < 2:
                assert taken[0].priority == min(r.priority for r in certain)
        for run_id, (_, _, _, seq, fence, lost, _) in leased.items():
            run = self.runs[run_id]
            assert (seq, lost) == (run.seq, run.lost)
            run.holder = worker
            self.workers[worker][run_id] = Lease(fence, seq)

    def _tasks_claimed(self, worker: int, rows: list[tuple[Any, ...]], tasks: int) -> None:
        ready = {k for k, t in self.tasks.items() if t.holder is None and t.due <= self.now}
        void = {k for k in ready if k[0] not in self.runs or self.runs[k[0]].status is not None}
        taken = {(r[1], r[5]): r[4] for r in rows if r[0] == 7}
        assert set(taken) <= ready - void
        if tasks >= 100:
            assert set(taken) == ready - void
            for key in void:
                del self.tasks[key]
        else:
            left = {tuple(r) for r in self.sql("select run_id, command from hotmesh_engine.activity_task")}
            assert len(taken) + len(set(self.tasks) - left) <= tasks
            for key in set(self.tasks) - left:
                assert key in void
                del self.tasks[key]
        for key, attempt in taken.items():
            task = self.tasks[key]
            task.attempt += 1
            assert attempt == task.attempt
            task.holder = worker
            self.held_tasks[worker][key] = attempt

    def a_worker_dies(self, data: st.DataObject) -> None:
        """Its lease lapses; another one, in contact for long enough, sweeps."""
        victim = data.draw(st.sampled_from(list(self.workers)))
        other = next(w for w in self.workers if w != victim)
        self.sql("update hotmesh_engine.worker set contact_at = contact_at - interval '1 day'")
        self.sql("update hotmesh_engine.worker set beat_at = beat_at - interval '1 day' where worker_id = %s", victim)
        self.sql("select hotmesh_engine.sweep(%s)", other)
        for run in self.open:
            if run.holder == victim:
                self.release(run)
                run.lost += 1
        for task in self.tasks.values():
            if task.holder == victim:
                task.holder = None
        self._gone(victim)
        self.settle()

    def _gone(self, worker: int) -> None:
        del self.workers[worker]
        del self.held_tasks[worker]
        self.dead.append(worker)

    def a_worker_ends(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(list(self.workers)))
        self.sql("select hotmesh_engine.retire(%s)", worker)
        for run in self.open:
            if run.holder == worker:
                self.release(run)
        self._give_back(worker)
        self._gone(worker)
        self.settle()

    def _give_back(self, worker: int, known: Any = ()) -> None:
        for key, task in self.tasks.items():
            if task.holder == worker and key not in known:
                task.holder = None
                task.attempt -= 1

    def a_reply_is_lost(self, data: st.DataObject) -> None:
        """The worker knows of some runs and tasks, not of those that came with the reply."""
        old = data.draw(st.sampled_from(list(self.workers)))
        again = data.draw(st.booleans(), label="adopts twice")
        new = 1_000_000_000 + next(self.numbers)
        known = {r: lease for r, lease in self.workers[old].items() if data.draw(st.booleans(), label=f"knows {r}")}
        tasks = {k: a for k, a in self.held_tasks[old].items() if data.draw(st.booleans(), label=f"knows {k}")}
        for _ in range(1 + again):
            rows = self.sql(
                "select run, command, seq, fence"
                " from hotmesh_engine.adopt(%s, %s, 'w', %s::bigint[], %s::bigint[], %s::int[], %s::int[])",
                old, new, list(known), [r for r, _ in tasks], [c for _, c in tasks], list(tasks.values()),
            )  # fmt: skip
        kept = {r: (seq, fence) for r, c, seq, fence in rows if c is None}
        assert set(kept) == {r for r in known if r in self.runs and self.runs[r].holder == old}
        assert {(r, c) for r, c, _, _ in rows if c is not None} == {
            k for k in tasks if k in self.tasks and self.tasks[k].holder == old
        }
        self._give_back(old, tasks)
        for run in self.open:
            if run.holder == old:
                self.release(run)
                if run.run in kept:
                    run.holder = new
                    assert kept[run.run][0] == run.seq
        for key, task in self.tasks.items():
            if task.holder == old:
                assert key in tasks
                task.holder = new
        self._gone(old)
        self.workers[new] = {r: Lease(fence, seq) for r, (seq, fence) in kept.items()}
        self.held_tasks[new] = {k: a for k, a in tasks.items() if k in self.tasks and self.tasks[k].holder == new}
        self.settle()

    def a_zombie_is_refused(self, data: st.DataObject) -> None:
        if not self.dead:
            return
        worker = data.draw(st.sampled_from(self.dead))
        nothing: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        with pytest.raises(psycopg.Error) as caught:
            self.sql(TURN, worker=worker, queues=self.queues(), runs=100, suspects=100, activities=100, **nothing)
        assert caught.value.sqlstate == "HM004"

    def what_does_not_hold_it_is_rejected(self, data: st.DataObject) -> None:
        """Somebody else's run, an old or invented fence, another place in the journal."""
        if not self.open:
            return
        worker, run = data.draw(st.sampled_from(list(self.workers))), data.draw(st.sampled_from(self.open))
        fence, seq = data.draw(st.integers(-1, 1)), data.draw(st.integers(-1, 1))
        lease = self.workers[worker].get(run.run)
        if lease is not None and run.holder == worker and not fence and not seq:
            return
        at = lease or Lease(self.sql("select fence from hotmesh_engine.live where run_id = %s", run.run)[0][0], run.seq)
        p: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        p |= {"p_run": [run.run], "p_fence": [at.fence + fence], "p_base": [at.seq + seq], "p_end": [1], "p_due": [0]}
        p |= {"p_outcome": ["1"], "j_run": [run.run], "j_seq": [at.seq + seq + 1], "j_kind": [6], "j_command": [None]}
        p |= {"j_payload": [None], "s_run": [run.run], "s_key": ["k"], "s_payload": ["0"], "p_cleared": [run.run]}
        p |= {"t_run": [run.run], "t_command": [999], "w_run": [run.run], "w_command": [999], "w_kind": ["w"], "w_key": ["k"]}
        p |= {"w_group": [999], "e_run": [run.run] * len(run.waits), "e_command": list(run.waits)}
        rows = self.sql(
            TURN.replace("0, null, '{}'", "null, null, '{}'", 1), worker=worker, queues=[], runs=0, suspects=0, activities=0, **p
        )
        assert [r[1] for r in rows if r[0] == 4] == [run.run]
        for kind, run_id, id, _, _, command, _ in rows:  # what else came with the answer
            if kind == 5:
                self.workers[worker].pop(run_id, None)
            elif kind == 3:
                self.workers[worker][run_id].handed[-id if command is None else command] = id

    def a_turn_fails(self, data: st.DataObject) -> None:
        held = [r for r in self.open if r.holder is not None]
        if not held:
            return
        run, resumed = data.draw(st.sampled_from(held)), data.draw(st.booleans(), label="resumed")
        lease = self.workers[run.holder][run.run]  # type: ignore[index]
        self.sql("select hotmesh_engine.turn_failed(%s, %s, %s, 'HM025', 'no')", run.holder, run.run, lease.fence)
        self.release(run)
        # Its back-off, seconds, would pass or not by how long the test takes: it becomes the next hour.
        self.sql("update hotmesh_engine.live set due_at = hotmesh.now() + interval '59 minutes' where run_id = %s", run.run)
        run.trouble, run.due = True, self.now + 1
        if resumed:
            assert self.sql("select hotmesh.resume(%s)", run.id) == [(True,)]
            run.trouble, run.due, run.lost = False, self.now, 0
        self.settle()

    @rule(data=st.data())
    def another_turn(self, data: st.DataObject) -> None:
        """Half of what happens are turns."""
        self.turn(data)

    @rule(data=st.data())
    def yet_another_turn(self, data: st.DataObject) -> None:
        self.turn(data)

    @rule(data=st.data())
    def something_else_happens(self, data: st.DataObject) -> None:
        events = [
            self.interrupt, self.cancel, self.time_passes, self.a_worker_dies, self.a_worker_ends, self.a_reply_is_lost,
            self.a_zombie_is_refused,
            self.what_does_not_hold_it_is_rejected, self.a_turn_fails, self.prune,
        ]  # fmt: skip
        data.draw(st.sampled_from(events), label="event")(data)
        while len(self.workers) < 2:
            self.register()

    # ---------------------------------------------------------------------------------- check --

    def check_invariants(self, *args: Any, **kwargs: Any) -> None:
        super().check_invariants(*args, **kwargs)
        assert self.sql("select * from hotmesh.check_invariants()") == []
        assert self.sql("select * from hotmesh_engine.unrouted") == []
        assert dict(self.sql("select run_id, holder from hotmesh_engine.live")) == {r.run: r.holder for r in self.open}
        certain = {r.run: r.due <= self.now for r in self.open if r.holder is None}
        ready = dict(self.sql("select run_id, due_at <= hotmesh.now() from hotmesh_engine.live where holder is null"))
        assert {r: ready[r] for r in certain} == certain
        assert dict(self.sql("select workflow_id, run_id from hotmesh_engine.open_id")) == {r.id: r.run for r in self.open}
        closed = {r.run: r.status for r in self.runs.values() if r.status is not None}
        assert dict(self.sql("select run_id, status from hotmesh_engine.outcome")) == closed
        journals = self.sql("select run_id, max(seq) from hotmesh_engine.journal group by 1")
        assert dict(journals) == {r.run: r.seq for r in self.runs.values() if r.seq}
        signals = self.sql("select key, payload::text::int from hotmesh_engine.message order by place")
        assert signals == [(s.key, s.payload) for s in self.buffer]
        inbox = self.sql(
            "select run_id, coalesce(command, -inbox_id), kind, case kind when 8 then 0 else payload::text::int end"
            " from hotmesh_engine.inbox where kind <> 100"
        )
        assert sorted(inbox) == sorted((r.run, c, m.kind, m.payload) for r in self.open for c, m in r.inbox.items())
        waiting = self.sql("select run_id, command, kind::text, key, grp from hotmesh_engine.waiting")
        assert sorted(waiting) == sorted((r.run, c, w.kind, w.key, w.group) for r in self.open for c, w in r.waits.items())
        tasks = self.sql("select run_id, command, attempt, holder from hotmesh_engine.activity_task")
        expected = [(*k, t.attempt, t.holder) for k, t in self.tasks.items()]
        assert sorted(tasks, key=repr) == sorted(expected, key=repr)
        trouble = self.sql("select run_id from hotmesh_engine.trouble")
        assert {r for (r,) in trouble} == {r.run for r in self.open if r.trouble}


def test_the_engine_does_what_the_model_does(dsn: str) -> None:
    class OnThisDatabase(Engine):
        pass

    examples = int(os.environ.get("HOTMESH_MODEL_EXAMPLES", "50"))
    with psycopg.connect(dsn, autocommit=True) as OnThisDatabase.conn:
        run_state_machine_as_test(
            OnThisDatabase,
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                derandomize="HOTMESH_MODEL_EXAMPLES" not in os.environ,
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            ),
        )
