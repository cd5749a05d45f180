"""Whose workers die again and again: such a run is taken alone, and quarantined before it stops a fleet."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from pathlib import Path

import psycopg
import pytest

from bench.chaos.processes import WorkerProcess
from pyhotmesh import Client, MeshCall, StartRequest
from pyhotmesh.calls import callback
from tests.reliability.engine import HEAD, LEASED_TASK, REJECTED, Hand, start
from tests.reliability.flows import call, fan, held, shout
from tests.reliability.kit import Database, serve, spawn, until

Task = tuple[int, int]  # run, command


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

    def die_with_tasks(self, suspects: int = 0) -> set[Task]:
        """A new worker claims activities and dies; what it had."""
        worker = self.worker()
        held = claim_tasks(worker, suspects)
        self.dies(worker)
        return held


@pytest.fixture
def fleet(db: Database) -> Fleet:
    return Fleet(db)


def claim_tasks(worker: Hand, suspects: int = 0) -> set[Task]:
    return {(row[1], row[5]) for row in worker.turn(activities=10, suspects=suspects) if row[0] == LEASED_TASK}


def give_task(db: Database, run: int, command: int = 1) -> Task:
    """The run, which is parked, waits for an activity that whoever serves its queue may run."""
    db.rows("update hotmesh_engine.live set due_at = 'infinity' where run_id = %s returning 1", run)
    db.rows(
        "insert into hotmesh_engine.activity_task"
        " (run_id, command, queue_id, activity, input, options, attempt, due_at, scheduled_at)"
        " select run_id, %s, queue_id, 'act', '[]', '{\"retry\":{}}', 0, hotmesh.now(), hotmesh.now()"
        " from hotmesh_engine.live where run_id = %s returning 1",
        command, run,
    )  # fmt: skip
    db.rows(
        "insert into hotmesh_engine.waiting (run_id, command, grp, namespace_id, kind, key)"
        " select %s, %s, %s, namespace_id, 'a', 'act' from hotmesh_engine.namespace returning 1",
        run, command, command,
    )  # fmt: skip
    return run, command


def task_record(db: Database, task: Task) -> tuple[int, int]:
    """Leases lost in a row, strikes."""
    ((lost, strikes),) = db.rows(
        "select lost, strikes from hotmesh_engine.activity_task where run_id = %s and command = %s", *task
    )
    return lost, strikes


def strikes(db: Database, run: int) -> int:
    return int(db.value("select strikes from hotmesh_engine.live where run_id = %s", run))


async def ended(db: Database, worker: WorkerProcess) -> None:
    """Waits until the process has been killed, or nothing will kill it any more. (It may start while the lease of the
    one before still runs.)"""
    await until(
        lambda: worker.process.poll() is not None or db.status("bad") == "quarantined", "it has killed its process", seconds=40
    )


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
                await ended(db, worker)
                deaths += 1
        with spawn(dsn, lease=0.5):
            assert [await handle.result(timeout=30) for handle in handles] == [f"{i}!" for i in range(300)]
        assert db.rows("select workflow_id from hotmesh.workflows where trouble is not null") == [("bad",)]


# ---------------------------------------------------------------------------- activities that have a row --


def test_an_activity_whose_workers_die_is_claimed_alone_and_quarantined(db: Database, fleet: Fleet) -> None:
    (run,) = start(db, "bad")
    bad = give_task(db, run)
    assert fleet.die_with_tasks() == {bad}
    assert fleet.die_with_tasks() == {bad}, "one loss may happen to anybody"
    assert fleet.die_with_tasks() == set()
    goods = [give_task(db, good) for good in start(db, *[f"good {i}" for i in range(5)])]
    for i in range(5):
        assert task_record(db, bad) == (2 + i, i)
        assert fleet.die_with_tasks(suspects=1) == {bad, *goods}, "with others, but no other suspect"
        db.rows("update hotmesh_engine.activity_task set lost = 0 where run_id <> %s returning 1", run)
    assert db.status("bad") == "quarantined"
    told = "five workers died while its activity act (command 1) was the one suspect that they held"
    assert db.value("select trouble from hotmesh.workflows where workflow_id = 'bad'").startswith(told)
    assert db.value("select trouble from hotmesh.waiting where workflow_id = 'bad'").startswith(told)
    assert db.rows("select status, due_at from hotmesh.activities where workflow_id = 'bad'") == [("quarantined", None)]
    assert [task_record(db, good)[1] for good in goods] == [0] * 5
    db.skip("1 year")
    assert claim_tasks(fleet.worker(), suspects=10) == set(goods)
    assert db.value("select hotmesh.resume('bad')")
    assert db.status("bad") != "quarantined"
    assert claim_tasks(fleet.worker()) == {bad}, "it begins anew"


def test_activities_and_runs_are_suspects_of_one_kind(db: Database, fleet: Fleet) -> None:
    """A worker that may take one takes one of them, and is not the death of either when it had both."""
    run, other = start(db, "a", "b")
    task = give_task(db, other)
    db.rows("update hotmesh_engine.live set lost = 2 where run_id = %s returning 1", run)
    db.rows("update hotmesh_engine.activity_task set lost = 2 returning 1")
    worker = fleet.worker()
    rows = worker.turn(10, suspects=1, activities=10)
    assert (len(worker.leases), [row for row in rows if row[0] == LEASED_TASK]) == (1, [])
    db.rows("select hotmesh_engine.retire(%s)", worker.id)
    worker = fleet.worker()
    rows = worker.turn(10, suspects=2, activities=10)
    assert (len(worker.leases), [row[3] for row in rows if row[0] == LEASED_TASK]) == (1, [2]), "it is told that it is a suspect"
    fleet.dies(worker)
    assert (strikes(db, run), task_record(db, task)) == (0, (3, 0))


def test_a_run_beside_its_own_suspected_activity_is_not_blamed(db: Database, fleet: Fleet) -> None:
    """Both were lost with the worker that the activity killed before the run had parked."""
    (run,) = start(db, "a")
    task = give_task(db, run)
    db.rows("update hotmesh_engine.live set lost = 2, due_at = hotmesh.now() returning 1")
    db.rows("update hotmesh_engine.activity_task set lost = 2 returning 1")
    worker = fleet.worker()
    worker.turn(10, suspects=2, activities=10)
    fleet.dies(worker)
    assert (strikes(db, run), task_record(db, task)) == (0, (3, 1))


@pytest.mark.parametrize("kind", [0, 9])
def test_an_attempt_that_ends_clears_it_and_a_hand_back_does_not(db: Database, fleet: Fleet, kind: int) -> None:
    (run,) = start(db, "a")
    task = give_task(db, run)
    fleet.die_with_tasks()
    fleet.die_with_tasks()
    fleet.die_with_tasks(suspects=1)
    worker = fleet.worker()
    assert claim_tasks(worker, suspects=1) == {task}
    worker.turn(
        d_run=[run], d_command=[1], d_attempt=[4], d_kind=[kind], d_payload=['{"type":"Error","message":"no"}'],
        d_due=[db.value("select hotmesh.now()")],
    )  # fmt: skip
    assert task_record(db, task) == ((0, 0) if kind == 0 else (3, 1))


def test_an_activity_that_was_long_with_its_worker_is_not_blamed(db: Database, fleet: Fleet) -> None:
    (run,) = start(db, "a")
    task = give_task(db, run)
    for _ in range(3):
        fleet.die_with_tasks(suspects=1)
    assert task_record(db, task) == (3, 1)
    worker = fleet.worker()
    assert claim_tasks(worker, suspects=1) == {task}
    db.rows("update hotmesh_engine.activity_task set claimed_at = claimed_at - interval '1 day' returning 1")
    fleet.dies(worker)
    assert task_record(db, task) == (1, 0), "a loss after that is the first one"


def test_an_activity_is_silent_only_if_its_worker_is_not(db: Database, fleet: Fleet) -> None:
    """Of a worker that is away too the sweep decides: it knows with what the worker died. Or nobody, if it comes back."""
    (run,) = start(db, "a")
    task = give_task(db, run)
    db.rows("update hotmesh_engine.activity_task set heartbeat_timeout = '1 s' returning 1")
    holder = "select holder from hotmesh_engine.activity_task"
    lapse = "update hotmesh_engine.activity_task set heartbeat_by = clock_timestamp() returning 1"
    worker = fleet.worker()
    assert claim_tasks(worker) == {task}
    db.rows(lapse)
    db.rows("select hotmesh_engine.deadlines()")
    assert db.value(holder) == worker.id
    fleet.dies(worker)
    assert task_record(db, task) == (1, 0)
    worker = fleet.worker()
    assert claim_tasks(worker) == {task}
    db.rows(lapse)
    assert worker.beat()
    db.rows("select hotmesh_engine.deadlines()")
    assert db.value(holder) is None
    assert task_record(db, task) == (0, 0), "an attempt has ended"


def test_a_quarantined_activity_of_a_closed_run_goes_with_the_next_pruning(db: Database, fleet: Fleet) -> None:
    (run,) = start(db, "bad")
    give_task(db, run)
    for _ in range(7):
        fleet.die_with_tasks(suspects=1)
    assert db.status("bad") == "quarantined"
    db.rows("select hotmesh.interrupt('bad')")
    db.rows("select hotmesh.route()")
    assert db.status("bad") == "interrupted"
    db.rows("select hotmesh.prune()")
    assert db.rows("select * from hotmesh_engine.activity_task") == []


def test_the_deadline_of_a_quarantined_activity_is_kept(db: Database, fleet: Fleet) -> None:
    """Its run, which may have other plans then, goes on with the timeout; not before the last such activity is gone."""
    (run,) = start(db, "bad")
    give_task(db, run, 1)
    give_task(db, run, 2)
    for command in (1, 2):
        db.rows("update hotmesh_engine.activity_task set due_at = case command when %s then hotmesh.now() else 'infinity' end"
                " where command >= %s returning 1", command, command)  # fmt: skip
        for _ in range(7):
            fleet.die_with_tasks(suspects=1)
    assert db.rows("select status from hotmesh.activities") == [("quarantined",)] * 2
    worker = fleet.worker()
    for command, woken in ((1, set()), (2, {run})):
        db.rows("update hotmesh_engine.activity_task set deadline = hotmesh.now() where command = %s returning 1", command)
        db.rows("select hotmesh_engine.deadlines()")
        assert worker.claim() == woken
    assert db.value("select trouble from hotmesh.workflows where workflow_id = 'bad'") is None


@pytest.mark.limit(120)
async def test_an_activity_that_kills_its_process_late_is_quarantined_alone(dsn: str, db: Database, tmp_path: Path) -> None:
    """Later than its run parks: what is lost is the activity, and whatever its workers hold beside it."""
    async with Client(dsn) as client, serve(client, task_queue="other", lease=0.5):
        bad = await client.workflow.start(call, args=["deadly_in_time", [str(tmp_path), 1.5], {}], workflow_id="bad")
        deaths = 0
        while db.status("bad") != "quarantined":
            assert deaths < 10
            with spawn(dsn, "--cache-size", 0, lease=0.5) as worker:
                await ended(db, worker)
                deaths += 1
        assert db.value("select strikes from hotmesh_engine.activity_task") == 5
        with spawn(dsn, lease=0.5) as worker:
            handles = await client.workflow.start_many([StartRequest(shout, [str(i)]) for i in range(100)])
            assert [await handle.result(timeout=30) for handle in handles] == [f"{i}!" for i in range(100)]
            assert worker.process.poll() is None
            assert db.rows("select workflow_id from hotmesh.workflows where trouble is not null") == [("bad",)]
            (tmp_path / "mended").touch()
            assert db.value("select hotmesh.resume('bad')")
            assert await bad.result(timeout=20) is None


async def test_a_worker_takes_one_suspected_activity_and_more_when_they_do_well(dsn: str, db: Database, tmp_path: Path) -> None:
    running = "select count(*) from hotmesh.activities where status = 'running'"
    async with Client(dsn) as client, serve(client):
        options = {"task_queue": "helpers"}
        handles = [await client.workflow.start(call, args=["held", [str(tmp_path)], options]) for _ in range(6)]
        await until(lambda: db.value("select count(*) from hotmesh.activities") == 6, "its activities wait for a helper")
        db.rows("update hotmesh_engine.activity_task set lost = 2 returning 1")
        async with serve(client, task_queue="helpers", workflows=[]):
            await until((tmp_path / "begun").exists, "one has begun")
            good = await client.workflow.start_many([StartRequest(fan, [5, "helpers"]) for _ in range(10)])
            await asyncio.gather(*[handle.result(timeout=20) for handle in good])
            assert db.value(running) == 1
            (tmp_path / "go").touch()
            await asyncio.gather(*[handle.result(timeout=20) for handle in handles])


async def test_a_suspected_activity_gives_its_place_up_when_it_has_lived(dsn: str, db: Database, tmp_path: Path) -> None:
    async with Client(dsn) as client, serve(client):
        options = {"task_queue": "helpers"}
        handles = [await client.workflow.start(call, args=["held", [str(tmp_path)], options]) for _ in range(3)]
        await until(lambda: db.value("select count(*) from hotmesh.activities") == 3, "its activities wait for a helper")
        db.rows("update hotmesh_engine.activity_task set lost = 2 returning 1")
        started = time.monotonic()
        async with serve(client, task_queue="helpers", workflows=[], lease=0.5):
            await until(
                lambda: db.value("select count(*) from hotmesh.activities where status = 'running'") == 3, "all have their turn"
            )
            assert time.monotonic() - started >= 3.0, "one, then two more, after six lease times"
            (tmp_path / "go").touch()
            await asyncio.gather(*[handle.result(timeout=20) for handle in handles])
