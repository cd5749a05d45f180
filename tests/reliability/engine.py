"""Workers that are nothing but calls of the engine's functions: each step happens when a test says so."""

from __future__ import annotations

from typing import Any

from tests.reliability.kit import Database

HEAD, LEASED, REJECTED, LEASED_TASK = 0, 1, 4, 7


class Hand:
    """A worker by hand, on the queue `default` unless told otherwise."""

    def __init__(self, db: Database, worker_id: int, queue: str = "default", lease: float = 3600.0) -> None:
        self.db = db
        self.id = worker_id
        ((self.queues,),) = db.rows(
            "select hotmesh_engine.register(%s, %s, 'default', array[%s], %s, '0')", worker_id, f"hand {worker_id}", queue, lease
        )
        self.leases: dict[int, list[int]] = {}  # run: fence, last seq

    def turn(self, runs: int = 0, suspects: int = 0, activities: int = 0, **carries: list[Any]) -> list[tuple[Any, ...]]:
        """One turn; arrays by the names of its parameters."""
        named = "".join(f", {name} => %s::{_TYPES[name]}[]" for name in carries)
        call = f"select * from hotmesh_engine.turn(%s, %s, %s, %s, %s, null, 0, null, '{{}}'{named})"
        rows = self.db.rows(call, self.id, self.queues, runs, activities, suspects, *carries.values())
        for row in rows:
            if row[0] == LEASED:
                self.leases[row[1]] = [row[4], row[3]]
        return rows

    def claim(self, runs: int = 100, suspects: int = 0) -> set[int]:
        """The runs that a turn leases to it."""
        return {row[1] for row in self.turn(runs, suspects) if row[0] == LEASED}

    def step(self, run: int, end: int = 0, **carries: list[Any]) -> bool:
        """Records an empty row for a run that it holds; false if the engine rejects it."""
        fence, seq = self.leases[run]
        now = self.db.value("select hotmesh.now()")
        self.leases[run][1] += 1
        rows = self.turn(
            p_run=[run], p_fence=[fence], p_base=[seq], p_end=[end], p_due=["infinity" if end < 0 else None],
            p_outcome=["1" if end > 0 else None],
            j_run=[run], j_seq=[seq + 1], j_kind=[1 if seq == 0 else 6], j_command=[None], j_at=[now],
            j_payload=[None], j_commands=[None], **carries,
        )  # fmt: skip
        return all(row[0] != REJECTED for row in rows)

    def waits(self, run: int, *keys: str, end: int = 0, first: int = 1, together: bool = False) -> bool:
        """Records that a run waits for these signals, by commands from ``first`` on; ``together``: for all of them."""
        commands = list(range(first, first + len(keys)))
        return self.step(
            run, end, w_run=[run] * len(keys), w_command=commands, w_kind=["w"] * len(keys), w_key=list(keys),
            w_group=[-first] * len(keys) if together else commands, w_due=[None] * len(keys),
        )  # fmt: skip

    def report(self, run: int, command: int, attempt: int, payload: str) -> None:
        """An activity task has completed, it says."""
        self.turn(d_run=[run], d_command=[command], d_attempt=[attempt], d_kind=[2], d_payload=[payload], d_due=[None])

    def falls_silent(self) -> None:
        """Nothing has been heard of it for longer than its lease."""
        self.db.rows("update hotmesh_engine.worker set beat_at = beat_at - lease * 2 where worker_id = %s returning 1", self.id)

    def beat(self) -> bool:
        """A heartbeat; false if it is told that it is dead."""
        return bool(self.db.value("select r_alive from hotmesh_engine.heartbeat(%s, '{}', '{}', '{}', '{}')", self.id))

    def sweep(self) -> int:
        return int(self.db.value("select hotmesh_engine.sweep(%s)", self.id))

    def is_old(self) -> None:
        """It has been in touch for longer than a lease."""
        self.db.rows(
            "update hotmesh_engine.worker set contact_at = contact_at - lease * 2 where worker_id = %s returning 1", self.id
        )

    @property
    def is_dead(self) -> bool:
        return bool(self.db.value("select dead from hotmesh_engine.worker where worker_id = %s", self.id))


_TYPES = {
    "p_run": "bigint", "p_fence": "int", "p_base": "int", "p_end": "smallint", "p_due": "timestamptz", "p_outcome": "json",
    "p_cleared": "bigint", "p_used": "bigint", "p_back": "bigint",
    "j_run": "bigint", "j_seq": "int", "j_kind": "smallint", "j_command": "int", "j_at": "timestamptz", "j_payload": "json",
    "j_commands": "json",
    "w_run": "bigint", "w_command": "int", "w_kind": "text", "w_key": "text", "w_group": "int", "w_due": "timestamptz",
    "e_run": "bigint", "e_command": "int", "s_run": "bigint", "s_key": "text", "s_payload": "json",
    "q_run": "bigint", "q_command": "int", "q_seq": "int", "q_op": "text", "q_args": "json",
    "d_run": "bigint", "d_command": "int", "d_attempt": "int", "d_kind": "smallint", "d_payload": "json", "d_due": "timestamptz",
}  # fmt: skip


def start(db: Database, *workflow_ids: str) -> list[int]:
    """Starts workflows of a type that no worker of the suite knows; their runs."""
    for workflow_id in workflow_ids:
        db.rows("select hotmesh.start_workflow('by hand', '[]', %s)", workflow_id)
    return [db.value("select run_id from hotmesh.workflows where workflow_id = %s", w) for w in workflow_ids]
