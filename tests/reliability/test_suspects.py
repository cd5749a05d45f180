"""Whose workers die again and again: such a run is taken alone, and quarantined before it stops a fleet."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from pathlib import Path

import psycopg
import pytest

from pyhotmesh import Client, MeshCall, StartRequest
from pyhotmesh.calls import callback
from tests.reliability.engine import HEAD, REJECTED, Hand, start
from tests.reliability.flows import call, held, shout
from tests.reliability.kit import Database, serve, spawn, until


class Fleet:
    """Workers that die with what they hold, and one that sweeps."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._ids = count(2)
        self._sweeper = Hand(db, 1, "nobody's")
        self._sweeper.is_old()

    def worker(self) -> Hand:
        return Hand(self._db, next(self._ids))

    def dies(self, worker: Hand) -> None:
        worker.falls_silent()
        self._sweeper.sweep()
        assert worker.is_dead

    def die_with(self, runs: int, suspects: int = 0) -> set[int]:
        """A new worker claims and dies; what it had."""
        worker = self.worker()
        held = worker.claim(runs, suspects)
        self.dies(worker)
        return held


@pytest.fixture
def fleet(db: Database) -> Fleet:
    return Fleet(db)


def strikes(db: Database, run: int) -> int:
    return int(db.value("select strikes from hotmesh_engine.live where run_id = %s", run))


def test_two_lost_leases_in_a_row_make_a_suspect(db: Database, fleet: Fleet) -> None:
    a, b = start(db, "a", "b")
    assert fleet.die_with(10) == {a, b}
    assert fleet.die_with(10) == {a, b}, "one loss may happen to anybody"
    worker = fleet.worker()
    assert worker.claim(10, suspects=0) == set()
    assert len(worker.claim(10, suspects=1)) == 1
    assert len(worker.claim(10, suspects=5)) == 1


def test_who_is_with_others_when_its_worker_dies_is_not_blamed(db: Database, fleet: Fleet) -> None:
    a, b = start(db, "a", "b")
    fleet.die_with(10)
    fleet.die_with(10)
    for _ in range(6):
        assert fleet.die_with(10, suspects=2) == {a, b}
    assert (strikes(db, a), strikes(db, b)) == (0, 0)


def test_five_deaths_with_one_suspect_quarantine_it(db: Database, fleet: Fleet) -> None:
    (bad,) = start(db, "bad")
    fleet.die_with(10)
    fleet.die_with(10)
    goods = start(db, *[f"good {i}" for i in range(5)])
    for i in range(5):
        assert db.status("bad") == "ready"
        assert fleet.die_with(10, suspects=1) >= {bad}, "with others, but no other suspect"
        assert strikes(db, bad) == i + 1
        for good in goods:  # what else it held is not to blame, and by now a suspect by number only
            db.rows("update hotmesh_engine.live set lost = 0 where run_id = %s returning 1", good)
    assert db.status("bad") == "quarantined"
    assert db.value("select trouble from hotmesh.workflows where workflow_id = 'bad'").startswith("five workers died")
    db.skip("1 year")
    worker = fleet.worker()
    assert worker.claim(10, suspects=10) == set(goods)
    assert [strikes(db, good) for good in goods] == [0] * 5
    assert db.value("select hotmesh.resume('bad')")
    assert worker.claim(10) == {bad}, "it begins anew"


def test_a_recorded_result_clears_it(db: Database, fleet: Fleet) -> None:
    (run,) = start(db, "a")
    fleet.die_with(10)
    fleet.die_with(10)
    fleet.die_with(10, suspects=1)
    assert strikes(db, run) == 1
    worker = fleet.worker()
    assert worker.claim(10, suspects=1) == {run}
    assert worker.step(run, p_cleared=[run])
    fleet.dies(worker)
    assert strikes(db, run) == 0
    assert fleet.worker().claim(10, suspects=0) == {run}, "a loss after a result is the first one"


def test_a_clean_end_blames_nobody(db: Database, fleet: Fleet) -> None:
    (run,) = start(db, "a")
    for _ in range(6):
        worker = fleet.worker()
        assert worker.claim(10, suspects=0) == {run}
        db.rows("select hotmesh_engine.retire(%s)", worker.id)


def test_a_signal_does_not_wake_a_run_in_trouble(db: Database, fleet: Fleet) -> None:
    """Its back-off, or its quarantine, decides when it goes on."""
    (run,) = start(db, "a")
    worker = fleet.worker()
    worker.claim(10)
    db.rows("select hotmesh_engine.turn_failed(%s, %s, %s, 'HM025', 'no')", worker.id, run, worker.leases[run][0])
    db.rows("update hotmesh_engine.live set due_at = 'infinity' where run_id = %s returning 1", run)
    wait = "insert into hotmesh_engine.waiting (run_id, command, grp, namespace_id, kind, key)"
    db.rows(f"{wait} select %s, 1, 1, namespace_id, 'w', 'k' from hotmesh_engine.namespace returning 1", run)
    db.rows("select hotmesh_engine.signal('default', 'k', '1')")
    assert db.value("select arrived from hotmesh.waiting where run_id = %s", run)
    assert worker.claim(10, suspects=10) == set()
    db.rows("select hotmesh.resume('a')")
    assert worker.claim(10) == {run}


