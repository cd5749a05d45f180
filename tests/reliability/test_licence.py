"""An activity's row is the only licence to report its outcome: whoever has lost it is not heard."""

from __future__ import annotations

from pyhotmesh import Client
from tests.reliability.engine import LEASED_TASK, Hand
from tests.reliability.flows import fan
from tests.reliability.kit import Database, serve, until


def lapses(db: Database) -> None:
    """No heartbeat came in time; the next attempt is due at once."""
    db.rows("update hotmesh_engine.activity_task set heartbeat_by = clock_timestamp() - interval '1 s' returning 1")
    assert db.value("select hotmesh_engine.deadlines()") == 1
    db.rows("update hotmesh_engine.activity_task set due_at = hotmesh.now() returning 1")


def claims(worker: Hand) -> list[tuple[int, int, int]]:
    """Run, command and attempt of the tasks that a turn leases to it."""
    return [(row[1], row[5], row[4]) for row in worker.turn(activities=10) if row[0] == LEASED_TASK]


async def test_a_late_report_is_not_accepted(dsn: str, db: Database) -> None:
    """Both workers live: one was silent about its activity for too long, and the other has it now."""
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(fan, args=[1, "helpers"])
        await until(lambda: db.value("select count(*) from hotmesh.activities") == 1, "its activity waits for a helper")
        late, now = Hand(db, 1, "helpers"), Hand(db, 2, "helpers")
        ((run, command, _),) = claims(late)
        lapses(db)
        late.report(run, command, 1, '"nobody has it"')
        assert claims(now) == [(run, command, 2)]
        late.report(run, command, 1, '"late"')
        late.report(run, command, 2, '"guessed"')
        assert db.rows("select holder, attempt from hotmesh_engine.activity_task") == [(2, 2)]
        now.report(run, command, 2, '"in time"')
        now.report(run, command, 2, '"twice"')
        assert await handle.result(timeout=20) == ["in time"]


async def test_nor_is_one_of_an_earlier_attempt(dsn: str, db: Database) -> None:
    """The same worker has it again, and its first attempt ends after all."""
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(fan, args=[1, "helpers"])
        await until(lambda: db.value("select count(*) from hotmesh.activities") == 1, "its activity waits for a helper")
        worker = Hand(db, 1, "helpers")
        ((run, command, _),) = claims(worker)
        lapses(db)
        assert claims(worker) == [(run, command, 2)]
        worker.report(run, command, 1, '"first"')
        assert db.rows("select holder, attempt from hotmesh_engine.activity_task") == [(1, 2)]
        worker.report(run, command, 2, '"second"')
        assert await handle.result(timeout=20) == ["second"]


async def test_what_is_handed_back_was_no_attempt(dsn: str, db: Database) -> None:
    """By a worker that ends; one that dies has used it up."""
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(fan, args=[1, "helpers"])
        await until(lambda: db.value("select count(*) from hotmesh.activities") == 1, "its activity waits for a helper")
        ends, dies, last = (Hand(db, i, "helpers") for i in (1, 2, 3))
        ((run, command, attempt),) = claims(ends)
        db.rows("select hotmesh_engine.retire(%s)", ends.id)
        assert attempt == 1
        assert claims(dies) == [(run, command, 1)]
        dies.falls_silent()
        last.is_old()
        last.sweep()
        assert claims(last) == [(run, command, 2)]
        last.report(run, command, 2, '"done"')
        assert await handle.result(timeout=20) == ["done"]
