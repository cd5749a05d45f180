"""A single start gives its run to a worker that is asleep, and a single signal the parked run that waits for it: to one
that is there, one run a sleep, and never for good."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, Worker
from pyhotmesh.feeding import Feeder
from pyhotmesh.line import Line
from pyhotmesh.runs import PARK
from tests.reliability.flows import call, collate, impatient, listen
from tests.reliability.kit import Database, serve, spawn, until


def asleep(db: Database, count: int = 1) -> bool:
    return bool(db.value("select count(*) from hotmesh_engine.sleeper where asleep") == count)


def fence(db: Database, workflow_id: str) -> Any:
    query = "select fence from hotmesh_engine.live join hotmesh_engine.run using (run_id) where workflow_id = %s"
    return db.value(query, workflow_id)


async def test_a_run_is_given_and_runs(dsn: str, db: Database, tmp_path: Path) -> None:
    async with Client(dsn) as client, serve(client):
        for number in range(3):
            (tmp_path / "go").unlink(missing_ok=True)
            await until(lambda: asleep(db), "it sleeps")
            handle = await client.workflow.start(call, args=["held", [str(tmp_path)], {}], workflow_id=f"w{number}")
            assert fence(db, f"w{number}") == 0  # leased with the start
            (tmp_path / "go").touch()
            await handle.result(timeout=20)


@pytest.mark.parametrize("size", [3_900, 4_100, 100_000])
async def test_inputs_of_any_size_arrive_as_they_are(dsn: str, db: Database, size: int) -> None:
    odd = {"z": 'é"\\ \u2028🙂' * (size // 16), "a": [1e16, -0.0, 2**63, 0.1], "é": None}
    async with Client(dsn) as client, serve(client):
        await until(lambda: asleep(db), "it sleeps")
        found = await client.workflow.execute(call, args=["echo", [odd], {}], timeout=20)
    assert found == odd and list(found) == list(odd)
    assert [type(n) for n in found["a"]] == [float, float, int, float]


async def test_a_lost_notification_is_made_up_for(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, ask, lost, may_ask = Worker._heard, Feeder.ask_for_given, [], asyncio.Event()

    def deaf(self: Worker, channel: str, payload: str) -> None:
        if payload.startswith("["):
            lost.append(payload)
        else:
            heard(self, channel, payload)

    async def later(self: Feeder) -> None:
        await may_ask.wait()
        await ask(self)

    monkeypatch.setattr(Worker, "_heard", deaf)
    monkeypatch.setattr(Feeder, "ask_for_given", later)
    async with Client(dsn) as client, serve(client):
        await until(lambda: asleep(db), "it sleeps")
        handle = await client.workflow.start(call, args=["echo", [1], {}], workflow_id="w")
        await until(lambda: lost, "the notification is lost")
        assert fence(db, "w") == 0
        may_ask.set()
        assert await handle.result(timeout=5) == 1
        assert db.events("w").count("lease_lost") == 0


async def test_a_dead_worker_is_given_nothing(dsn: str, db: Database) -> None:
    """It has a lease for a minute and says that it sleeps; but it is not there."""
    async with Client(dsn) as client:
        with spawn(dsn, lease=60) as victim:
            await until(lambda: asleep(db), "it sleeps")
            victim.process.kill()
            victim.process.wait()
        await until(lambda: not db.rows("select from pg_locks where locktype = 'advisory'"), "its connection is gone")
        handle = await client.workflow.start(call, args=["echo", [1], {}])
        assert db.value("select status from hotmesh.workflows") == "ready"
        async with serve(client):
            assert await handle.result(timeout=20) == 1


async def test_a_paused_worker_is_given_nothing(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client) as worker:
        worker.pause()
        await until(lambda: db.value("select queues = '{0}' from hotmesh_engine.sleeper where asleep"), "it says so")
        handle = await client.workflow.start(call, args=["echo", [1], {}])
        assert db.value("select status from hotmesh.workflows") == "ready"
        worker.resume()
        assert await handle.result(timeout=20) == 1
        await until(lambda: db.value("select queues <> '{0}' from hotmesh_engine.sleeper where asleep"), "it says so")


async def test_a_worker_that_blocks_is_given_no_second_run(dsn: str, db: Database, tmp_path: Path) -> None:
    """The first blocks its loop; the others go to the worker that is free."""
    async with Client(dsn) as client:
        with spawn(dsn), spawn(dsn):
            await until(lambda: asleep(db, 2), "both sleep")
            blocked = await client.workflow.start(call, args=["blocks_until", [str(tmp_path / "go")], {}])
            await until((tmp_path / "go.begun").exists, "it blocks")
            for number in range(5):
                assert await client.workflow.execute(call, args=["echo", [number], {}], timeout=5) == number
            (tmp_path / "go").touch()
            assert await blocked.result(timeout=20) == "free"


async def test_many_single_starts_are_shared(dsn: str, db: Database) -> None:
    """From many clients at once, on two workers that come and go: each runs once."""
    async with Client(dsn, pool_size=8) as client:

        async def one(number: int) -> None:
            assert await client.workflow.execute(call, args=["echo", [number], {}], timeout=30) == number

        async with serve(client):
            for _ in range(3):
                async with serve(client):
                    await asyncio.gather(*map(one, range(40)))
    assert db.value("select count(*) from hotmesh.history where event = 'activity_completed'") == 120
    assert db.value("select count(*) from hotmesh.history where event = 'lease_lost'") == 0


ENDS = ["hotmesh_engine.retire(1)", "hotmesh_engine.adopt(1, 3, 'w', '{}', '{}', '{}', '{}')", "hotmesh_engine.sweep(2)"]
HOW = ["it retires", "it is adopted", "it is swept"]


@pytest.mark.parametrize("ends", ENDS, ids=HOW)
def test_a_run_that_is_given_as_its_worker_ends_is_not_lost(db: Database, ends: str) -> None:
    """Whoever ends it waits for the start that is under way, and then sees the run."""
    for worker in (1, 2):
        db.rows("select hotmesh_engine.register(%s, 'w', 'default', '{q}', 10, '0')", worker)
    db.rows("update hotmesh_engine.worker set contact_at = contact_at - interval '1 hour' where worker_id = 2")
    db.rows("select hotmesh_engine.turn(1, (select array_agg(queue_id) from hotmesh_engine.queue), 0, 0, 0, null, 0, true, '{}')")
    db.rows("select pg_advisory_lock(1)")  # as its listening connection does
    start = "select hotmesh_engine.start('default', '{t}', '{w}', '{q}', array['[]'::json], array[gen_random_uuid()])"
    with psycopg.connect(db.dsn) as starter, psycopg.connect(db.dsn, autocommit=True) as other:
        starter.execute(start.encode())
        assert starter.execute("select holder, fence from hotmesh_engine.live").fetchall() == [(1, 0)]
        db.rows("update hotmesh_engine.worker set beat_at = beat_at - interval '1 hour' where worker_id = 1")
        ending = threading.Thread(target=other.execute, args=(f"select {ends}".encode(),))
        ending.start()
        while not db.waits_for_a_lock(other):
            assert ending.is_alive(), "it has not waited"
        starter.commit()
        ending.join()
    assert db.rows("select holder from hotmesh_engine.live") == [(None,)]
    assert db.status("w") == "ready"


async def test_one_that_is_given_before_the_first_answer_knows_the_time(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is up once the first turn has committed; its answer, with the engine's time in it, may come later."""
    go = asyncio.Event()
    turn = Line.turn

    async def late(*args: Any) -> Any:
        rows = await turn(*args)
        await go.wait()
        return rows

    monkeypatch.setattr(Line, "turn", late)
    async with Client(dsn) as client:
        worker = asyncio.create_task((serving := serve(client)).run())
        await until(lambda: asleep(db), "the flag is up")
        await client.workflow.start(impatient, args=["k", "1 hour"], workflow_id="w")
        assert db.value("select holder is not null from hotmesh_engine.live"), "it is given"
        await asyncio.sleep(0.2)
        go.set()
        await until(lambda: db.waits("w"), "it waits")
        assert db.value("select max(abs(extract(epoch from hotmesh.now() - at))) from hotmesh.history") < 60
        assert "timer_fired" not in db.events("w")
        serving.stop()
        await worker


