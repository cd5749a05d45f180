"""Who waits for whom: nobody in a circle, and for an open transaction only who has to."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, StartRequest, WorkflowFailed, WorkflowInterrupted, connection
from pyhotmesh.engine import MESSAGE
from tests.reliability.engine import Hand, start
from tests.reliability.flows import call, fan, gives_up, listen, ping_pong, shout
from tests.reliability.kit import Database, serve, until


@pytest.mark.limit(120)
async def test_crossed_signals_starts_and_interrupts_do_not_deadlock(dsn: str, db: Database) -> None:
    """Two workers, pairs that signal each other, a crowd that is interrupted as it works. ``db`` asks the
    server for deadlocks afterwards."""
    pairs, rounds = 40, 5
    async with Client(dsn) as client, Client(dsn) as other, serve(client, name="one"), serve(other, name="two"):
        requests = [StartRequest(ping_pong, [f"a{i}", f"b{i}", rounds]) for i in range(pairs)]
        requests += [StartRequest(ping_pong, [f"b{i}", f"a{i}", rounds]) for i in range(pairs)]
        handles = await client.workflow.start_many(requests)
        crowd = await other.workflow.start_many([StartRequest(listen, [f"crowd{i % 7}", 1000]) for i in range(100)])

        async def signals(sender: Client) -> None:
            for i in range(150):
                await sender.signal(f"crowd{i % 7}", i)

        async def interrupts() -> None:
            for handle in crowd[::3]:
                await handle.interrupt("enough")

        await asyncio.gather(signals(client), signals(other), interrupts(), client.workflow.execute(fan, args=[200]))
        for handle in handles:
            assert await handle.result(timeout=60) == rounds
        for handle in crowd[::3]:
            with pytest.raises(WorkflowInterrupted):
                await handle.result(timeout=20)


def in_thread(dsn: str, query: str) -> tuple[threading.Thread, list[Any]]:
    """Runs a statement on a connection of its own; the list gets its row, or its error."""
    out: list[Any] = []

    def run() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            try:
                out.append(conn.execute(query.encode()).fetchone())
            except psycopg.Error as error:
                out.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, out


START = "select hotmesh.start_workflow('shout', '[\"x\"]', 'same')"


def beside_a_start(dsn: str, query: str, ends: str) -> Any:
    """What a statement says that comes while somebody's transaction, which then ``ends``, has started the same id."""
    with psycopg.connect(dsn) as first:
        first.execute(START.encode())
        thread, out = in_thread(dsn, query)
        time.sleep(0.3)
        assert out == [], "nobody can know yet"
        getattr(first, ends)()
        thread.join(20)
    (answer,) = out
    return answer


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_two_starts_of_one_id(dsn: str, db: Database, ends: str) -> None:
    """The second waits for the first one's transaction, and then knows."""
    answer = beside_a_start(dsn, START, ends)
    if ends == "commit":
        assert isinstance(answer, psycopg.Error)
        assert answer.sqlstate == "HM001"
    else:
        assert isinstance(answer, tuple)
    assert db.value("select count(*) from hotmesh.workflows where workflow_id = 'same'") == 1


@pytest.mark.parametrize("policy", ["fail", "use_existing"])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_many_starts_of_which_somebody_is_starting_one(dsn: str, db: Database, ends: str, policy: str) -> None:
    """They wait for that transaction, and then know; of those that lose nothing is left."""
    many = (
        "select array_agg(started) from hotmesh_engine.start('default', '{t,t,t}', '{a,same,z}', '{q,q,q}', '{[],[],[]}',"
        f" array(select gen_random_uuid() from generate_series(1, 3)), p_on_conflict => '{policy}')"
    )
    answer = beside_a_start(dsn, many, ends)
    count = db.value("select count(*) from hotmesh.workflows")
    if ends == "rollback":
        assert (answer, count) == (([True, True, True],), 3)
    elif policy == "use_existing":
        assert (answer, count) == (([True, False, True],), 3)
    else:
        assert isinstance(answer, psycopg.Error) and (answer.sqlstate, count) == ("HM001", 1)