async def test_a_worker_takes_one_suspect_and_more_when_they_do_well(dsn: str, db: Database, tmp_path: Path) -> None:
    async with Client(dsn) as client:
        handles = [await client.workflow.start(call, args=["held", [str(tmp_path)], {}]) for _ in range(6)]
        db.rows("update hotmesh_engine.live set lost = 2 returning 1")
        async with serve(client):
            await until((tmp_path / "begun").exists, "one has begun")
            good = await client.workflow.start_many([StartRequest(shout, [str(i)]) for i in range(20)])
            await asyncio.gather(*[handle.result(timeout=20) for handle in good])
            assert db.value("select count(*) from hotmesh_engine.live where holder is not null") == 1
            (tmp_path / "go").touch()
            await asyncio.gather(*[handle.result(timeout=20) for handle in handles])


async def test_who_has_lived_for_a_lease_is_no_suspect(dsn: str, db: Database, tmp_path: Path) -> None:
    """It has nothing to record, and is not idle for long enough yet to park."""
    holders = "select count(*) from hotmesh_engine.live where holder is not null"
    async with Client(dsn) as client:
        handles = [await client.workflow.start(call, args=["held", [str(tmp_path)], {}]) for _ in range(3)]
        db.rows("update hotmesh_engine.live set lost = 2, strikes = 4 returning 1")
        started = time.monotonic()
        async with serve(client, lease=1.0):
            await until(lambda: db.value(holders) == 3, "all have their turn")
            assert time.monotonic() - started >= 1.0, "one, then two more"
            await until(lambda: db.value("select count(*) from hotmesh_engine.live where lost + strikes = 0") == 3, "cleared")
            (tmp_path / "go").touch()
            await asyncio.gather(*[handle.result(timeout=20) for handle in handles])


async def test_a_call_that_has_lived_for_a_lease_is_no_suspect(dsn: str, db: Database, tmp_path: Path) -> None:
    """A call records nothing before it ends, and never parks: it does not keep a suspect's place for so long."""
    lost = "select lost from hotmesh_engine.live"
    async with MeshCall(dsn) as mesh:
        answers = asyncio.create_task(mesh.exec("held", [str(tmp_path)]))
        await until(lambda: db.value(lost) == 0, "it has been asked for")
        db.rows("update hotmesh_engine.live set lost = 2 returning 1")
        async with serve(dsn, lease=0.5, callbacks=[callback("held", held, None)]):
            await until((tmp_path / "begun").exists, "it has begun")
            await until(lambda: db.value(lost) == 0, "cleared")
            (tmp_path / "go").touch()
            await answers


async def test_it_is_not_cleared_before_it_has_lived_for_a_lease(dsn: str, db: Database, tmp_path: Path) -> None:
    lost = "select lost from hotmesh_engine.live"
    async with MeshCall(dsn) as mesh:
        answers = asyncio.create_task(mesh.exec("held", [str(tmp_path)]))
        await until(lambda: db.value(lost) == 0, "it has been asked for")
        db.rows("update hotmesh_engine.live set lost = 2 returning 1")
        async with serve(dsn, lease=60.0, callbacks=[callback("held", held, None)]):
            await until((tmp_path / "begun").exists, "it has begun")
            await asyncio.sleep(2.5)  # a worker looks for work, and tells what it has to tell, once a second
            assert db.value(lost) == 2
            (tmp_path / "go").touch()
            await answers


def test_a_zombie_clears_nobody(db: Database, fleet: Fleet) -> None:
    (run,) = start(db, "a")
    fleet.die_with(10)
    fleet.die_with(10)
    zombie = fleet.worker()
    zombie.claim(10, suspects=1)
    fence, seq = zombie.leases[run]
    nothing = {"p_run": [run], "p_fence": [fence], "p_base": [seq], "p_end": [0], "p_due": [None], "p_outcome": [None]}
    fleet.dies(zombie)
    heir = fleet.worker()
    assert heir.claim(10, suspects=1) == {run}
    with pytest.raises(psycopg.Error, match="lease has ended"):
        zombie.turn(p_cleared=[run], **nothing)
    late = fleet.worker()  # it lives, but the run's lease has moved on
    assert [row[0] for row in late.turn(p_cleared=[run], **nothing)] == [REJECTED, HEAD]
    assert (db.value("select lost from hotmesh_engine.live"), strikes(db, run)) == (3, 1)


@pytest.mark.limit(120)
async def test_a_workflow_that_kills_its_process_is_quarantined_alone(dsn: str, db: Database, tmp_path: Path) -> None:
    async with Client(dsn) as client, serve(client, task_queue="other", lease=0.5):
        await client.workflow.start(call, args=["deadly", [str(tmp_path), 1000], {}], workflow_id="bad")
        handles = await client.workflow.start_many([StartRequest(shout, [str(i)]) for i in range(300)])
        deaths = 0
        while db.status("bad") != "quarantined":
            assert deaths < 12
            with spawn(dsn, lease=0.5) as worker:
                await until(lambda w=worker: w.process.poll() is not None, "it has killed its process", seconds=40)
                deaths += 1
                await until(lambda w=worker: w.released(db.conn), "its lease is over")
        with spawn(dsn, lease=0.5):
            assert [await handle.result(timeout=30) for handle in handles] == [f"{i}!" for i in range(300)]
        assert db.rows("select workflow_id from hotmesh.workflows where trouble is not null") == [("bad",)]