# ------------------------------------------------------------------------------------- parked runs --


@pytest.mark.parametrize(("size", "rounds"), [(0, 1), (0, 60), (3_000, 3), (7_800, 3), (100_000, 3)])
async def test_a_parked_run_is_given_with_its_signal(dsn: str, db: Database, size: int, rounds: int) -> None:
    """Each of its signals finds it parked; what is too large for a notification, or has a long journal, is claimed."""
    odd = {"z": 'é"\\ \u2028🙂' * (size // 16), "a": [1e16, -0.0, 2**63, 0.1], "é": None}
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(listen, args=["k", rounds], workflow_id="w")
        for number in range(rounds):
            await until(lambda: db.parked("w") and asleep(db), "it is parked")
            leases = db.leases("w")
            await client.signal("k", odd if number == 0 else number)
            if number < rounds - 1:
                await until(lambda past=leases: db.waits("w") and db.leases("w") > past, "it is leased once more")
                if number < 15 or number > 45:
                    assert (fence(db, "w") < 0) == (size < 7_000 and number < 15), "given"
        first, *others = await handle.result(timeout=20)
    assert first == odd and list(first) == list(odd) and others == list(range(1, rounds))
    assert [type(n) for n in first["a"]] == [float, float, int, float]


async def test_one_that_waits_for_more_is_given_with_the_last(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(collate, args=["a", "b", "c"], workflow_id="w")
        await until(lambda: db.parked("w") and asleep(db), "it is parked")
        leases = db.leases("w")
        for key in ("b", "c"):
            await client.signal(key, key)
            assert (db.status("w"), db.leases("w")) == ("waiting", leases)
        await client.signal("a", "a")
        assert await handle.result(timeout=20) == ["a", "b", "c"]


async def test_a_lost_notification_of_a_parked_run_is_made_up_for(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []
    async with Client(dsn) as client, serve(client, cache_size=0):
        handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
        await until(lambda: db.parked("w") and asleep(db), "it is parked")
        monkeypatch.setattr(Feeder, "given", lambda _, what: lost.append(what))
        await client.signal("k", "heard")
        assert await handle.result(timeout=5) == ["heard"]
        assert lost and db.events("w").count("lease_lost") == 0 and db.events("w").count("signal_received") == 1


async def test_one_that_comes_before_the_worker_knows_that_it_is_parked(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn that parks has committed, and its answer is still on its way when the run is given to the same worker."""
    go, given, turn, take = asyncio.Event(), asyncio.Event(), Line.turn, Feeder.given

    async def late(self: Line, capacity: Any, closed: Any, parcels: Any, ends: Any) -> Any:
        rows = await turn(self, capacity, closed, parcels, ends)
        if any(parcel.end == PARK for parcel in parcels):
            await go.wait()
        return rows

    def notes(self: Feeder, what: str) -> None:
        take(self, what)
        given.set()

    async with Client(dsn) as client, serve(client, cache_size=0):
        monkeypatch.setattr(Line, "turn", late)
        handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
        await until(lambda: db.parked("w"), "it is parked")
        db.rows("update hotmesh_engine.sleeper set asleep = true")
        monkeypatch.setattr(Feeder, "given", notes)
        await client.signal("k", "early")
        await given.wait()
        assert fence(db, "w") < 0
        begin = asyncio.get_running_loop().time()
        go.set()
        assert await handle.result(timeout=5) == ["early"]
        assert asyncio.get_running_loop().time() - begin < 0.8, "asked for at once, not with the next look each second"
        assert db.events("w").count("lease_lost") == 0 and db.events("w").count("signal_received") == 1


def _park_one(db: Database) -> None:
    """Run `w` waits for signal `k`, parked by worker 2; worker 1 sleeps, and listens."""
    for worker in (1, 2):
        db.rows("select hotmesh_engine.register(%s, 'w', 'default', '{q}', 10, '0')", worker)
    start = "select hotmesh_engine.start('default', '{t}', '{w}', '{q}', array['[]'::json], array[gen_random_uuid()])"
    db.rows(start)
    queues = "(select array_agg(queue_id) from hotmesh_engine.queue)"
    db.rows(f"select hotmesh_engine.turn(2, {queues}, 1, 0, 0, null, 0, false, '{{}}')")
    db.rows(
        f"""select hotmesh_engine.turn(2, {queues}, 0, 0, 0, null, 0, false, '{{}}',
              p_run => array[l.run_id], p_fence => array[fence], p_base => '{{0}}', p_end => '{{-1}}',
              p_due => '{{infinity}}', p_outcome => array[null::json],
              j_run => array[l.run_id], j_seq => '{{1}}', j_kind => '{{0}}', j_command => array[null::int],
              j_at => array[hotmesh.now()], j_payload => array[null::json], j_commands => array[null::json],
              w_run => array[l.run_id], w_command => '{{1}}', w_kind => '{{w}}', w_key => '{{k}}', w_group => '{{1}}',
              w_due => array[null::timestamptz])
             from hotmesh_engine.live l"""
    )
    db.rows(f"select hotmesh_engine.turn(1, {queues}, 0, 0, 0, null, 0, true, '{{}}')")
    db.rows("select pg_advisory_lock(1)")  # as its listening connection does


@pytest.mark.parametrize("ends", ENDS, ids=HOW)
def test_a_parked_run_that_is_given_as_its_worker_ends_is_not_lost(db: Database, ends: str) -> None:
    """As above: whoever ends the worker waits for the signal that is under way, and then sees the run, and the message."""
    _park_one(db)
    db.rows("update hotmesh_engine.worker set contact_at = contact_at - interval '1 hour' where worker_id = 2")
    with psycopg.connect(db.dsn) as sender, psycopg.connect(db.dsn, autocommit=True) as other:
        sender.execute("select hotmesh_engine.signal('default', 'k', '7')")
        assert sender.execute("select holder, fence from hotmesh_engine.live").fetchall() == [(1, -2)]
        db.rows("update hotmesh_engine.worker set beat_at = beat_at - interval '1 hour' where worker_id = 1")
        ending = threading.Thread(target=other.execute, args=(f"select {ends}".encode(),))
        ending.start()
        while not db.waits_for_a_lock(other):
            assert ending.is_alive(), "it has not waited"
        sender.commit()
        ending.join()
    assert db.value("select holder from hotmesh_engine.live") is None
    assert db.rows("select holder, handed, payload from hotmesh_engine.inbox") == [(None, False, 7)]
    assert db.status("w") == "ready"
    db.rows(
        "select hotmesh_engine.turn(2, (select array_agg(queue_id) from hotmesh_engine.queue), 1, 0, 0, null, 0, false, '{}')"
    )
    assert db.value("select fence from hotmesh_engine.live where holder = 2") > 2, "no fence comes twice"
    db.check()


@pytest.mark.parametrize(
    "why",
    [
        "update hotmesh_engine.live set lost = 2",
        "select hotmesh_engine.quarantine(run_id, 'X', 'x', now()) from hotmesh_engine.live",
        "update hotmesh_engine.sleeper set queues = '{0}'",
        "select pg_advisory_unlock(1)",
    ],
    ids=["a suspect", "quarantined", "of another queue", "to one that is not there"],
)
def test_what_is_not_given_with_a_signal(db: Database, why: str) -> None:
    _park_one(db)
    db.rows(why)
    db.rows("select hotmesh_engine.signal('default', 'k', '7')")
    assert db.rows("select holder, fence from hotmesh_engine.live") == [(None, 1)]
    assert db.rows("select holder, handed from hotmesh_engine.inbox") == [(None, False)]