@pytest.mark.parametrize(
    ("count", "more"), [(1001, ""), (2, ", p_on_conflict => 'use_existing'"), (1, ", p_reuse => 'reject_duplicate'")]
)
def test_what_a_start_in_a_callers_transaction_cannot_do_is_refused(db: Database, count: int, more: str) -> None:
    arrays = "array_agg('t'::text), array_agg(i::text), array_agg('q'::text), array_agg('[]'::json), array_agg(gen_random_uuid())"
    call = f"hotmesh_engine.start('default', t, i, q, p, u, p_caller => true{more})"
    with pytest.raises(psycopg.Error) as refused:
        db.rows(f"select started from (select {arrays} from generate_series(1, %s) i) a(t, i, q, p, u), {call}", count)
    assert refused.value.sqlstate == "HM005"
    assert db.value("select count(*) from hotmesh_engine.run") == 0


@pytest.mark.parametrize("closed", [False, True])
def test_a_start_that_is_repeated_starts_once(db: Database, closed: bool) -> None:
    """Its reply was lost; the run may even have closed meanwhile."""
    request = uuid.uuid4()
    call = "select * from hotmesh_engine.start('default', '{t}', '{w}', '{q}', array['[]'::json], array[%s::uuid], p_retry => %s)"
    ((run, _),) = db.rows(call, request, False)
    if closed:
        db.rows("select hotmesh.interrupt('w')")
        db.rows("select hotmesh.route()")
    assert db.rows(call, request, True) == [(run, True)]
    assert db.value("select count(*) from hotmesh_engine.run") == 1
    if closed:
        ((other, _),) = db.rows(call, uuid.uuid4(), True)
        assert other != run


