"""The engine's functions as statements, and the shape of their answers. Used by sync and async alike.

Nothing else in the package spells the engine's SQL, but for reads of the public views.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from .runs import KEEP, Parcel
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
    ("q_run", "q_command", "q_seq", "q_op", "q_args"),
)  # fmt: skip


@lru_cache(maxsize=256)
def _turn(groups: tuple[bool, ...], flush: bool) -> str:
    """The statement of a turn that carries these groups of arrays; one prepared statement each."""
    names = [*_CAPACITY, *(name for group, used in zip(_GROUPS, groups, strict=True) if used for name in group)]
    return f"select * from hotmesh_engine.turn({', '.join(f'{name} => %b' for name in names)}, p_flush => {flush})"


NEEDS = "0005"  # the oldest revision of the schema that has all of these
REVISION = "select version_num from hotmesh_migration.version"
REGISTER = "select hotmesh_engine.register(%s, %s, %s, %s, %s, %s)"
WARM_UP = "select hotmesh_engine.warm_up(%b)"
HEARTBEAT = "select * from hotmesh_engine.heartbeat(%b, %b, %b, %b, %b)"
ADOPT = "select run, command, seq, fence from hotmesh_engine.adopt(%b, %b, %s, %b, %b, %b, %b, %b, %b)"
SERVE = "select hotmesh_engine.serve(%s, %s, %s)"
GIVEN = "select * from hotmesh_engine.given(%b, %b)"
RETIRE = "select hotmesh_engine.retire(%s)"
TURN_FAILED = "select hotmesh_engine.turn_failed(%s, %s, %s, %s, %s)"
JOURNAL_PAGE = "select * from hotmesh_engine.journal_page(%s, %s, %s, %s)"
SWEEP = "select hotmesh_engine.sweep(%s)"
SET_ASIDE = "select hotmesh_engine.set_aside(%b, %b)"
DEADLINES = "select hotmesh_engine.deadlines()"
PRUNE = "select hotmesh.prune()"
FIRE_SCHEDULES = "select r_fired, r_next from hotmesh_engine.fire_schedules()"
START = (
    "select run_id, started from hotmesh_engine.start(%s, %b, %b, %b, %b, %b, %b, %b, "
    "%b::text[]::interval[], %b, %b, %s, %s, %s, %b, %s)"
)
START_EARLY = (
    "call hotmesh_engine.start_early(%s, %b, %b, %b, %b, %b, %b, %b, %b::text[]::interval[], %b, %b, %s, %s, %s, %b, null, null)"
)
SIGNAL = "select hotmesh_engine.signal(%s, %s, %s, %s, %s)"
SIGNAL_EARLY = "call hotmesh_engine.signal_early(%s, %s, %s, %s, null)"
OPEN_RUN = "select hotmesh_engine.open_run(%s, %s)"
TELL_RUN = "select hotmesh_engine.tell_run(%s, %s, %s, %s)"
ROUTE = "select hotmesh.route()"
FIND_RUN = "select hotmesh_engine.find_run(%s, %s)"
AWAIT = "call hotmesh_engine.await(%b, %b, null, null, null)"
OUTCOMES = "select run_id, status, payload from hotmesh_engine.outcomes(%b, %b)"
CREATE_SCHEDULE = "select hotmesh_engine.create_schedule(%s, %s, %s::json, %s)"
UPDATE_SCHEDULE = "select hotmesh_engine.update_schedule(%s, %s, %s::json)"
PAUSE_SCHEDULE = "select hotmesh.pause_schedule(%s, %s, %s)"
RESUME_SCHEDULE = "select hotmesh.resume_schedule(%s, %s)"
TRIGGER_SCHEDULE = "select workflow_id, run_id from hotmesh_engine.trigger_schedule(%s, %s, false, %s)"
BACKFILL_SCHEDULE = "select hotmesh.backfill_schedule(%s, %s, %s, %s)"
DELETE_SCHEDULE = "select hotmesh.delete_schedule(%s, %s)"
NEXT_RUNS = "select hotmesh.next_runs(%s, %s, %s)"
CALL = "select run_id, status, payload from hotmesh_engine.call(%s, %s, %s, %s, %s, %s::text::interval, %s, %s)"
FLUSH_CALL = "select hotmesh_engine.flush_call(%s, %s, %s)"
START_WITH_RECORD = (
    "select run_id, started from hotmesh_engine.start_with_record(%s, %b, %b, %b, %b, %b, %b, %b, "
    "%b::text[]::interval[], %b, %b, %s, %s, %s, %b, %s::text::json)"
)
START_ON_RECORD = (
    "select run_id, started from hotmesh_engine.start_on_record(%s, %s, %s, %s::text::json, %s, %s, %s, %s, %s::text::json, "
    "%s::text::uuid, %s::text::interval, %s, 'use_existing', 'use_completed', %s, %s)"
)
CHANGE_RECORD = "select hotmesh_engine.change_record(%s, %s, %s, %s, %s::text::json, %s::text::interval, %s, %s)"
RECORD = "select hotmesh.record(%s, %s, %s, %s)::text"
RECORD_AS_OF = "select hotmesh.record_as_of(%s, %s, %s, %s, %s)::text"
RUNS_OF_RECORD = "select hotmesh_engine.runs_of_record(%s, %s, %s)"
FLUSH_RECORD = "select hotmesh_engine.flush_record(%s, %s, %s)"
DECLARE_ENTITY = "select hotmesh_engine.declare_entity(%s, %s, %s::text::json)"
OWN_TABLE = "select hotmesh_engine.own_table(%s)"
TABLE_OF = "select hotmesh_engine.table_of(entity_id, own) from hotmesh_engine.entity where entity_id = %s"
INDEX_PLAN = "select name, state, build, remove, is_index from hotmesh_engine.index_plan(%s, %s::text::json, %s::text::json)"
MAKE_VIEW = "select hotmesh_engine.make_view(%s)"
LOCK_INDEXES = "select pg_try_advisory_lock(1212370261)"  # 'HMWU'
FIND = (
    "select r_ids, r_documents, r_key::text from hotmesh_engine.find(%s, %s, %s::text::json, %s, %s, %s, %s, %s, %s::text::json)"
)
COUNT_RECORDS = "select hotmesh_engine.count_records(%s, %s, %s::text::json)"
AGGREGATE = "select hotmesh_engine.aggregate(%s, %s, %s::text::json, %s, %s::text::json, %s)"
EXPLAIN_FIND = "select hotmesh_engine.explain_find(%s, %s, %s::text::json, %s, %s, %s, %s::text::json)"
NOW = "select hotmesh_engine.epoch(hotmesh.now())"
TIME = "select hotmesh.now()"


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
    heads: list[tuple[Any, ...]] = []
    rows: list[tuple[Any, ...]] = []
    cleared, used, back = Int8s(), Int8s(), Int8s()
    waits: list[tuple[Any, ...]] = []
    ended: list[tuple[int, int]] = []
    tasks: list[tuple[Any, ...]] = []
    signals: list[tuple[int, str, bytes]] = []
    records: list[tuple[int, int, int, str, bytes]] = []
    for parcel in parcels:
        held = parcel.run
        run_id = held.run_id
        heads.append((run_id, held.fence, parcel.base, parcel.end, parcel.due, parcel.outcome))
        rows += parcel.rows
        more = parcel.more
        if more is None:
            continue
        if more.cleared:
            cleared.append(run_id)
        used += more.used
        back += more.back
        waits += [(run_id, *wait) for wait in more.waits]
        if parcel.end <= KEEP:  # closing ends all of them
            ended += [(run_id, number) for number in more.ended]
        tasks += [(run_id, *task) for task in more.tasks]
        signals += [(run_id, *signal) for signal in more.signals]
        last = parcel.base + len(parcel.rows)  # the row that lists them, at the latest
        records += [(run_id, number, last, op, args) for number, op, args in more.records]
    # fmt: off
    params: list[Any] = [
        worker, Int4s(capacity.queues), capacity.runs, capacity.activities, capacity.suspects,
        capacity.due_floor, capacity.after, capacity.asleep, Int8s(closed),
    ]
    groups = (
        bool(heads), bool(cleared or used or back), bool(rows), bool(waits), bool(ended), bool(tasks), bool(ends), bool(signals),
        bool(records),
    )
    if heads:
        params += _columns(heads, Int8s, Int4s, Int4s, Int2s, Times, Jsons)
    if groups[1]:
        params += [cleared, used, back]
    if rows:
        params += _columns(rows, Int8s, Int4s, Int2s, Int4s, Times, Jsons, Jsons)
    if waits:
        params += _columns(waits, Int8s, Int4s, Texts, Texts, Int4s, Times)
    if ended:
        params += _columns(ended, Int8s, Int4s)
    if tasks:
        params += _columns(
            tasks, Int8s, Int4s, Texts, Texts, Jsons, Jsons, Int4s, Bools, Times, Times, Floats, Jsons
        )
    if ends:
        params += _columns(ends, Int8s, Int4s, Int4s, Int2s, Jsons, Times)
    if signals:
        params += _columns(signals, Int8s, Texts, Jsons)
    if records:
        params += _columns(records, Int8s, Int4s, Int4s, Texts, Jsons)
    # fmt: on
    return _turn(groups, bool(ends) or not all(parcel.is_internal for parcel in parcels)), params


def _columns(rows: Sequence[tuple[Any, ...]], *types: type[list[Any]]) -> list[list[Any]]:
    """Rows as one array a column."""
    return [kind(column) for kind, column in zip(types, zip(*rows, strict=True), strict=True)]


def micros(epoch: float) -> int:
    """A time as the engine answers it (seconds since 1970) in microseconds, exactly."""
    return round(epoch * 1_000_000)
