"""What comes between two steps of somebody else: nothing overtakes, nothing is forgotten, nobody waits."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client
from pyhotmesh.engine import MESSAGE
from tests.reliability.engine import LEASED_TASK, REJECTED, Hand, start
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


# ---------------------------------------------------------------- signals between steps of two others --


def parked_on(db: Database, worker: Hand, workflow_id: str, *keys: str, together: bool = False) -> int:
    """A run that waits for these signals and is in nobody's memory."""
    (run,) = start(db, workflow_id)
    assert worker.claim() == {run}
    assert worker.waits(run, *keys, end=-1, together=together)
    assert db.parked(workflow_id)
    return run


SIGNAL = "select hotmesh_engine.signal('default', %s, %s::text::json)"


def test_the_last_two_of_a_group_that_do_not_see_each_other_wake_it(db: Database) -> None:
    """Each is sent before the other has committed."""
    run = parked_on(db, Hand(db, 1), "w", "a", "b", together=True)
    with psycopg.connect(db.dsn) as first:
        assert first.execute(SIGNAL.encode(), ("a", 1)).fetchone() == (0,)
        assert db.value(SIGNAL, "b", 2) == 1, "the run is locked: it stays"
        first.commit()
    assert db.parked("w"), "neither saw the other"
    assert db.value("select hotmesh.route()") == 0
    assert messages(Hand(db, 2).turn(1)) == [(run, "1"), (run, "2")]


def test_of_many_waiters_one_that_is_busy_neither_misses_a_signal_nor_holds_it_up(dsn: str, db: Database) -> None:
    """And the next signal, which finds the busy one with its own still on the way, is not taken for the first."""
    (run,) = start(db, "busy")
    free = start(db, "free")[0]
    with Database(dsn) as other:
        holder = Hand(other, 1)
        assert holder.claim() == {run, free}
        assert holder.waits(run, "k") and holder.waits(free, "k", end=-1)
        other.conn.autocommit = False
        assert holder.step(run)
        assert db.value(SIGNAL, "k", 1) == 1
        assert db.status("free") == "ready"
        assert db.value(SIGNAL, "k", 2) == 0, "all have one: it is kept"
        assert db.value("select hotmesh.route()") > 0
        other.conn.commit()
        other.conn.autocommit = True
        assert messages(holder.turn()) == [(run, "1")]
        assert messages(holder.turn()) == []
    assert messages(Hand(db, 2).turn(1)) == [(free, "1")]
    assert db.rows("select signal_id, payload from hotmesh.signals") == [("k", 2)]


@pytest.mark.parametrize("by", ["its turn", "its deadline"])
def test_what_a_closing_run_gives_back_meets_a_wait_that_was_made_meanwhile(dsn: str, db: Database, by: str) -> None:
    """The wait looked before the close had committed, and found nothing, or a turn that routes what it gives back."""
    (one,) = start(db, "one")
    with Database(dsn) as other:
        closing, waiting = Hand(other, 1), Hand(db, 2)
        assert closing.claim() == {one}
        assert closing.waits(one, "k")
        db.rows(SIGNAL, "k", 1)
        other.conn.autocommit = False
        if by == "its turn":
            assert closing.step(one, end=1)
        else:
            other.rows("update hotmesh_engine.live set deadline = hotmesh.now() returning 1")
            assert other.value("select hotmesh_engine.deadlines()") == 1
        two = parked_on(db, waiting, "two", "k")
        assert db.value("select hotmesh.route()") == int(by == "its turn")
        other.conn.commit()
    assert db.value("select hotmesh.route()") == 0
    assert messages(waiting.turn(1)) == [(two, "1")]


def test_a_signal_for_a_wait_that_has_just_ended_goes_to_the_next(db: Database) -> None:
    """It was tagged for the holder, whose turn that ends the wait was sealed before it could know."""
    (run,) = start(db, "w")
    holder = Hand(db, 1)
    assert holder.claim() == {run}
    assert holder.waits(run, "k")
    for number in (1, 2):
        db.rows(SIGNAL, "k", number)
    assert db.value("select holder from hotmesh_engine.inbox") == holder.id
    assert holder.step(run, e_run=[run], e_command=[1])
    assert holder.waits(run, "k", first=2)
    assert db.rows("select command, payload::text, handed from hotmesh_engine.inbox") == [(2, "1", True)]
    assert db.rows("select payload from hotmesh.signals") == [(2,)]


@pytest.mark.parametrize("holder_first", [True, False], ids=["the wait", "the signal"])
def test_a_signal_and_the_wait_for_it_that_are_made_together_meet(dsn: str, db: Database, holder_first: bool) -> None:
    """Neither sees the other; the first to have the slot of their key is named."""
    (run,) = start(db, "w")
    with Database(dsn) as other:
        worker = Hand(other, 1)
        assert worker.claim() == {run}
        if holder_first:
            other.conn.autocommit = False
            assert worker.waits(run, "k")
            assert db.value(SIGNAL, "k", 1) == 1
            other.conn.commit()
        else:
            with psycopg.connect(dsn) as sender:
                assert sender.execute(SIGNAL.encode(), ("k", 1)).fetchone() == (0,)
                assert worker.waits(run, "k")
                sender.commit()
        assert db.value("select hotmesh.route()") == 0
        other.conn.autocommit = True
        assert messages(worker.turn()) == [(run, "1")]


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("closes", ["before", "after"])
def test_a_run_that_closes_by_itself_is_asked_to_end_in_vain(db: Database, how: str, closes: str) -> None:
    """In a transaction that commits before its holder closes it, or after."""
    (run,) = start(db, "w")
    holder = Hand(db, 1)
    assert holder.claim() == {run}
    with psycopg.connect(db.dsn) as user:
        user.execute(f"select hotmesh.{how}('w')".encode())
        if closes == "before":
            assert holder.step(run, end=1)
        user.commit()
    if closes == "after":
        fence, seq = holder.leases[run]
        end = {"p_run": [run], "p_fence": [fence], "p_base": [seq], "p_end": [1], "p_due": [None], "p_outcome": ["1"]}
        assert all(row[0] != REJECTED for row in holder.turn(**end))
    assert db.value("select hotmesh.route()") == 0
    assert db.status("w") == "completed"
    assert db.rows("select * from hotmesh_engine.inbox") == []


