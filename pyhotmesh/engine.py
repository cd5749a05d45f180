"""The engine's functions as statements, and the shape of their answers. Used by sync and async alike.

Nothing else in the package spells the engine's SQL, but for reads of the public views.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from .runs import Parcel
from .wire import Bools, Floats, Int2s, Int4s, Int8s, Jsons, Texts, Times

HEAD, LEASED, JOURNAL, MESSAGE, REJECTED, GONE, TASK_OPEN, TASK = range(8)
DROPPED = 100  # inbox kind: the lease is gone

_CAPACITY = (
    "p_worker", "p_queues", "p_free_runs", "p_free_activities", "p_free_suspects", "p_due_floor", "p_after", "p_asleep",
    "p_closed",
)  # fmt: skip
_GROUPS = (
    ("p_run", "p_fence", "p_base", "p_end", "p_due", "p_outcome"),
    ("p_cleared", "p_used", "p_back"),
    ("j_run", "j_seq", "j_kind", "j_command", "j_at", "j_payload", "j_commands"),
    ("w_run", "w_command", "w_kind", "w_key", "w_group", "w_due"),
    ("e_run", "e_command"),
    ("t_run", "t_command", "t_queue", "t_activity", "t_input", "t_options", "t_attempt", "t_held", "t_due", "t_deadline",
     "t_heartbeat", "t_failure"),
    ("d_run", "d_command", "d_attempt", "d_kind", "d_payload", "d_due"),
    ("s_run", "s_key", "s_payload"),
)  # fmt: skip


@lru_cache(maxsize=256)
def _turn(groups: tuple[bool, ...]) -> str:
    """The statement of a turn that carries these groups of arrays; one prepared statement each."""
    names = [*_CAPACITY, *(name for group, used in zip(_GROUPS, groups, strict=True) if used for name in group)]
    return f"select * from hotmesh_engine.turn({', '.join(f'{name} => %b' for name in names)})"


REGISTER = "select hotmesh_engine.register(%s, %s, %s, %s, %s, %s)"
WARM_UP = "select hotmesh_engine.warm_up(%b)"
HEARTBEAT = "select * from hotmesh_engine.heartbeat(%b, %b, %b, %b, %b)"
ADOPT = "select run, command, seq, fence from hotmesh_engine.adopt(%b, %b, %s, %b, %b, %b, %b)"
RETIRE = "select hotmesh_engine.retire(%s)"
TURN_FAILED = "select hotmesh_engine.turn_failed(%s, %s, %s, %s, %s)"
JOURNAL_PAGE = "select * from hotmesh_engine.journal_page(%s, %s, %s, %s)"
SWEEP = "select hotmesh_engine.sweep(%s)"
DEADLINES = "select hotmesh_engine.deadlines()"
PRUNE = "select hotmesh.prune()"
START = (
    "select run_id, started from hotmesh_engine.start(%s, %b, %b, %b, %b, %b, %b, %b, "
    "%b::text[]::interval[], %b, %b, %s, %s, %s, %b, %s)"
)
SIGNAL = "select hotmesh_engine.signal(%s, %s, %s, %s, %s)"
INTERRUPT = "select hotmesh_engine.interrupt_run(hotmesh_engine.open_run(%s, %s), %s)"
INTERRUPT_RUN = "select hotmesh_engine.interrupt_run(%s, %s)"
ROUTE = "select hotmesh.route()"
FIND_RUN = "select hotmesh_engine.find_run(%s, %s)"
AWAIT = "select hotmesh_engine.await(%b, %b)"
OUTCOMES = "select run_id, status, payload from hotmesh_engine.outcomes(%b, %b)"
NOW = "select hotmesh_engine.epoch(hotmesh.now())"


def new_id() -> int:
    """A worker's or client's id: 62 random bits, never used again, known before it is registered."""
    return secrets.randbits(62) + 1


class TaskEnd(NamedTuple):
    """What became of a leased activity task: see turn.sql, d_kind."""

    run: int
    command: int
    attempt: int
    kind: int
    payload: bytes | None
    due: int | None


class Capacity(NamedTuple):
    """What a worker can take with a turn, and how it will wait for more."""

    queues: Sequence[int]
    runs: int
    activities: int
    suspects: int
    due_floor: datetime | None
    after: int | None
    asleep: bool | None


def turn_call(
    worker: int, capacity: Capacity, closed: Iterable[int], parcels: Sequence[Parcel], ends: Sequence[TaskEnd]
) -> tuple[str, list[Any]]:
    """The call of ``hotmesh_engine.turn``: parcels laid out as its aligned arrays."""
    run, fence, base, end = Int8s(), Int4s(), Int4s(), Int2s()
    due, outcome, cleared = Times(), Jsons(), Int8s()
    j_run, j_seq, j_kind, j_command = Int8s(), Int4s(), Int2s(), Int4s()
    j_at, j_payload, j_commands = Times(), Jsons(), Jsons()
    used, back = Int8s(), Int8s()
    w_run, w_command, w_kind, w_key, w_group, w_due = Int8s(), Int4s(), Texts(), Texts(), Int4s(), Times()
    e_run, e_command = Int8s(), Int4s()
    s_run, s_key, s_payload = Int8s(), Texts(), Jsons()
    tasks: list[tuple[Any, ...]] = []
    for parcel in parcels:
        held = parcel.run
        run_id = held.run_id
        run.append(run_id)
        fence.append(held.fence)
        base.append(parcel.base)
        end.append(parcel.end)
        due.append(parcel.due)
        outcome.append(parcel.outcome)
        for seq, kind, command, at, payload, commands in parcel.rows:
            j_run.append(run_id)
            j_seq.append(seq)
            j_kind.append(kind)
            j_command.append(command)
            j_at.append(at)
            j_payload.append(payload)
            j_commands.append(commands)
        if parcel.cleared:
            cleared.append(run_id)
        used += parcel.used
        back += parcel.back
        for number, wait_kind, key, group, wait_due in parcel.waits:
            w_run.append(run_id)
            w_command.append(number)
            w_kind.append(wait_kind)
            w_key.append(key)
            w_group.append(group)
            w_due.append(wait_due)
        for number in parcel.ended:
            e_run.append(run_id)
            e_command.append(number)
        for key, payload in parcel.signals:
            s_run.append(run_id)
            s_key.append(key)
            s_payload.append(payload)
        for task in parcel.tasks:
            tasks.append((run_id, *task))
    # fmt: off
    params: list[Any] = [
        worker, Int4s(capacity.queues), capacity.runs, capacity.activities, capacity.suspects,
        capacity.due_floor, capacity.after, capacity.asleep, Int8s(closed),
    ]
    used_groups = (
        bool(run), bool(cleared or used or back), bool(j_run), bool(w_run), bool(e_run), bool(tasks), bool(ends), bool(s_run)
    )
    if run:
        params += [run, fence, base, end, due, outcome]
    if used_groups[1]:
        params += [cleared, used, back]
    if j_run:
        params += [j_run, j_seq, j_kind, j_command, j_at, j_payload, j_commands]
    if w_run:
        params += [w_run, w_command, w_kind, w_key, w_group, w_due]
    if e_run:
        params += [e_run, e_command]
    if tasks:
        t = list(zip(*tasks, strict=True))
        params += [
            Int8s(t[0]), Int4s(t[1]), Texts(t[2]), Texts(t[3]), Jsons(t[4]), Jsons(t[5]), Int4s(t[6]), Bools(t[7]),
            Times(t[8]), Times(t[9]), Floats(t[10]), Jsons(t[11]),
        ]
    if ends:
        d = list(zip(*ends, strict=True))
        params += [Int8s(d[0]), Int4s(d[1]), Int4s(d[2]), Int2s(d[3]), Jsons(d[4]), Times(d[5])]
    if s_run:
        params += [s_run, s_key, s_payload]
    # fmt: on
    return _turn(used_groups), params


def micros(epoch: float) -> int:
    """A time as the engine answers it (seconds since 1970) in microseconds, exactly."""
    return round(epoch * 1_000_000)
