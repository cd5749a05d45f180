"""A look into the database, which at the end of each test must be in order; and the duty, called by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.reliability.kit import Database


class Schedules(Database):
    """The test's own connection, with what tests of schedules ask again and again."""

    def cron(self, schedule_id: str, interval: str, options: str = "{}", workflow: str = "nothing") -> bool:
        return bool(self.value("select hotmesh.cron(%s, %s, %s, %s::json)", schedule_id, workflow, interval, options))

    def fire(self) -> int:
        """Calls the duty until nothing is due; how many slots it decided."""
        decided = 0
        while True:
            fired, again = self.rows("select r_fired, r_next from hotmesh_engine.fire_schedules()")[0]
            decided += fired
            if again > 0:
                return decided

    def at(self, time: str) -> None:
        """Moves the engine's clock to a time."""
        self.rows("select hotmesh_engine.skip(%s::timestamptz - hotmesh.now())", time)

    def close(self, workflow_id: str | None = None, status: int = 1) -> None:
        """Closes an open run, or all of them, as a worker would."""
        query = """select hotmesh_engine.close_runs(array_agg(run_id), array_agg(%s::smallint), array_agg('null'::json),
                          hotmesh.now())
                     from hotmesh_engine.live join hotmesh_engine.run using (run_id)
                    where %s::text is null or workflow_id = %s"""
        self.rows(query, status, workflow_id, workflow_id)

    def decisions(self, schedule_id: str = "s") -> list[str]:
        query = "select decision from hotmesh.firings where schedule_id = %s order by slot"
        return [decision for (decision,) in self.rows(query, schedule_id)]

    def slots(self, schedule_id: str = "s", decision: str = "started") -> list[str]:
        """The times of slots, of the day."""
        query = """select to_char(slot at time zone 'UTC', 'HH24:MI:SS') from hotmesh.firings
                   where schedule_id = %s and decision = %s order by slot"""
        return [slot for (slot,) in self.rows(query, schedule_id, decision)]

    def about(self, schedule_id: str = "s") -> dict[str, Any]:
        cursor = self.conn.execute("select * from hotmesh.schedules where schedule_id = %s", (schedule_id,))
        assert cursor.description is not None
        row = cursor.fetchone()
        assert row is not None, schedule_id
        return dict(zip([column.name for column in cursor.description], row, strict=True))


@pytest.fixture
def db(dsn: str) -> Iterator[Schedules]:
    """Whatever the test did: nothing is wrong in the database afterwards."""
    with Schedules(dsn) as database:
        yield database
        database.check()
