"""Who sleeps is woken by what concerns it, and nobody else is. Polls, which would find it too, are a minute apart here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pyhotmesh import Client, StartRequest, WorkflowInterrupted, looks, results, workflow
from tests.reliability.engine import Hand, start
from tests.reliability.flows import chain, listen, shout
from tests.reliability.kit import Database, serve, until

FLAG = "select count(*) from hotmesh_engine.sleeper where asleep"


@workflow.defn
async def at_once() -> int:
    return 7


@pytest.fixture(autouse=True)
def rare_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "POLL", 60.0)
    monkeypatch.setattr(results, "POLL", 60.0)


async def test_a_sleeping_worker_is_woken(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "LOOKS", ())
    async with Client(dsn) as client, serve(client, cache_size=0):

        async def sleeps() -> None:
            await until(lambda: db.value(FLAG) == 1, "it sleeps")

        await sleeps()
        handles = await client.workflow.start_many([StartRequest(shout, [str(i)]) for i in range(3)])
        assert [await handle.result(10) for handle in handles] == ["0!", "1!", "2!"]

        await sleeps()
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            joined = await client.workflow.start(shout, args=["joined"], conn=conn)
            await conn.commit()
        assert await joined.result(10) == "joined!"

        await sleeps()
        waiting = await client.workflow.start(listen, args=["k"], workflow_id="w")
        await until(lambda: db.parked("w"), "it waits")
        await sleeps()
        await client.signal("k", 1)
        assert await waiting.result(10) == [1]

        later = await client.workflow.start(chain, args=[2], start_delay="1 day")
        await sleeps()
        db.skip("1 day")
        assert await later.result(10) == [0, 2]


def start_together(dsn: str, *workflow_ids: str) -> None:
    """In one transaction, so that the first takes down the flag that the second looks at."""
    with psycopg.connect(dsn) as sender:
        for workflow_id in workflow_ids:
            sender.execute(
                "select hotmesh_engine.start('default', '{at_once}', array[%s], '{default}', array['[]'::json],"
                " array[gen_random_uuid()])", (workflow_id,),
            )  # fmt: skip


async def test_a_start_beside_one_that_is_given_is_found(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first takes down the worker's flag, so the second tells nobody; the worker looks when it puts the flag up."""
    monkeypatch.setattr(looks, "LOOKS", ())
    async with Client(dsn) as client, serve(client, workflows=[at_once]):
        await until(lambda: db.value(FLAG) == 1, "it sleeps")
        await asyncio.sleep(0.1)  # and knows it: else the turn that put the flag up counts as a look, and LOOKS are off here
        start_together(dsn, "a", "b")
        assert [await client.get_handle(w).result(10) for w in ("a", "b")] == [7, 7]


async def test_a_worker_that_always_has_something_to_do_looks_by_the_clock(dsn: str, db: Database) -> None:
    """Each call of a busy caller is given to it, with hardly a pause between them; others are not left waiting."""
    async with Client(dsn) as client, serve(client, workflows=[at_once]):

        async def calls() -> None:
            while True:
                await client.workflow.execute(at_once)

        await until(lambda: db.value(FLAG) == 1, "it sleeps")
        caller = asyncio.create_task(calls())
        for i in range(10):
            await until(lambda: db.value(FLAG) == 1, "it sleeps for a moment")
            start_together(dsn, f"a{i}", f"b{i}")
            assert await client.get_handle(f"b{i}").result(10) == 7
        caller.cancel()


async def test_what_a_worker_hands_back_wakes_another(
    dsn: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "LOOKS", ())
    async with Client(dsn) as client:
        async with serve(client, graceful_shutdown_timeout=0.0):
            handle = await client.workflow.start("call", args=["held", [str(tmp_path)], {}])
            await until((tmp_path / "begun").exists, "it runs")
            heir = serve(client)
            await heir.__aenter__()
            await until(lambda: db.value(FLAG) == 1, "the heir sleeps")
        (tmp_path / "go").touch()
        assert (await handle.result(10))[1] == 1
        await heir.__aexit__(None, None, None)