REUSE = "select started from hotmesh_engine.start('default', '{t}', '{w}', '{q}', '{[]}', '{%s}', p_reuse => '%s')"


@pytest.mark.parametrize("end", [1, 2, None], ids=["completes", "fails", "goes on after all"])
@pytest.mark.parametrize("reuse", ["allow_duplicate", "allow_duplicate_failed_only", "reject_duplicate"])
def test_a_start_judges_the_run_that_closes_as_it_waits(dsn: str, db: Database, reuse: str, end: int | None) -> None:
    """It saw the run open, so it looked at no closed one."""
    (run,) = start(db, "w")
    with Database(dsn) as other, psycopg.connect(dsn, autocommit=True) as starter:
        holder = Hand(other, 1)
        assert holder.claim() == {run}
        other.conn.autocommit = False
        assert holder.step(run, end=end or 1)
        found: list[Any] = []

        def begin() -> None:
            try:
                found.extend(starter.execute((REUSE % (uuid.uuid4(), reuse)).encode()).fetchall())
            except psycopg.Error as error:
                found.append(error.sqlstate)

        starting = threading.Thread(target=begin)
        starting.start()
        while not db.waits_for_a_lock(starter):
            assert starting.is_alive(), "it has not waited"
        other.conn.commit() if end else other.conn.rollback()
        starting.join()
    allowed = end is not None and (reuse == "allow_duplicate" or (reuse != "reject_duplicate" and end == 2))
    assert found == [(True,)] if allowed else found == ["HM001"]
    assert db.value("select count(*) from hotmesh_engine.open_id") == int(allowed or end is None)


ASIDE = "select hotmesh_engine.set_aside(%s, %s)"


@pytest.mark.parametrize("ends", ["commits", "dies"])
def test_of_two_workers_that_fail_on_the_same_signal_one_sets_it_aside(dsn: str, db: Database, ends: str) -> None:
    """The other one goes on without waiting, and takes over if the first is gone before it has done it."""
    waiting = parked_on(db, Hand(db, 1), "w", "k")
    fine = parked_on(db, Hand(db, 2), "fine", "f")
    db.rows("alter table hotmesh_engine.inbox add constraint poison check (payload::text <> '1')")
    db.rows("select hotmesh.signal('k', '1'), hotmesh.signal('f', '2')")
    two = Hand(db, 3)
    with Database(dsn) as other:
        one = Hand(other, 4)
        for worker in (one, two):
            with pytest.raises(psycopg.errors.CheckViolation):
                worker.turn(1)
        other.conn.autocommit = False
        assert other.value(ASIDE, one.id, one.queues) == 1
        db.rows("set lock_timeout = '2 s'")
        assert db.value(ASIDE, two.id, two.queues) == -1, "somebody is at it"
        assert two.turn(1), "and nobody waits for it"
        other.conn.commit() if ends == "commits" else other.conn.rollback()
    assert db.value(ASIDE, two.id, two.queues) == int(ends == "dies")
    assert db.value(ASIDE, two.id, two.queues) == 0
    assert db.rows("select key, code from hotmesh_engine.undelivered") == [("k", "23514")]
    assert messages(two.turn(5)) == [(fine, "2")]
    assert db.parked("w") and db.value("select run_id from hotmesh.waiting") == waiting


@pytest.mark.parametrize("how", ["is claimed", "is held by one that is adopted"])
def test_an_interrupt_that_has_stayed_is_no_message(db: Database, how: str) -> None:
    """Somebody had the run locked, so it is still to be routed; whoever fetches the run's messages meanwhile gets it not,
    as a worker would use it up, and the run went on."""
    one = Hand(db, 1)
    (run,) = start(db, "w")
    if how != "is claimed":
        assert one.claim() == {run}
    with psycopg.connect(db.dsn) as holds:
        holds.execute("select from hotmesh_engine.live for update")
        assert db.value("select hotmesh_engine.interrupt_run(%s, 'why')", run) == 1, "it stays"
    query = "select kind, num from hotmesh_engine.turn(%s, %s, %s, 0, 0, null, null, null, '{}')"  # it routes nothing of others
    if how == "is claimed":
        rows = db.rows(query, 1, one.queues, 10)
        assert (1, 1) in rows, "it is leased"
    else:
        db.rows("select hotmesh_engine.adopt(1, 2, 'w', array[%s]::bigint[], '{}', '{}', '{}')", run)
        rows = db.rows(query, 2, one.queues, 0)
        assert db.value("select holder from hotmesh_engine.live") == 2
    assert not [row for row in rows if row[0] == 3], "a message"
    assert db.value("select hotmesh.route()") == 0
    assert db.status("w") == "interrupted"
    db.check()