async def test_a_start_in_an_open_transaction_holds_no_worker_up(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        with psycopg.connect(dsn) as user:
            user.execute(START.encode())
            assert await client.workflow.execute(shout, args=["y"], timeout=10) == "y!"
            assert db.status("same") is None
            user.commit()
        assert await client.get_handle("same").result(timeout=20) == "x!"


async def test_a_queue_that_an_open_transaction_is_the_first_to_use_is_waited_for(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name can be given once only. Who comes while it is not known whether it was given tries again."""
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", "100ms")
    async with Client(dsn) as client, asyncio.TaskGroup() as group:
        with psycopg.connect(dsn) as user:
            user.execute(START.encode())
            worker = serve(client)
            served = group.create_task(worker.run())
            started = group.create_task(client.workflow.execute(shout, args=["y"], timeout=20))
            await until(lambda: "lock timeout" in caplog.text, "the worker tries again")
            user.commit()
        assert await started == "y!"
        assert await client.get_handle("same").result(timeout=20) == "x!"
        worker.stop()
        await served


NEW = """select hotmesh.start_workflow('shout', '["x"]', 'of the new queue', task_queue => 'new')"""


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_worker_waits_for_nobody_who_makes_a_queue(dsn: str, db: Database, ends: str) -> None:
    """An activity of a queue that a user's open transaction is the first to use: its task stands by, all else goes on."""
    status = "select task_queue, status from hotmesh.activities"
    async with Client(dsn) as client, serve(client):
        with psycopg.connect(dsn) as user:
            user.execute(NEW.encode())
            fans = [await client.workflow.start(fan, args=[3, "new"]) for _ in range(2)]
            await until(lambda: len(db.rows(status)) == 6, "they have asked")
            began = time.monotonic()
            for _ in range(20):
                assert await client.workflow.execute(shout, args=["y"], timeout=10) == "y!"
            assert time.monotonic() - began < 5.0
            assert db.value("select count(*) from pg_locks where not granted") == 0, "nor does a duty wait"
            assert set(db.rows(status)) == {("new", "ready")}
            assert db.value("select count(*) from hotmesh_engine.queue") == 1
            db.check()
            getattr(user, ends)()
        await until(lambda: db.value("select count(*) from hotmesh_engine.stand_in") == 0, "they have their queue")
        assert db.value("select count(*) from hotmesh_engine.queue") == 2
        async with serve(client, task_queue="new"):
            assert [await handle.result(timeout=20) for handle in fans] == [[0, 2, 4]] * 2
            if ends == "commit":
                assert await client.get_handle("of the new queue").result(timeout=20) == "x!"


async def test_a_task_that_stands_by_is_given_up_and_times_out_as_any(dsn: str, db: Database) -> None:
    bounded = {"task_queue": "new", "schedule_to_close_timeout": 0.2}
    async with Client(dsn) as client, serve(client):
        with psycopg.connect(dsn) as user:
            user.execute(NEW.encode())
            gone = await client.workflow.start(gives_up, args=["new", "key"])
            with pytest.raises(WorkflowFailed, match="schedule_to_close"):
                await client.workflow.execute(call, args=["double", [1], bounded], timeout=20)
            await until(lambda: db.waits(gone.workflow_id), "it has asked")
            await gone.interrupt("enough")
            user.rollback()
        await until(lambda: db.value("select count(*) from hotmesh_engine.stand_in") == 0, "nothing stands by")


def test_two_makers_of_one_queue(db: Database, dsn: str) -> None:
    """The second waits for the first one's transaction; a name has one number."""
    with psycopg.connect(dsn) as first:
        first.execute(NEW.encode())
        thread, out = in_thread(dsn, NEW.replace("of the new", "of the same"))
        time.sleep(0.3)
        assert out == []
        first.commit()
        thread.join(20)
    assert len(out[0]) == 1
    assert db.value("select count(*) from hotmesh_engine.queue where name = 'new'") == 1


async def test_a_resume_that_finds_nothing_amiss_holds_nobody_up(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        held = await client.workflow.start(listen, args=["key"], workflow_id="held")
        await until(lambda: db.waits("held"), "it waits")
        with psycopg.connect(dsn) as user:
            assert user.execute("select hotmesh.resume('held')").fetchone() == (False,)
            await client.signal("key", 1)
            assert await held.result(timeout=10) == [1]


# ------------------------------------------------------------------------------- stepped by hand --

SLOTS = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1212370259 and pid = %s"
LEVELS = list(psycopg.IsolationLevel)


@pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])
def test_crossed_transactions_of_callers_wait_for_nobody(db: Database, level: psycopg.IsolationLevel) -> None:
    """Two that signal the same keys and end the same runs in opposite order; a worker and a client at work between them."""
    worker = Hand(db, 1)
    runs = start(db, "a", "b")
    assert worker.claim() == set(runs)
    for run, key in zip(runs, "ab", strict=True):
        assert worker.waits(run, key)
    db.rows("set lock_timeout = '2 s'")
    with psycopg.connect(db.dsn) as one, psycopg.connect(db.dsn) as two:
        for conn in (one, two):
            conn.set_isolation_level(level)
            conn.execute("set lock_timeout = '2 s'")
        for first, second in ("ab", "ba"):
            for conn, name in ((one, first), (two, second)):
                conn.execute("select hotmesh.signal(%s, %s::text::json)", (name, f'"{conn is one}"'))
                conn.execute("select hotmesh.cancel(%s)", (name,))
            assert all(worker.step(run) for run in runs)
            db.rows("select hotmesh_engine.signal('default', %s, '\"own\"')", f"{first} of others")
        for conn in (one, two):
            assert conn.execute(SLOTS.encode(), (conn.info.backend_pid,)).fetchone() == (0,)
            conn.commit()
    assert db.value("select hotmesh.route()") == 0
    assert sorted((row[1], row[4]) for row in worker.turn() if row[0] == MESSAGE) == sorted(
        [(run, 5) for run in runs] + [(run, 8) for run in runs] * 2
    )


@pytest.fixture
def slot(dsn: str, db: Database) -> Iterator[psycopg.Connection[Any]]:
    """Somebody has the slot of the key k until his transaction ends."""
    db.rows("select hotmesh_engine.namespace_id('default')")
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "select pg_advisory_xact_lock(1212370259, hotmesh_engine.slot(namespace_id, 'k')) from hotmesh_engine.namespace"
        )
        yield conn