async def test_a_start_that_saw_nobody_asleep_is_found(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked for sleepers before the worker said that it sleeps, and commits after. Nobody is told: the worker
    looks again by itself."""
    monkeypatch.setattr(looks, "LOOKS", tuple(10 * seconds for seconds in looks.LOOKS))  # for a machine that is busy
    start(db, "the names of namespace and queue are known")
    async with Client(dsn) as client:
        with psycopg.connect(dsn) as sender:
            sender.execute(
                "select hotmesh_engine.start('default', '{shout}', '{w}', '{default}', array['[\"x\"]'::json],"
                " array[gen_random_uuid()])"
            )
            async with serve(client):
                while not db.value(FLAG):
                    await asyncio.sleep(0)
                sender.commit()
                assert await client.get_handle("w").result(10) == "x!"


# ------------------------------------------------------------------------------- and nobody else --


@pytest.fixture
def heard(dsn: str) -> Iterator[psycopg.Connection[object]]:
    """Hears what workers 1 and 2, client 7, and all are told."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for channel in ("hotmesh_1", "hotmesh_2", "hotmesh_7", "hotmesh_all"):
            conn.execute(f"listen {channel}".encode())
        yield conn


def told(heard: psycopg.Connection[object]) -> list[str]:
    heard.execute("select 1")
    return sorted({note.channel for note in heard.notifies(timeout=0)})


def says(worker: Hand, asleep: bool) -> None:
    worker.db.rows("select * from hotmesh_engine.turn(%s, %s, 0, 0, 0, null, null, %s, '{}')", worker.id, worker.queues, asleep)


def test_only_who_sleeps_and_serves_the_queue_is_told(db: Database, heard: psycopg.Connection[object]) -> None:
    one, two = Hand(db, 1), Hand(db, 2, "other")
    many = (
        "select hotmesh_engine.start('default', '{t,t}', '{%sa,%sb}', '{default,default}', '{[],[]}',"
        " array_fill(gen_random_uuid(), '{2}'))"
    )
    says(one, True), says(two, True)
    db.rows(many % (1, 1))
    assert told(heard) == ["hotmesh_1"]
    says(one, False)
    db.rows(many % (2, 2))
    assert told(heard) == []


def test_a_message_for_a_leased_run_wakes_its_holder_if_it_sleeps(db: Database, heard: psycopg.Connection[object]) -> None:
    one, two = Hand(db, 1), Hand(db, 2)
    (a, b) = start(db, "a", "b")
    assert one.claim() == {a, b}
    says(one, True), says(two, True)
    told(heard)
    interrupt = "select hotmesh_engine.interrupt_run(hotmesh_engine.open_run('default', %s), 'why')"
    db.rows(interrupt, "a")
    assert told(heard) == ["hotmesh_1"]
    says(one, False)
    db.rows(interrupt, "b")
    assert told(heard) == []


def test_a_signal_goes_with_its_notification_unless_another_message_is_to_be_fetched(
    db: Database, heard: psycopg.Connection[object]
) -> None:
    """It would overtake that."""
    one = Hand(db, 1)
    (run,) = start(db, "w")
    assert one.claim() == {run}
    one.waits(run, "k", "l")
    says(one, True)
    told(heard)

    def payload(query: str, *params: object) -> list[str]:
        db.rows(query, *params)
        heard.execute("select 1")
        return [note.payload for note in heard.notifies(timeout=0) if note.channel == "hotmesh_1"]

    assert payload("select hotmesh_engine.tell_run(%s, 'cancel', 'why', false)", run) == [""]
    assert payload("select hotmesh_engine.signal('default', 'k', '1')") == [""]
    assert {row[4] for row in one.turn() if row[0] == 3} == {8, 5}
    assert [text.split(" ", 1)[1].split(" ", 1)[1] for text in payload("select hotmesh_engine.signal('default', 'l', '2')")] == [
        "2 2"
    ]


def test_what_a_worker_leaves_behind_is_offered(db: Database, heard: psycopg.Connection[object]) -> None:
    one, two = Hand(db, 1), Hand(db, 2)
    (run,) = start(db, "w")
    assert one.claim() == {run}
    says(two, True)
    told(heard)
    db.rows("select hotmesh_engine.retire(1)")
    assert told(heard) == ["hotmesh_all"], "whoever is awake, too: it lies below the floor of a look"
    assert two.claim() == {run}


def test_who_asks_for_a_result_as_the_run_closes_is_told(dsn: str, db: Database, heard: psycopg.Connection[object]) -> None:
    """Those who wait are looked up in the turn that closes a run, and in the one after."""
    ask = "call hotmesh_engine.await(%s, 7, null, null, null)"
    (before, between) = start(db, "before", "between")
    with Database(dsn) as other:
        worker = Hand(other, 1)
        worker.claim()
        told(heard)
        db.rows(ask, [before])
        worker.step(before, end=1)
        assert told(heard) == ["hotmesh_7"]
        other.conn.autocommit = False
        worker.step(between, end=1)
        assert db.rows(ask, [between]) == [(None, None, None)], "both looks came too early"
        other.conn.commit()
        other.conn.autocommit = True
        assert told(heard) == []
        look = "select * from hotmesh_engine.turn(%s, %s, 0, 0, 0, null, null, null, %s::bigint[])"
        other.rows(look, worker.id, worker.queues, [between])
        assert told(heard) == ["hotmesh_7"]
        assert db.rows(ask, [before, between]) == [([before, between], [1, 1], ["1", "1"])], "who asks late is told at once"
        assert db.rows("select * from hotmesh_engine.waiter") == []


async def test_who_is_told_of_others_all_the_time_looks_by_the_clock(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint of its own run's end is lost; here nobody gave it."""
    monkeypatch.setattr(results, "POLL", 0.1)
    (run,) = start(db, "w")
    async with Client(dsn) as client:
        waiting = asyncio.create_task(client.get_handle("w").result())
        await until(lambda: db.rows("delete from hotmesh_engine.waiter where run_id = %s returning client", run), "it waits")
        looking = "select count(*) from pg_stat_activity where state = 'active' and query ~ '^call hotmesh_engine.await'"
        await until(lambda: db.value(looking) == 0, "and has looked")
        assert client._results is not None
        db.rows("select hotmesh.interrupt('w')")
        assert db.value("select hotmesh.route()") == 0
        for _ in range(100):
            db.rows("select pg_notify(%s, '-1,-2')", f"hotmesh_{client._results.client_id}")
            if (await asyncio.wait([waiting], timeout=0.02))[0]:
                break
        with pytest.raises(WorkflowInterrupted):
            await asyncio.wait_for(waiting, 0)
