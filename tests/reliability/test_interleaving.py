"""What comes between two steps of somebody else: nothing overtakes, nothing is forgotten, nobody waits."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pyhotmesh import Client
from pyhotmesh.engine import MESSAGE
from tests.reliability.engine import LEASED_TASK, Hand, start
from tests.reliability.flows import listen
from tests.reliability.kit import Database, serve, until

SLOT = (
    "select pg_try_advisory_xact_lock(1212370259, hotmesh_engine.slot(namespace_id, 'k'))"
    " from hotmesh_engine.namespace where name = 'default'"
)
ROW = "select true from hotmesh_engine.live for update"


@pytest.mark.parametrize("lock", [SLOT, ROW], ids=["of the key's slot", "of the run"])
@pytest.mark.parametrize("sent", ["on its own", "in a caller's transaction"])
async def test_what_meets_a_lock_stays_and_keeps_its_order(dsn: str, db: Database, lock: str, sent: str) -> None:
    caller = sent != "on its own"
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            handle = await client.workflow.start(listen, args=["k", 3], workflow_id="w")
            await until(lambda: db.parked("w"), "it waits")
        with psycopg.connect(dsn) as other:
            assert other.execute(lock.encode()).fetchall() == [(True,)]
            for number in (1, 2):
                signal = "select hotmesh_engine.signal('default', 'k', %s::text::json, p_caller => %s)"
                assert db.value(signal, number, caller) == int(number == 1 or lock == SLOT or caller)
                assert db.status("w") == "waiting", "it meets the lock, also if the first is in the way"
            assert db.value("select hotmesh.route()") > 0, "it stays"
            assert db.status("w") == "waiting"
            other.rollback()
        await client.signal("k", 3)
        assert db.value("select hotmesh.route()") == 0
        assert db.status("w") == "ready"
        db.check()
        async with serve(client):
            assert await handle.result(timeout=20) == [1, 2, 3]


# ------------------------------------------------------------------------------ workers by hand --


def wait_for(db: Database, run: int, key: str) -> None:
    db.rows(
        "insert into hotmesh_engine.waiting (run_id, command, grp, namespace_id, kind, key)"
        " select %s, 1, 1, namespace_id, 'w', %s from hotmesh_engine.namespace returning 1",
        run, key,
    )  # fmt: skip


def messages(rows: list[tuple[Any, ...]]) -> list[tuple[int, str]]:
    """Run and payload of the messages in an answer."""
    return [(row[1], row[10]) for row in rows if row[0] == MESSAGE]


def test_a_message_that_comes_as_its_run_parks_wakes_it(db: Database) -> None:
    """It was tagged for the holder, whose turn that parks was sealed before it could know."""
    (run,) = start(db, "w")
    holder, other = Hand(db, 1), Hand(db, 2)
    assert holder.claim() == {run}
    wait_for(db, run, "k")
    db.rows("select hotmesh_engine.signal('default', 'k', '\"x\"')")
    assert db.value("select holder from hotmesh_engine.inbox") == holder.id
    fence, seq = holder.leases[run]
    parks = {"p_end": [-1], "p_due": ["infinity"], "p_outcome": [None]}
    assert messages(holder.turn(p_run=[run], p_fence=[fence], p_base=[seq], **parks)) == []
    assert db.status("w") == "ready"
    rows = other.turn(1)
    assert other.leases.keys() == {run}
    assert messages(rows) == [(run, '"x"')]


def test_what_a_lost_reply_had_handed_out_comes_again_once(db: Database) -> None:
    """And so it is if the reply of the adoption is lost as well, and it is repeated."""
    (run,) = start(db, "w")
    worker = Hand(db, 1)
    assert worker.claim() == {run}
    fence, seq = worker.leases[run]
    wait_for(db, run, "k")
    db.rows("select hotmesh_engine.signal('default', 'k', '\"x\"')")
    assert messages(worker.turn()) == [(run, '"x"')], "nobody reads this"
    assert messages(worker.turn()) == []
    for _ in range(2):
        rows = db.rows("select * from hotmesh_engine.adopt(1, 2, 'hand 1', %s, '{}', '{}', '{}')", [run])
        assert rows == [(run, None, seq, fence)]
    heir = Hand(db, 2)
    assert messages(heir.turn()) == [(run, '"x"')]
    assert messages(heir.turn()) == []


def test_who_reports_an_activity_does_not_wait_for_the_close_of_its_run(dsn: str, db: Database) -> None:
    """A close that took the rows of activities as well would meet reports of theirs in the other order."""
    (run,) = start(db, "w")
    with Database(dsn) as other:
        closing, reporting = Hand(other, 1), Hand(db, 2)
        assert closing.claim() == {run}
        for command in (1, 2):
            db.rows(
                "insert into hotmesh_engine.activity_task"
                " (run_id, command, queue_id, activity, input, options, attempt, due_at, scheduled_at)"
                " select run_id, %s, queue_id, 'act', '[]', '{\"retry\":{}}', 0, hotmesh.now(), hotmesh.now()"
                " from hotmesh_engine.live returning 1",
                command,
            )  # fmt: skip
        assert sum(row[0] == LEASED_TASK for row in reporting.turn(activities=2)) == 2
        other.conn.autocommit = False
        assert closing.step(run, end=1)
        db.rows("set lock_timeout = '2 s'")
        for command in (2, 1):
            reporting.report(run, command, 1, "1")
        other.conn.commit()
    assert db.status("w") == "completed"
    assert db.value("select hotmesh.route()") == 0
    assert db.rows("select * from hotmesh_engine.activity_task") == []
    assert db.rows("select * from hotmesh_engine.inbox") == []