def test_a_signal_waits_for_its_slot_as_long_as_a_commit_takes_and_no_longer(db: Database, slot: psycopg.Connection[Any]) -> None:
    """Then it stays, with nothing else undone; whatever its connection says of waiting is as it was."""
    db.rows("set lock_timeout = '5 s'")
    signal = "select hotmesh_engine.signal('default', 'k', %s::text::json, %s)"
    began = time.monotonic()
    assert db.value(signal, 1, "key") == 1
    assert time.monotonic() - began < 2
    assert db.value("show lock_timeout") == "5s"
    slot.rollback()
    assert db.value(signal, 1, "key") == 0 and db.value(signal, 2, "other") == 0
    assert db.rows("select payload from hotmesh.signals order by sent_at") == [(1,), (2,)]


def test_who_signals_in_a_transaction_of_its_own_does_not_wait_for_a_slot(db: Database, slot: psycopg.Connection[Any]) -> None:
    """Nor does whoever routes what it has sent."""
    del slot
    with psycopg.connect(db.dsn) as user:
        user.execute("set lock_timeout = 1")
        user.execute("select hotmesh.signal('k', '1')")
        user.execute("select hotmesh_engine.signal('default', 'k', '2', null, true)")
        user.commit()
    db.rows("set lock_timeout = 1")
    assert db.value("select hotmesh.route()") == 2


def test_crossed_signals_of_one_transaction_do_not_deadlock_with_each_other(dsn: str, db: Database) -> None:
    """Each has a slot and comes for the other's: both give up, and what they sent stays until they have committed."""
    signal = "select hotmesh_engine.signal('default', %s, '1')"
    db.rows(signal, "warm")
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as two:
        for conn, key in ((one, "k"), (two, "l")):
            assert conn.execute(signal.encode(), (key,)).fetchone() == (0,)
        ends: list[Any] = []
        waiting = threading.Thread(target=lambda: ends.append(one.execute(signal.encode(), ("l",)).fetchone()))
        waiting.start()
        ends.append(two.execute(signal.encode(), ("k",)).fetchone())
        waiting.join()
        assert ends == [(1,)] * 2
        one.commit()
        two.commit()
    assert db.value("select hotmesh.route()") == 0
    assert db.rows("select signal_id, count(*) from hotmesh.signals group by 1 order by 1") == [("k", 2), ("l", 2), ("warm", 1)]


def test_a_turn_takes_a_bounded_share_of_the_locks_however_much_is_to_be_routed(dsn: str, db: Database) -> None:
    db.rows("select hotmesh.signal('key ' || i, '1') from generate_series(1, 900) i")
    pending, before = "select count(*) from hotmesh_engine.unrouted", 900
    with Database(dsn) as other:
        routing = Hand(other, 2)
        other.conn.autocommit = False
        while before:
            routing.turn()
            slots = db.value(SLOTS, other.conn.info.backend_pid)
            assert 0 < slots <= 256
            other.conn.commit()
            left = db.value(pending)
            assert left <= before - slots, "each brings it on"
            before = left
    assert db.value("select count(*) from hotmesh.signals") == 900


def test_two_bulk_starts_that_end_each_others_runs_do_not_deadlock(dsn: str, db: Database) -> None:
    """They name them in opposite order. Outcomes that somebody else is writing hold each up at its first, then at its third."""
    runs = dict(zip("abpqxy", start(db, *"abpqxy"), strict=True))
    call = (
        "select count(*) filter (where started) from hotmesh_engine.start('default', '{{t,t,t,t}}', '{{{}}}',"
        " '{{default,default,default,default}}', '{{[],[],[],[]}}', array(select gen_random_uuid() from generate_series(1, 4)),"
        " p_on_conflict => 'terminate_existing')"
    )
    found: list[Any] = []

    def begin(conn: psycopg.Connection[Any], ids: str) -> None:
        try:
            found.append(conn.execute(call.format(ids).encode()).fetchone())
        except psycopg.Error as error:
            found.append(error)

    def held_up(conn: psycopg.Connection[Any], by: set[psycopg.Connection[Any]]) -> bool:
        blocking = set(db.value("select pg_blocking_pids(%s)", conn.info.backend_pid))
        return bool(blocking & {b.info.backend_pid for b in by})

    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as third, psycopg.connect(dsn, autocommit=True) as one:
        for conn, keys in ((first, "pq"), (third, "xy")):
            conn.execute(
                "insert into hotmesh_engine.outcome select r, now(), now(), 1 from unnest(%s::bigint[]) r",
                ([runs[k] for k in keys],),
            )
        with psycopg.connect(dsn, autocommit=True) as two:
            threads = [threading.Thread(target=begin, args=args) for args in ((one, "p,a,x,b"), (two, "q,b,y,a"))]
            for thread, conn in zip(threads, (one, two), strict=True):
                conn.execute("set lock_timeout = '5 s'")
                thread.start()
                while not held_up(conn, {first, one}):
                    assert thread.is_alive(), found
            for pace in (first, third):
                while not (held_up(one, {pace}) and held_up(two, {pace, one})):
                    assert all(thread.is_alive() for thread in threads), found
                pace.rollback()
            for thread in threads:
                thread.join()
    assert found == [(4,), (4,)]
    assert db.value("select count(*) from hotmesh_engine.live") == 6


