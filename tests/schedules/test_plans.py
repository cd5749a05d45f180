"""What firing reads does not grow with the history of slots, even if there was none when it was planned.

As for turns (tests/engine/test_plans.py): the connection of a worker's duties keeps its plans for as long as it lives.
"""

from __future__ import annotations

import psycopg

from pyhotmesh import engine
from pyhotmesh.connection import connect_sync
from tests.schedules.conftest import Schedules

SCHEDULES, HISTORY = 40, 1500
READ = """select sum(coalesce(idx_tup_read, 0) + seq_tup_read) from
          (select seq_tup_read, (select sum(idx_tup_read) from pg_stat_user_indexes i where i.relid = t.relid) as idx_tup_read
             from pg_stat_user_tables t where schemaname = 'hotmesh_engine') s"""


class Duty:
    """A worker's connection for duties, planned as there; it counts the rows that it reads."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn
        self.read = 0

    def fire(self) -> None:
        before = self._counters()
        fired, again = 1, 0.0
        while fired or not again:
            fired, again = self.conn.execute(engine.FIRE_SCHEDULES).fetchone()  # type: ignore[misc]
        self.read += self._counters() - before

    def _counters(self) -> int:
        self.conn.execute("select pg_stat_force_next_flush()")
        self.conn.execute("select pg_stat_clear_snapshot()")
        return int(self.conn.execute(READ.encode()).fetchone()[0])  # type: ignore[index]


def rows_read(db: Schedules, duty: Duty, prefix: str) -> float:
    """For each schedule, of which one slot runs at once, one waits for that run to end, and both runs are noted."""
    db.rows(
        """select hotmesh.cron(%s || n, 'nothing', '* * * * *', '{"overlap": "buffer_one", "max_cycles": 2}')
             from generate_series(1, %s) n""",
        prefix, SCHEDULES,
    )  # fmt: skip
    duty.read = 0
    for _ in range(2):
        db.skip("1 minute")
        duty.fire()
    for _ in range(2):
        db.close()
        duty.fire()
    outcomes = "select count(*) from hotmesh.firings where schedule_id like %s || '%%' and outcome = 'completed'"
    assert db.value(outcomes, prefix) == 2 * SCHEDULES
    return duty.read / SCHEDULES


def test_rows_read_do_not_grow_with_the_history(db: Schedules) -> None:
    db.rows("vacuum analyze")
    with connect_sync(db.dsn) as conn:
        duty = Duty(conn)
        rows_read(db, duty, "first")  # plans everything
        before = rows_read(db, duty, "before")
        db.cron("history", "* * * * *", f'{{"overlap": "allow_all", "catchup": "1 week", "max_cycles": {HISTORY}}}')
        db.skip(f"{HISTORY} minutes")
        duty.fire()
        db.close()
        while db.value("select count(*) from hotmesh_engine.schedule_slot where status is null"):
            duty.fire()
        assert db.value("select count(*) from hotmesh.firings where outcome = 'completed'") == HISTORY + 4 * SCHEDULES
        after = rows_read(db, duty, "after")
    assert after < 2 * before, f"{before:.0f} rows a schedule at first, {after:.0f} after {HISTORY} slots"
