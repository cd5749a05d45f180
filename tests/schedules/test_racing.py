"""Each slot fires once, however many processes race for it and die; each schedule is created once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from bench.chaos.processes import until
from tests.reliability.kit import spawn
from tests.schedules.conftest import Schedules

CHECKOUT = Path(__file__).parents[2]


def process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *arguments], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)


def test_a_thousand_slots_raced_by_processes_that_are_killed(db: Schedules) -> None:
    """Ten schedules of a hundred slots, the clock moved bit by bit, five processes of which one is killed each time."""
    db.at("2040-01-01 00:00:00Z")
    for number in range(10):
        db.cron(f"s{number}", "* * * * *", '{"overlap": "allow_all", "catchup": "1 day"}')
    racers = [process("-m", "tests.schedules.duty", db.dsn) for _ in range(5)]
    chance = random.Random(1)
    try:
        slots = 0
        for _ in range(10):
            minutes = 10
            slots += 10 * minutes
            db.rows("select hotmesh_engine.skip(%s)", f"{minutes} minutes")
            time.sleep(chance.uniform(0, 0.02))  # a kill in the middle
            victim = racers.pop(chance.randrange(len(racers)))
            victim.kill()
            victim.wait()
            deadline = time.monotonic() + 20
            while db.value("select count(*) from hotmesh_engine.schedule_slot") < slots:
                assert time.monotonic() < deadline, db.rows("select * from hotmesh.schedules")
                time.sleep(0.005)
            if len(racers) < 3:
                racers += [process("-m", "tests.schedules.duty", db.dsn) for _ in range(2)]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert db.rows("select count(*), count(distinct (schedule_id, slot)), count(distinct run_id) from hotmesh.firings") == [
        (1000, 1000, 1000)
    ]
    assert db.rows("select decision, outcome, count(*) from hotmesh.firings group by 1, 2") == [("started", "open", 1000)]
    assert db.rows("select count(*), count(distinct workflow_id) from hotmesh.workflows") == [(1000, 1000)]


def test_a_thousand_slots_raced_by_workers_that_are_killed(db: Schedules) -> None:
    """One schedule, five whole workers: they fire its slots and run what these start. In every tenth round the one
    that has most in hand is killed, at whatever it is, and another one comes."""
    rounds, minutes = 50, 20
    db.at("2040-01-01 00:00:00Z")
    db.cron("s", "* * * * *", '{"overlap": "allow_all", "catchup": "1 day", "args": [1]}', workflow="pids")
    chance = random.Random(1)
    workers = {worker.name: worker for worker in (spawn(db.dsn) for _ in range(5))}
    victims = []
    busiest = "select name from hotmesh.workers where name = any(%s) order by runs desc, random() limit 1"
    try:
        for number in range(1, rounds + 1):
            kill = number % 10 == 1
            if kill:
                until(lambda: all(worker.registered(db.conn) for worker in workers.values()), "five serve")
            db.skip(f"{minutes} minutes")
            if kill:
                time.sleep(chance.uniform(0, 0.05))
                victims.append(workers.pop(db.value(busiest, list(workers))))
                victims[-1].kill()
                heir = spawn(db.dsn)
                workers[heir.name] = heir
            until(lambda n=number: len(db.decisions()) == n * minutes, "the others fire the rest")  # type: ignore[misc]
        until(lambda: all(victim.released(db.conn) for victim in victims), "nothing is left with the dead")
        until(lambda: db.about()["open_runs"] == 0, "all that was started ends")
    finally:
        for worker in workers.values():
            worker.kill()
    db.fire()  # what has closed since the last look
    firings = "select decision, outcome, count(*), count(distinct (slot, run_id)) from hotmesh.firings group by 1, 2"
    assert db.rows(firings) == [("started", "completed", 1000, 1000)]
    assert db.rows("select slot from hotmesh.firings order by slot") == db.rows(
        "select timestamptz '2040-01-01Z' + n * interval '1 minute' from generate_series(1, 1000) n order by n"
    )
    runs = "select status, count(*), count(distinct workflow_id) from hotmesh.workflows group by 1"
    assert db.rows(runs) == [("completed", 1000, 1000)]
    events = "select count(*), count(distinct workflow_id) from hotmesh.history where event = %s"
    assert [db.rows(events, event) for event in ("started", "completed")] == [[(1000, 1000)]] * 2


def test_many_processes_create_one_schedule(db: Schedules) -> None:
    code = """if True:
        import sys
        from pyhotmesh import SyncClient
        with SyncClient(sys.argv[1]) as client:
            client.workflow.count()
            sys.stdin.read(1)
            print(client.schedule.create("nightly", "nothing", interval="1 day"))
    """
    creators = [
        subprocess.Popen(
            [sys.executable, "-c", code, db.dsn], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    said = sorted(creator.communicate("x")[0].strip() for creator in creators)
    assert said == ["False"] * 4 + ["True"]
    assert db.value("select count(*) from hotmesh.schedules") == 1


def test_a_year_of_nights(db: Schedules) -> None:
    db.at("2039-12-31 12:00:00Z")
    db.cron("nightly", "0 3 * * *", '{"time_zone": "Europe/Berlin", "catchup": "1 day"}')
    begun = time.monotonic()
    for _ in range(366):
        db.rows("select hotmesh_engine.skip('1 day')")
        assert db.fire() == 1
        db.close()
    assert time.monotonic() - begun < 20
    assert db.decisions("nightly") == ["started"] * 366
    runs = db.rows("select workflow_id, status from hotmesh.workflows order by run_id")
    assert len(runs) == len(set(runs)) == 366
    hours = {workflow_id[-9:] for workflow_id, _ in runs}
    assert hours == {"02:00:00Z", "01:00:00Z"}, "in winter and in summer"
    assert {status for _, status in runs} == {"completed"}


def test_what_somebodys_open_transaction_holds_off(db: Schedules) -> None:
    """A trigger holds off nothing; a pause holds off firings of that one schedule, until it is known whether it is paused."""
    db.at("2040-01-01 00:00:00Z")
    for name in ("triggered", "paused", "other"):
        db.cron(name, "* * * * *", '{"overlap": "allow_all"}')
    db.rows("set lock_timeout = '2s'")
    with psycopg.connect(db.dsn) as one, psycopg.connect(db.dsn) as two:
        one.execute("select hotmesh.trigger_schedule('triggered')")
        two.execute("select hotmesh.pause_schedule('paused')")
        db.at("2040-01-01 00:01:01Z")
        assert db.fire() == 2
        assert [len(db.slots(name)) for name in ("triggered", "paused", "other")] == [1, 0, 1]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            db.rows("select hotmesh.delete_schedule('triggered')")
        one.commit()
        two.rollback()
    assert db.fire() == 1
    assert db.rows("select origin, count(*) from hotmesh.firings where schedule_id = 'triggered' group by 1 order by 1") == [
        ("schedule", 1), ("trigger", 1)
    ]  # fmt: skip
    assert db.value("select hotmesh.delete_schedule('triggered')") is True
