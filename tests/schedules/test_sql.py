"""What people do with schedules in SQL: create, pause, resume, trigger, backfill, delete; what is refused."""

from __future__ import annotations

import json
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyhotmesh.cron import check_interval, is_cron
from tests.schedules.conftest import Schedules


def test_a_transaction_that_rolls_back_creates_and_starts_nothing(db: Schedules) -> None:
    with psycopg.connect(db.dsn) as mine:
        assert mine.execute("select hotmesh.cron('s', 'nothing', '1 hour')").fetchone() == (True,)
        mine.execute("select hotmesh.trigger_schedule('s')")
        mine.rollback()
    for table in ("schedule", "schedule_slot", "run", "live"):
        assert db.value(f"select count(*) from hotmesh_engine.{table}") == 0
    with psycopg.connect(db.dsn) as mine:
        mine.execute("select hotmesh.cron('s', 'nothing', '1 hour')")
        workflow_id = mine.execute("select hotmesh.trigger_schedule('s')").fetchone()
    assert db.rows("select workflow_id from hotmesh.workflows") == [workflow_id]
    assert db.rows("select origin, decision from hotmesh.firings") == [("trigger", "started")]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_any_isolation_will_do(db: Schedules, isolation: str) -> None:
    with psycopg.connect(db.dsn, options=f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}") as mine:
        mine.execute("select hotmesh.cron('s', 'nothing', '* * * * *')")
        mine.execute("select hotmesh.trigger_schedule('s')")
        mine.execute("select hotmesh.pause_schedule('s', 'a note')")
    assert (db.about()["status"], db.about()["note"]) == ("paused", "a note")