def test_who_resumes_a_workflow_that_its_worker_is_at_again_does_not_hold_that_up(dsn: str, db: Database) -> None:
    (run,) = start(db, "w")
    worker = Hand(db, 1)
    assert worker.claim() == {run}
    db.rows("select hotmesh_engine.turn_failed(1, %s, %s, 'HM025', 'no')", run, worker.leases[run][0])
    db.skip("1 hour")
    assert worker.claim() == {run}
    db.rows("set lock_timeout = '2 s'")
    with psycopg.connect(dsn) as user:
        assert user.execute("select hotmesh.resume('w')").fetchone() == (True,)
        assert worker.step(run, end=-1)
        assert db.status("w") == "waiting"


def test_two_turns_that_write_the_same_records_wait_for_each_other(dsn: str, db: Database) -> None:
    """Their runs name them in opposite order; somebody else holds each of the records up, one after the other."""
    runs = start(db, "one", "two", "three", "four")
    for record in "xy":
        db.rows("select hotmesh_engine.change_record('default', 'e', %s, 'set', '{\"n\": 0}')", record)
    hands = [Hand(Database(dsn), number) for number in (1, 2)]
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        for conn, record in ((first, "x"), (second, "y")):
            conn.execute("select from hotmesh_engine.record where id = %s for update", (record,))
        threads = []
        for hand, mine, records in ((hands[0], runs[:2], "xy"), (hands[1], runs[2:], "yx")):
            hand.claim(2)
            assert set(hand.leases) == set(mine)
            for run, record in zip(mine, records, strict=True):
                db.rows(
                    "insert into hotmesh_engine.bound (run_id, entity_id, id, hook)"
                    " select %s, entity_id, %s, false from hotmesh_engine.entity where name = 'e'", run, record,
                )  # fmt: skip
            threads.append(threading.Thread(target=increments, args=(hand, mine)))
            threads[-1].start()
        for conn in (first, second):
            until_both_wait(db, hands)
            conn.rollback()
        for thread in threads:
            thread.join(20)
    counts = db.rows("select id, data ->> 'n' from hotmesh_engine.record where id in ('x', 'y') order by id")
    assert counts == [("x", "2"), ("y", "2")]
    for hand in hands:
        hand.db.conn.close()


def increments(hand: Hand, runs: list[int]) -> None:
    """One turn in which each run adds one to its record."""
    now = hand.db.value("select hotmesh.now()")
    many = len(runs)
    hand.turn(
        p_run=runs, p_fence=[hand.leases[run][0] for run in runs], p_base=[0] * many, p_end=[0] * many, p_due=[None] * many,
        p_outcome=[None] * many, j_run=runs, j_seq=[1] * many, j_kind=[6] * many, j_command=[None] * many, j_at=[now] * many,
        j_payload=[None] * many, j_commands=[None] * many, q_run=runs, q_command=[1] * many, q_seq=[1] * many,
        q_op=["incr"] * many, q_args=['["n", 1]'] * many,
    )  # fmt: skip


def until_both_wait(db: Database, hands: list[Hand]) -> None:
    deadline = time.monotonic() + 20
    while not all(db.waits_for_a_lock(hand.db.conn) for hand in hands):
        assert time.monotonic() < deadline
