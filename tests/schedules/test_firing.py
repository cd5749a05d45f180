"""Which slots fire, and what becomes of each: overlap, catch-up, cycles, delay, jitter, failures. By hand, with a moved clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg
import pytest

from tests.schedules.conftest import Schedules

MIDNIGHT = "2040-01-01 00:00:00Z"


def minute(number: int) -> str:
    return f"2040-01-01 00:{number:02}:01Z"


@pytest.fixture
def every_minute(db: Schedules) -> Schedules:
    """Schedule `s`, made at midnight, due every minute; its options by `update_schedule`."""
    db.at(MIDNIGHT)
    assert db.cron("s", "* * * * *")
    assert not db.cron("s", "* * * * *")
    return db


def options(db: Schedules, spec: str) -> None:
    db.rows("select hotmesh_engine.update_schedule('default', 's', %s)", spec)


def test_a_slot_starts_a_run_named_after_it(every_minute: Schedules) -> None:
    db = every_minute
    assert db.fire() == 0
    db.at(minute(1))
    assert db.fire() == 1
    assert db.fire() == 0
    assert db.rows("select workflow_id, workflow_type, task_queue, input from hotmesh.workflows") == [
        ("s:2040-01-01T00:01:00Z", "nothing", "default", [])
    ]
    about = db.about()
    assert (about["status"], about["cycles"], about["open_runs"]) == ("active", 1, 1)
    assert about["next_slot"] - about["last_slot"] == timedelta(minutes=1)


def test_an_interval_does_not_drift(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00.5Z")
    db.cron("s", "90 seconds", '{"overlap": "allow_all", "catchup": "1 hour"}')
    for at in ("00:01:33", "00:03:59", "00:04:30.3", "00:10:00.1"):  # called when it pleases
        db.at(f"2040-01-01 {at}Z")
        db.fire()
    assert db.slots() == ["00:01:30", "00:03:00", "00:04:30", "00:06:00", "00:07:30", "00:09:00"]


# ------------------------------------------------------------------------------------------- overlap --


def test_skip(every_minute: Schedules) -> None:
    db = every_minute
    for number in (1, 2, 3):
        db.at(minute(number))
        db.fire()
    db.close()
    db.at(minute(4))
    db.fire()
    assert db.decisions() == ["started", "skipped", "skipped", "started"]


def test_buffer_one(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"overlap": "buffer_one"}')
    for number in (1, 2, 3):
        db.at(minute(number))
        db.fire()
    assert db.decisions() == ["started", "buffered", "skipped"]
    db.close()
    assert db.fire() == 1
    assert db.decisions() == ["started", "started", "skipped"]
    assert db.slots() == ["00:01:00", "00:02:00"]


def test_more_that_are_buffered_than_a_call_takes(db: Schedules) -> None:
    """The duty says that it has more to do at once."""
    db.at(MIDNIGHT)
    db.rows(
        "select hotmesh.cron('s' || n, 'nothing', '* * * * *', '{\"overlap\": \"buffer_one\"}') from generate_series(1, 250) n"
    )
    for number in (1, 2):
        db.at(minute(number))
        assert db.fire() == 250
    db.close()
    assert db.fire() == 250
    assert db.rows("select decision, count(*) from hotmesh.firings group by 1") == [("started", 500)]


def test_allow_all(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"overlap": "allow_all"}')
    for number in (1, 2, 3):
        db.at(minute(number))
        db.fire()
    assert db.decisions() == ["started"] * 3
    assert db.about()["open_runs"] == 3


def test_cancel_other(every_minute: Schedules) -> None:
    """The open run is asked to end, and the newest slot starts when it has."""
    db = every_minute
    options(db, '{"overlap": "cancel_other", "catchup": "1 hour", "max_cycles": 3}')
    db.at(minute(1))
    db.fire()
    db.at(minute(4))
    db.fire()
    assert db.decisions() == ["started", "skipped", "skipped", "buffered"]
    assert db.rows("select payload #>> '{}' from hotmesh_engine.inbox where kind = 8") == [
        ("replaced by the next run of its schedule",)
    ]
    db.fire()
    assert db.decisions() == ["started", "skipped", "skipped", "buffered"]
    db.at(minute(5))
    db.fire()
    assert db.decisions() == ["started", "skipped", "skipped", "skipped", "buffered"]
    assert db.rows("select count(*) from hotmesh_engine.inbox where kind = 8") == [(1,)], "it is asked once"
    db.close()
    db.fire()
    assert db.decisions() == ["started", "skipped", "skipped", "skipped", "started"]
    assert db.about()["cycles"] == 2, "what was replaced before it began does not count"
    db.close()
    db.at(minute(6))
    db.fire()
    assert db.decisions()[-1] == "started", "nothing is open"
    assert db.about()["cycles"] == 3


def test_cancel_other_takes_the_newest_of_what_comes_due_together(every_minute: Schedules) -> None:
    """The run before has closed just when the next slot is due, and one waits: it is not begun to be cancelled."""
    db = every_minute
    options(db, '{"overlap": "cancel_other"}')
    for number in (1, 2):
        db.at(minute(number))
        db.fire()
    db.close()
    db.at(minute(3))
    db.fire()
    db.fire()
    assert db.decisions() == ["started", "skipped", "started"]


def test_cancel_other_ends_a_call_that_nobody_has_taken(db: Schedules) -> None:
    """Its topic may never be served: it does not stay for ever, with the next ones behind it."""
    db.at(MIDNIGHT)
    db.cron("s", "* * * * *", '{"kind": "call", "overlap": "cancel_other"}', workflow="nobody")
    for number in (1, 2, 3):
        db.at(minute(number))
        db.fire()
        db.fire()  # the worker's next look: the one before has closed
    assert db.decisions() == ["started"] * 3
    assert db.rows("select outcome from hotmesh.firings order by slot") == [("cancelled",), ("cancelled",), ("open",)]
    assert db.about()["failures"] == 0, "cancelled ones have not failed"


# ------------------------------------------------------------------------------------------ catch-up --


def test_none_runs_nothing_late(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"overlap": "allow_all", "catchup": "none"}')
    db.at("2040-01-01 00:30:30Z")
    db.fire()
    assert db.decisions() == ["missed"]
    db.at("2040-01-01 00:40:05Z")  # 5 s late is punctual
    db.fire()
    assert db.slots() == ["00:40:00"]
    missed = db.rows("select slot, missed_until from hotmesh.firings where decision = 'missed' order by slot")
    assert [(f"{a:%M}", f"{b:%M}") for a, b in missed] == [("01", "31"), ("31", "40")]


def test_last_runs_the_newest(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"catchup": "last"}')
    db.at("2040-03-01 00:30:30Z")
    assert db.fire() == 2
    assert db.decisions() == ["missed", "started"]
    assert db.slots() == ["00:30:00"]
    db.close()
    db.at("2040-03-01 00:31:00.1Z")
    assert db.fire() == 1
    assert db.decisions() == ["missed", "started", "started"]


def test_a_window_runs_all_within_it(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"overlap": "allow_all", "catchup": "5 minutes"}')
    db.at("2040-01-01 00:30:30Z")
    db.fire()
    assert db.decisions() == ["missed", *["started"] * 5]
    assert db.slots() == ["00:26:00", "00:27:00", "00:28:00", "00:29:00", "00:30:00"]


def test_what_is_caught_up_runs_one_after_another_under_skip(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"catchup": "5 minutes"}')
    db.at("2040-01-01 00:30:30Z")
    db.fire()
    assert db.decisions() == ["missed", "started", *["buffered"] * 4]
    for _ in range(3):
        db.close()
        assert db.about()["open_runs"] == 0
        db.fire()
        assert db.about()["open_runs"] == 1
    db.at("2040-01-01 00:31:00.1Z")  # a punctual one finds a run open
    db.fire()
    assert db.decisions() == ["missed", *["started"] * 4, "buffered", "skipped"]
    db.close()
    db.fire()
    assert db.slots() == ["00:26:00", "00:27:00", "00:28:00", "00:29:00", "00:30:00"]


def test_a_month_of_every_second_is_gone_in_a_moment(db: Schedules) -> None:
    db.at(MIDNIGHT)
    for name, catchup in (("last", "last"), ("none", "none"), ("window", "20 seconds")):
        db.cron(name, "* * * * * *", f'{{"overlap": "allow_all", "catchup": "{catchup}"}}')
    db.at("2040-02-01 00:00:00.5Z")
    begun = datetime.now()
    db.fire()
    assert (datetime.now() - begun).total_seconds() < 5
    assert [len(db.slots(name)) for name in ("last", "none", "window")] == [1, 1, 20]


# ------------------------------------------------------------------- cycles, delay, jitter, failures --


def test_max_cycles(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"max_cycles": 3, "overlap": "allow_all", "catchup": "1 hour"}')
    db.at("2040-01-01 00:30:30Z")
    db.fire()
    assert db.decisions() == ["started"] * 3
    about = db.about()
    assert (about["status"], about["next_slot"], about["cycles"]) == ("over", None, 3)
    assert db.rows("select hotmesh.next_runs('s', 5)") == []
    options(db, '{"max_cycles": 4}')
    assert db.about()["status"] == "active"
    db.at("2040-01-01 00:31:01Z")
    db.fire()
    assert db.slots() == ["00:01:00", "00:02:00", "00:03:00", "00:31:00"]


def test_delay(db: Schedules) -> None:
    db.at(MIDNIGHT)
    db.cron("cron", "* * * * *", '{"delay": "90 seconds"}')
    db.cron("interval", "1 minute", '{"delay": 5}')
    db.cron("plain", "1 minute")
    first = {
        name: db.value("select next_slot from hotmesh.schedules where schedule_id = %s", name)
        for name in ("cron", "interval", "plain")
    }
    assert {name: f"{at:%M:%S}" for name, at in first.items()} == {"cron": "02:00", "interval": "00:05", "plain": "01:00"}


def test_jitter_is_bounded_and_always_the_same(db: Schedules) -> None:
    db.at(MIDNIGHT)
    db.cron("s", "* * * * *", '{"jitter": "40 seconds", "overlap": "allow_all"}')
    lateness = []
    for _ in range(30):
        slot, due = db.rows("select next_slot, due_at from hotmesh.schedules")[0]
        assert timedelta(0) <= due - slot <= timedelta(seconds=40)
        lateness.append(due - slot)
        db.at((due - timedelta(milliseconds=500)).isoformat())
        assert db.fire() == 0
        db.at(due.isoformat())
        assert db.fire() == 1
    assert len(set(lateness)) > 20
    query = """select hotmesh_engine.slot_jitter(k, s.slot)
                 from hotmesh_engine.schedule_slot s, hotmesh_engine.schedule k order by slot"""
    again = db.rows(query)
    assert [late for (late,) in again] == lateness


def test_failures_stop_nothing_unless_asked(every_minute: Schedules) -> None:
    db = every_minute
    for number in range(1, 6):
        db.at(minute(number))
        db.fire()
        db.close(status=2)
    assert db.decisions() == ["started"] * 5
    assert (db.about()["status"], db.about()["failures"]) == ("active", 5)
    db.at(minute(6))
    db.fire()
    db.close()
    assert db.about()["failures"] == 0


def test_a_pause_after_failures(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"pause_after_failures": 2}')
    outcomes = [2, 4, 1, 2, 4, 5]  # interrupted ones (4) count neither way
    for number, status in enumerate(outcomes, 1):
        db.at(minute(number))
        db.fire()
        db.close(status=status)
    db.fire()  # at once, not only with the next slot
    about = db.about()
    assert (about["status"], about["failures"], about["note"]) == ("paused", 2, "2 runs in a row have failed")
    assert db.value("select hotmesh.resume_schedule('s')") is True
    assert (db.about()["status"], db.about()["failures"]) == ("active", 0)
    db.at(minute(7))
    db.fire()
    assert len(db.slots()) == 7


def test_history_keeps_the_newest_hundred(db: Schedules) -> None:
    db.at(MIDNIGHT)
    db.cron("s", "* * * * *", '{"overlap": "allow_all", "catchup": "1 day", "retention": "1 hour"}')
    db.at("2040-01-01 02:30:30Z")
    db.fire()
    db.close()
    db.fire()
    assert len(db.decisions()) == 150
    db.at("2040-01-01 03:00:01Z")
    db.rows("select hotmesh.prune()")
    assert len(db.decisions()) == 150, "within their retention"
    db.rows("select hotmesh.pause_schedule('s')")
    db.at("2040-01-01 04:00:01Z")
    db.rows("select hotmesh.prune()")
    assert len(db.decisions()) == 100
    assert db.rows("select count(*) from hotmesh.workflows") == [(0,)]
    assert db.rows("select outcome, count(*) from hotmesh.firings group by 1") == [("completed", 100)]


# ------------------------------------------------------------------------------- what goes wrong alone --


def test_a_schedule_that_fails_stops_no_other(db: Schedules) -> None:
    db.at(MIDNIGHT)
    for number in range(50):
        db.cron(f"good{number}", "* * * * *")
    for name in ("zone", "type", "expression"):
        db.cron(name, "* * * * *")
    db.rows("update hotmesh_engine.schedule set time_zone = 'Nowhere/Gone' where schedule_id = 'zone'")
    db.rows("update hotmesh_engine.schedule set workflow_type = '' where schedule_id = 'type'")
    db.rows("update hotmesh_engine.schedule set cron = '* * * *' where schedule_id = 'expression'")
    db.at(minute(1))
    assert db.fire() == 50
    query = """select schedule_id, status, trouble_code, trouble, due_at > hotmesh.now()
                 from hotmesh.schedules where trouble is not null order by 1"""
    bad = db.rows(query)
    assert [(row[0], row[1], row[2], row[4]) for row in bad] == [
        ("expression", "troubled", "HM027", True), ("type", "troubled", "HM003", True), ("zone", "troubled", "22023", True)
    ]  # fmt: skip
    assert "has 4" in bad[0][3] and "1 to 1000 bytes" in bad[1][3] and "Nowhere/Gone" in bad[2][3]
    assert db.value("select count(*) from hotmesh.firings") == 50

    db.rows("update hotmesh_engine.schedule set time_zone = 'UTC' where schedule_id = 'zone'")  # it is there again
    db.at("2040-01-01 00:01:10Z")
    assert db.fire() == 1
    assert (db.about("zone")["status"], db.slots("zone")) == ("active", ["00:01:00"])
    assert db.about("type")["trouble_times"] == 2


def test_a_workflow_id_that_is_taken_is_refused_and_shown(every_minute: Schedules) -> None:
    db = every_minute
    db.rows("select hotmesh.start_workflow('mine', '[]', 's:2040-01-01T00:01:00Z')")
    db.at(minute(1))
    db.fire()
    assert db.decisions() == ["refused"]
    db.close()
    assert db.value("select hotmesh.backfill_schedule('s', %s, %s)", minute(0), minute(1)) == 1
    db.fire()
    assert db.decisions() == ["started"]


def test_an_open_transaction_with_the_id_is_not_waited_for(every_minute: Schedules) -> None:
    db = every_minute
    db.cron("other", "* * * * *")
    db.at(minute(1))
    with psycopg.connect(db.dsn) as mine:
        mine.execute("select hotmesh.start_workflow('mine', '[]', 's:2040-01-01T00:01:00Z')")
        db.rows("set statement_timeout = '5s'")
        assert db.fire() == 2
        assert (db.decisions("other"), db.decisions()) == (["started"], ["buffered"])
        mine.rollback()
    db.fire()
    assert db.decisions() == ["started"]


# ------------------------------------------------------------------------------------ where things meet --


def test_jitter_longer_than_the_interval_loses_nothing(db: Schedules) -> None:
    """Slots come due in their order, each before the next one: none is late because another one was."""
    db.at(MIDNIGHT)
    for name, interval, catchup in (
        ("cron", "* * * * *", "none"),
        ("every", "1 minute", "last"),
        ("window", "* * * * *", "1 minute"),
    ):
        db.cron(name, interval, f'{{"jitter": "10 minutes", "overlap": "allow_all", "catchup": "{catchup}"}}')
    for _ in range(150):
        db.at(db.value("select min(due_at) from hotmesh.schedules").isoformat())
        db.fire()
    for name in ("cron", "every", "window"):
        assert set(db.decisions(name)) == {"started"}
        assert 48 <= len(db.decisions(name)) <= 52


def test_jitter_and_catch_up(db: Schedules) -> None:
    db.at(MIDNIGHT)
    for name, catchup in (("window", "10 minutes"), ("last", "last")):
        db.cron(name, "* * * * *", f'{{"jitter": "40 seconds", "overlap": "allow_all", "catchup": "{catchup}"}}')
    db.at("2040-01-01 02:00:50Z")
    db.fire()
    assert (db.decisions("window"), db.slots("window")[-1]) == (["missed", *["started"] * 10], "02:00:00")
    assert (db.decisions("last"), db.slots("last")) == (["missed", "started"], ["02:00:00"])


def test_a_month_of_every_second_with_jitter_is_gone_in_a_moment(db: Schedules) -> None:
    db.at(MIDNIGHT)
    for name, catchup in (("last", "last"), ("none", "none"), ("window", "20 seconds")):
        db.cron(name, "* * * * * *", f'{{"overlap": "allow_all", "catchup": "{catchup}", "jitter": "1 day"}}')
    db.at("2040-02-01 00:00:00Z")
    begun = datetime.now()
    db.fire()
    assert (datetime.now() - begun).total_seconds() < 5
    assert [len(db.slots(name)) in (1, 20, 21) for name in ("last", "none", "window")] == [True] * 3


def test_delay_and_catch_up(db: Schedules) -> None:
    """Nobody was there: what came due after the delay is caught up, what lies before it never was a slot."""
    db.at(MIDNIGHT)
    db.cron("s", "* * * * *", '{"delay": "1 hour", "catchup": "1 day", "overlap": "allow_all"}')
    db.at("2040-01-01 01:03:01Z")
    db.fire()
    assert db.slots() == ["01:01:00", "01:02:00", "01:03:00"]


def test_only_what_runs_is_a_cycle(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"max_cycles": 2}')
    for number in (1, 2, 3):
        db.at(minute(number))
        db.fire()
    assert (db.decisions(), db.about()["cycles"]) == (["started", "skipped", "skipped"], 1)
    db.close()
    db.at(minute(4))
    db.fire()
    assert (db.slots(), db.about()["status"]) == (["00:01:00", "00:04:00"], "over")
    options(db, '{"max_cycles": 1}')
    assert db.about()["status"] == "over"
    options(db, '{"max_cycles": null}')
    assert db.about()["status"] == "active"


def test_a_pause_while_a_slot_is_buffered(every_minute: Schedules) -> None:
    """It waits for the end of the pause as well, and runs then: it had come due before."""
    db = every_minute
    options(db, '{"overlap": "buffer_one"}')
    for number in (1, 2):
        db.at(minute(number))
        db.fire()
    db.rows("select hotmesh.pause_schedule('s')")
    db.close()
    db.fire()
    assert db.decisions() == ["started", "buffered"]
    db.at("2040-01-01 05:00:01Z")
    db.rows("select hotmesh.resume_schedule('s')")
    db.fire()
    assert db.slots() == ["00:01:00", "00:02:00"]


def test_a_run_of_a_deleted_schedule_closes_in_peace(every_minute: Schedules) -> None:
    db = every_minute
    options(db, '{"overlap": "buffer_one"}')
    for number in (1, 2):
        db.at(minute(number))
        db.fire()
    db.rows("select hotmesh.delete_schedule('s')")
    db.close()
    db.fire()
    assert db.rows("select workflow_id, status from hotmesh.workflows") == [("s:2040-01-01T00:01:00Z", "completed")]


def test_a_backfill_over_slots_that_are_due_at_this_moment(every_minute: Schedules) -> None:
    """It comes first: the duty finds its slots taken, runs each once, and still notes what was missed."""
    db = every_minute
    options(db, '{"overlap": "allow_all", "catchup": "2 minutes"}')
    db.at("2040-01-01 00:10:30Z")
    assert db.value("select hotmesh.backfill_schedule('s', %s, %s)", MIDNIGHT, minute(3)) == 4
    db.fire()
    assert db.slots() == ["00:00:00", "00:01:00", "00:02:00", "00:03:00", "00:09:00", "00:10:00"]
    missed = db.rows("select slot, missed_until from hotmesh.firings where decision = 'missed'")
    assert [(f"{a:%M}", f"{b:%M}") for a, b in missed] == [("04", "09")]
    assert db.value("select hotmesh.backfill_schedule('s', %s, %s)", MIDNIGHT, minute(10)) == 5
    db.fire()
    assert len(db.slots()) == 11
    assert db.value("select count(*) from hotmesh.workflows") == 11


def test_a_clock_that_steps_back(every_minute: Schedules) -> None:
    db = every_minute
    for number in (1, 2):
        db.at(minute(number))
        db.fire()
        db.close()
    db.at("2039-12-31 23:00:00Z")
    assert db.fire() == 0, "its next slot is still to come"
    db.rows("select hotmesh.pause_schedule('s')")
    assert db.rows("select hotmesh.next_runs('s', 1)")[0][0] == datetime.fromisoformat("2040-01-01T00:03:00Z")
    db.rows("select hotmesh.resume_schedule('s')")
    assert db.check() is None
    db.at(minute(3))
    db.fire()
    assert db.slots() == ["00:01:00", "00:02:00", "00:03:00"]


def test_one_that_nobody_serves_shows_why_it_does_not_go_on(every_minute: Schedules) -> None:
    db = every_minute
    for number in (1, 2, 3):
        db.at(minute(number))
        db.fire()
    assert (db.decisions(), db.about()["open_runs"]) == (["started", "skipped", "skipped"], 1)
    assert db.rows("select status from hotmesh.workflows") == [("ready",)]


@pytest.mark.parametrize(
    "name",
    ["a:b", "s:2040-01-01T00:01:00Z", 'it\'s "quoted" \\ %s {x}', "[bold]x[/bold]", "Straße 東京 🙂", " ", "\t\n", "x" * 900],
)
def test_names_of_all_kinds(db: Schedules, name: str) -> None:
    db.at(MIDNIGHT)
    assert db.cron(name, "* * * * *", '{"jitter": 5}')
    db.at("2040-01-01 00:01:05Z")
    assert db.fire() == 1
    assert db.rows("select workflow_id from hotmesh.workflows") == [(f"{name}:2040-01-01T00:01:00Z",)]
    assert db.rows("select hotmesh.pause_schedule(%s), hotmesh.resume_schedule(%s)", name, name) == [(True, True)]
    assert db.value("select hotmesh.delete_schedule(%s)", name) is True


def test_two_at_once_start_a_buffered_slot_once(every_minute: Schedules) -> None:
    """One has decided and not committed; the other goes on without waiting, and finds nothing to do afterwards."""
    db = every_minute
    options(db, '{"overlap": "buffer_one"}')
    for number in (1, 2):
        db.at(minute(number))
        db.fire()
    db.close()
    duty = "select r_fired from hotmesh_engine.fire_schedules()"
    with psycopg.connect(db.dsn) as one, psycopg.connect(db.dsn, options="-c lock_timeout=2s") as two:
        assert one.execute(duty).fetchone() == (1,)
        assert two.execute(duty).fetchone() == (0,)
        one.commit()
        assert two.execute(duty).fetchone() == (0,)
    assert (db.decisions(), db.about()["open_runs"]) == (["started", "started"], 1)


def test_an_update_while_it_fires(every_minute: Schedules) -> None:
    """The update waits for the firing, or the firing goes on without this schedule until the update is known."""
    db = every_minute
    options(db, '{"overlap": "allow_all", "catchup": "1 hour"}')
    db.at(minute(1))
    change = """select hotmesh.update_schedule('s', '{"interval": "*/10 * * * *"}')"""
    with psycopg.connect(db.dsn) as one, psycopg.connect(db.dsn, options="-c lock_timeout=100ms") as two:
        assert one.execute("select r_fired from hotmesh_engine.fire_schedules()").fetchone() == (1,)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            two.execute(change)
        two.rollback()
        one.commit()
        two.execute(change)
        db.at(minute(5))
        assert db.fire() == 0
        two.commit()
    assert db.fire() == 0
    db.at(minute(10))
    db.fire()
    assert db.slots() == ["00:01:00", "00:10:00"]


def test_arguments_up_to_the_limit(every_minute: Schedules) -> None:
    db = every_minute
    text = "x" * (2 * 1024 * 1024 - 100)
    options(db, f'{{"args": ["{text}"]}}')
    db.at(minute(1))
    db.fire()
    assert db.value("select length(input ->> 0) from hotmesh.workflows") == len(text)
    with pytest.raises(psycopg.Error) as caught:
        options(db, f'{{"args": ["{text}{text}"]}}')
    assert caught.value.sqlstate == "HM003"
    assert len(str(caught.value)) < 1000