def test_pause_and_resume(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    db.cron("s", "* * * * *", '{"catchup": "1 day"}')
    assert db.value("select hotmesh.pause_schedule('s', 'moving house')") is True
    assert db.value("select hotmesh.pause_schedule('s')") is False
    about = db.about()
    assert (about["status"], about["note"], about["next_slot"]) == ("paused", "moving house", None)
    db.at("2040-01-01 01:00:01Z")
    assert db.fire() == 0
    assert db.value("select hotmesh.resume_schedule('s')") is True
    assert db.value("select hotmesh.resume_schedule('s')") is False
    assert db.fire() == 0, "what came due meanwhile was not wanted"
    db.at("2040-01-01 01:01:01Z")
    db.fire()
    assert db.slots() == ["01:01:00"]


def test_resume_before_the_delay_keeps_it(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    db.cron("s", "1 minute", '{"delay": "1 hour"}')
    db.rows("select hotmesh.pause_schedule('s')")
    db.rows("select hotmesh.resume_schedule('s')")
    assert f"{db.about()['next_slot']:%H:%M:%S}" == "01:00:00"


def test_trigger_runs_beside_what_runs(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    db.cron("s", "* * * * *", '{"max_cycles": 1}')
    ids = [db.value("select hotmesh.trigger_schedule('s')") for _ in range(3)]
    assert len(set(ids)) == 3
    assert db.about()["cycles"] == 0
    db.at("2040-01-01 00:01:01Z")
    db.fire()
    assert db.decisions() == ["started"] * 3 + ["skipped"], "a triggered run is a run of the schedule"


def test_backfill(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    db.cron("all", "* * * * *", '{"overlap": "allow_all"}')
    db.cron("skip", "* * * * *")
    db.at("2040-01-01 01:00:02Z")
    db.fire()
    assert (db.slots("all"), db.slots("skip")) == (["01:00:00"], ["01:00:00"])
    for name in ("all", "skip"):
        db.rows("select hotmesh.pause_schedule(%s)", name)
        started = len(db.slots(name))
        window = "'2040-01-01 00:10:00Z', '2040-01-01 00:14:59Z'"
        assert db.value(f"select hotmesh.backfill_schedule('{name}', {window})") == 5
        assert db.value(f"select hotmesh.backfill_schedule('{name}', {window})") == 0, "once is enough"
        assert len(db.slots(name)) == started
    db.fire()
    backfilled = "select count(*) from hotmesh.firings where origin = 'backfill' and decision = 'started' and schedule_id = %s"
    assert db.value(backfilled, "all") == 5, "also while it is paused"
    for done in range(6):
        assert db.value(backfilled, "skip") == done, "one after another"
        db.close()
        db.fire()
    assert db.value(backfilled, "skip") == 5


def test_a_backfill_of_missed_slots_leaves_the_rest_missed(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    db.cron("s", "* * * * *", '{"overlap": "allow_all", "catchup": "none"}')
    db.at("2040-01-01 00:30:30Z")
    db.fire()
    db.value("select hotmesh.backfill_schedule('s', '2040-01-01 00:01:00Z', '2040-01-01 00:03:00Z')")
    db.fire()
    assert db.slots() == ["00:01:00", "00:02:00", "00:03:00"]
    missed = db.rows("select slot, missed_until from hotmesh.firings where decision = 'missed'")
    assert [(f"{a:%M}", f"{b:%M}") for a, b in missed] == [("04", "31")]


def test_update(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    db.cron("s", "* * * * *", '{"args": [1]}')
    db.rows("""select hotmesh_engine.update_schedule('default', 's', '{"args": [2], "task_queue": "q"}')""")
    assert f"{db.about()['next_slot']:%H:%M}" == "00:01", "its times are as they were"
    db.rows("""select hotmesh_engine.update_schedule('default', 's', '{"interval": "1 hour"}')""")
    about = db.about()
    assert (about["interval"], about["input"], about["task_queue"]) == ("3600 seconds", [2], "q")
    assert f"{about['next_slot']:%H:%M}" == "01:00"


SET = {
    "args": [1], "memo": {"a": 1}, "task_queue": "q", "time_zone": "Europe/Berlin", "jitter": 5, "catchup": "last",
    "overlap": "allow_all", "max_cycles": 3, "pause_after_failures": 2, "priority": 1, "execution_timeout": 60,
    "retention": "1 day", "note": "why", "paused": True,
}  # fmt: skip


def test_null_sets_an_option_back(db: Schedules) -> None:
    """As if it had never been given: one at a time, and the others stay."""
    db.at("2040-01-01 00:00:00Z")
    db.cron("plain", "0 3 * * *")
    plain = db.about("plain")
    for name in SET:
        db.cron(name, "0 3 * * *", json.dumps(SET))
        full = db.about(name)
        db.rows("select hotmesh.update_schedule(%s, %s)", name, json.dumps({name: None}))
        column = {"args": "input"}.get(name, name)
        assert (full["status"] if name == "paused" else full[column]) != (plain["status"] if name == "paused" else plain[column])
        seen = db.about(name)
        if name == "paused":
            assert seen["status"] == "active"
            continue
        assert seen[column] == plain[column], name
        stays = [c for c in plain if c not in (column, "due_at", "next_slot", "schedule_id", "updated_at")]
        assert {c: seen[c] for c in stays} == {c: full[c] for c in stays}, name
    for name in ("workflow", "interval"):
        with pytest.raises(psycopg.Error) as caught:
            db.rows("select hotmesh.update_schedule('plain', %s)", json.dumps({name: None}))
        assert caught.value.sqlstate == "HM027"


def test_the_queue_of_calls_follows_their_topic(db: Schedules) -> None:
    db.cron("s", "1 day", '{"kind": "call"}', workflow="a")
    assert (db.about()["task_queue"], db.about()["retention"]) == ("call:a", timedelta(hours=1))
    db.rows("select hotmesh.update_schedule('s', %s)", '{"workflow": "b"}')
    assert (db.about()["task_queue"], db.about()["workflow_type"]) == ("call:b", "b")
    db.rows("select hotmesh.update_schedule('s', %s)", '{"kind": "workflow"}')
    assert (db.about()["task_queue"], db.about()["retention"]) == ("default", None)
    db.rows("select hotmesh.update_schedule('s', %s)", '{"kind": "call", "workflow": "c"}')
    assert (db.about()["task_queue"], db.about()["retention"]) == ("call:c", timedelta(hours=1))
    db.rows("select hotmesh.update_schedule('s', %s)", '{"max_cycles": 3}')
    assert db.about()["task_queue"] == "call:c"


def test_delete_leaves_its_runs_alone(db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    db.cron("s", "* * * * *")
    db.at("2040-01-01 00:01:01Z")
    db.fire()
    assert db.value("select hotmesh.delete_schedule('s')") is True
    assert db.value("select hotmesh.delete_schedule('s')") is False
    assert db.rows("select (select count(*) from hotmesh.firings), (select count(*) from hotmesh.workflows)") == [(0, 1)]
    assert db.cron("s", "* * * * *")


def test_namespaces_have_schedules_of_their_own(db: Schedules) -> None:
    assert db.cron("s", "1 day")
    assert db.cron("s", "1 day", '{"namespace": "other"}')
    db.rows("select hotmesh.pause_schedule('s', namespace => 'other')")
    assert db.rows("select namespace, status from hotmesh.schedules order by 1") == [("default", "active"), ("other", "paused")]
    db.rows("select hotmesh_engine.skip('1 day')")
    db.rows("select hotmesh.resume_schedule('s', 'other')")
    db.rows("select hotmesh.trigger_schedule('s', 'other')")
    db.fire()
    assert db.rows("select namespace, count(*) from hotmesh.workflows group by 1 order by 1") == [("default", 1), ("other", 1)]


REFUSED = [
    ("HM027", "hotmesh.cron('t', 'w', '60 * * * *')"),
    ("HM027", "hotmesh.cron('t', 'w', '0 0 30 2 *')"),
    ("HM027", "hotmesh.cron('t', 'w', '0 seconds')"),
    ("HM027", "hotmesh.cron('t', 'w', '0')"),
    ("HM027", "hotmesh.cron('t', 'w', 'infinity')"),
    ("HM027", "hotmesh.cron('t', 'w', null)"),
    ("HM027", "hotmesh.cron('t', 'w', '* * * *')"),
    ("HM026", "hotmesh.cron('t', 'w', '1 dya')"),
    ("HM026", "hotmesh.cron('t', 'w', '-5 min')"),
    ("HM026", "hotmesh.cron('t', 'w', '1 day ago')"),
    ("HM026", "hotmesh.cron('t', 'w', '')"),
    ("HM027", """hotmesh.cron('t', 'w', '1 day', '{"time_zone": "Europe/Berln"}')"""),
    ("HM026", """hotmesh.cron('t', 'w', '1 day', '{"delay": "soon"}')"""),
    ("HM026", """hotmesh.cron('t', 'w', '1 day', '{"delay": "infinity"}')"""),
    ("HM026", """hotmesh.cron('t', 'w', '1 day', '{"jitter": -1}')"""),
    ("HM026", """hotmesh.cron('t', 'w', '1 day', '{"catchup": "always"}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"overlap": "maybe"}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"max_cycles": 0}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"max_cycles": "many"}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"priority": 6}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"args": {}}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"args": ["\\u0000"]}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"colour": 1}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"kind": "topic"}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"interval": "1 hour"}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"paused": "perhaps"}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '{"task_queue": ""}')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', '[]')"""),
    ("HM003", """hotmesh.cron('t', 'w', '1 day', null)"""),
    ("HM003", "hotmesh.cron('', 'w', '1 day')"),
    ("HM003", "hotmesh.cron(repeat('x', 901), 'w', '1 day')"),
    ("HM003", "hotmesh.cron('t', '', '1 day')"),
    ("HM003", "hotmesh.backfill_schedule('s', now(), 'infinity')"),
    ("HM003", "hotmesh.backfill_schedule('s', '-infinity', now())"),
    ("HM003", "hotmesh.backfill_schedule('s', now() - interval '30 days', now() - interval '1 hour')"),
    ("HM029", "hotmesh.update_schedule('nobody', '{}')"),
    ("HM003", "hotmesh.update_schedule('s', '[]')"),
    ("HM003", """hotmesh.update_schedule('s', '{"namespace": "x"}')"""),
    *[("HM029", f"hotmesh.{f}('nobody')") for f in ("pause_schedule", "resume_schedule", "trigger_schedule", "next_runs")],
    ("HM029", "hotmesh.pause_schedule('s', namespace => 'elsewhere')"),
]


def test_what_is_refused_leaves_nothing_behind(db: Schedules) -> None:
    db.cron("s", "* * * * *")
    tables = ("schedule", "schedule_slot", "run", "queue", "namespace")
    before = [db.value(f"select count(*) from hotmesh_engine.{table}") for table in tables]
    for code, call in REFUSED:
        with pytest.raises(psycopg.Error) as caught:
            db.rows(f"select {call}")
        assert caught.value.sqlstate == code, (call, caught.value)
    assert [db.value(f"select count(*) from hotmesh_engine.{table}") for table in tables] == before


DURATIONS = {
    "90": 90, "1.5": 1.5, "1 week": 604800, "15 minutes": 900, "500 ms": 0.5, "1h 30m": 5400, "1 month": 2592000,
    "1 year": 31536000, "1 day 2 hours 3 minutes 4 seconds": 93784,
}  # fmt: skip


def test_durations_mean_the_same_as_in_python(db: Schedules) -> None:
    for text, seconds in DURATIONS.items():
        assert check_interval(text) == seconds
        db.cron(text, text)
        assert db.about(text)["interval"] == f"{seconds} seconds"


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(alphabet="0159*/,-?#@dLhoursminay. ", max_size=20), min_size=20, max_size=20))
@example(
    [
        "60 * * * *",
        "1 dya",
        "-5 min",
        "1 day 2 hours 3 min",
        "0 0 1 1 5",
        "1 2 3",
        "1 and 2 min",
        "1h30m",
        "@daily",
        "mon tue wed",
    ]
)
def test_what_is_meant_as_an_expression_is_the_same_as_in_python(db: Schedules, texts: list[str]) -> None:
    found = db.rows("select t, hotmesh_engine.is_cron(t) from unnest(%s::text[]) t", texts)
    assert found == [(text, is_cron(text)) for text in texts]


def test_a_trigger_that_is_repeated_answers_with_the_same_run(db: Schedules) -> None:
    db.cron("s", "1 day")
    slot = db.value("select hotmesh.now()")
    call = "select workflow_id, run_id from hotmesh_engine.trigger_schedule('default', 's', false, %s)"
    first = db.rows(call, slot)
    assert db.rows(call, slot) == first
    assert db.rows("select workflow_id, run_id from hotmesh.workflows") == first


@pytest.mark.parametrize(
    ("call", "said", "advice"),
    [
        ("'0 0 30 2 *'", "day of month (field 3, position 5): it never comes", "L in this field"),
        ("'0 0 0 31 2,4 *'", "day of month (field 4, position 7): it never comes", "L in this field"),
        ("'60 * * * *'", "minute (field 1, position 1): 60 is out of range", "0 to 59"),
        ("'0 0 * * mno'", "day of week (field 5, position 9): 'mno' is no day of week", "Did you mean mon?"),
        ("'0 0 * sept *'", "month (field 4, position 7): 'sept' is no month", "Did you mean sep?"),
        ("'0 0 * jna *'", "month (field 4, position 7): 'jna' is no month", "Did you mean jan?"),
        ("'0 0 * xyz *'", "month (field 4, position 7): 'xyz' is no month", "Months are 1 to 12"),
        ("'1 dya'", "'1 dya' (position 3): unknown unit 'dya'", "Did you mean '1 day'?"),
        ("'every day'", "'every day' (position 1): unknown unit 'every'", "1 week"),
        ("'-5 min'", "'-5 min' (position 1): it cannot be negative", "Did you mean '5 min'?"),
        ("'2 hours ago'", "'2 hours ago' (position 9): it cannot be negative", "Did you mean '2 hours'?"),
        ("'0 seconds'", "lasts from 100 ms to less than 1000 years, this is '0 seconds'", "1 day"),
        ("'@daily', '{\"time_zone\": \"Europe/Berln\"}'", "unknown time zone 'Europe/Berln'", "Near: Europe/Berlin."),
        ("'@daily', '{\"time_zone\": \"berlin\"}'", "unknown time zone 'berlin'", "Near: Europe/Berlin."),
    ],
)
def test_a_refusal_says_where_and_what_would_do(db: Schedules, call: str, said: str, advice: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        db.rows(f"select hotmesh.cron('s', 'w', {call})")
    assert said in (caught.value.diag.message_primary or "")
    assert advice in (caught.value.diag.message_hint or "")
