"""`hotmesh cron`: what people read, what programs read, and exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.cli.command import HotMesh, ended, eventually, read_until

Command = Callable[..., str]


@pytest.fixture
def run(dsn: str) -> Command:
    """The command, in this process: what it prints, if it ends with this exit code."""
    return lambda *arguments, code=0, database=dsn: ended("cron", *arguments, code=code, database=database)


def test_from_creation_to_deletion(run: Command) -> None:
    assert run("list") == "none\n"
    assert run("create", "nightly", "hello", "0 3 * * *", "--arg", '"World"').startswith("nightly: first at 20")
    assert "is there already" in run("create", "nightly", "hello", "1 day", code=6)
    made = json.loads(run("create", "often", "hello", "15 minutes", "--json", "--max-cycles", "3", "--paused"))
    assert (made["schedule_id"], made["created"]) == ("often", True)
    listed = {row["schedule_id"]: row for row in json.loads(run("list", "--json"))}
    assert {name: (row["status"], row["interval"]) for name, row in listed.items()} == {
        "nightly": ("active", "0 3 * * *"), "often": ("paused", "900 seconds")
    }  # fmt: skip
    assert run("pause", "nightly", "--note", "a holiday") == "paused\n"
    shown = run("show", "nightly")
    assert "paused  nightly" in shown and "a holiday" in shown
    assert "next runs" not in shown and f"  {'if it were resumed':<20} 20" in shown
    assert run("resume", "nightly") == "resumed\n"
    assert run("resume", "nightly") == "it is not paused\n"
    assert len(json.loads(run("show", "nightly", "--json", "--next", "3"))["next_runs"]) == 3
    assert run("delete", "nightly") == "deleted\n"
    assert "no schedule 'nightly'" in run("delete", "nightly", code=3)


def test_update_and_backfill(run: Command, dsn: str) -> None:
    run("create", "s", "hello", "0 3 * * *", "--max-cycles", "3", "--queue", "q", "--time-zone", "Europe/Berlin", "--note", "why")
    assert run("update", "s", "--interval", "1 hour", "--arg", "1", "--arg", '"two"').startswith("s: next at 20")
    (row,) = json.loads(run("list", "--json"))
    changed = ("interval", "input", "max_cycles", "task_queue", "note")
    assert [row[name] for name in changed] == ["3600 seconds", [1, "two"], 3, "q", "why"]
    assert json.loads(run("update", "s", "--clear", "max-cycles", "--clear", "note", "--overlap", "allow_all", "--json"))[
        "next_slot"
    ]
    (row,) = json.loads(run("list", "--json"))
    assert [row[name] for name in (*changed, "overlap")] == ["3600 seconds", [1, "two"], None, "q", None, "allow_all"]
    assert "nothing to change" in run("update", "s", code=2)
    assert "unknown unit 'dya'" in run("update", "s", "--interval", "1 dya", code=2)
    assert "'interval' is not one of" in run("update", "s", "--clear", "interval", code=2)
    run("update", "s", "--interval", "@hourly")
    assert run("backfill", "s", "2026-01-01T00:00Z", "2026-01-01T02:30+00:00") == "3 to run\n"
    assert json.loads(run("backfill", "s", "2026-01-01T00:00Z", "2026-01-01T03:00Z", "--json"))["backfilled"] == 1
    assert run("backfill", "s", "2026-01-01T00:00Z", "2026-01-01T03:00Z") == "none that has not run\n"
    assert "has no zone; write 2026-01-01Z" in run("backfill", "s", "2026-01-01", "2026-01-02T00:00Z", code=2)
    assert "is not a time" in run("backfill", "s", "yesterday", "2026-01-02T00:00Z", code=2)
    for command in (("update", "nobody", "--note", "x"), ("backfill", "nobody", "2026-01-01T00:00Z", "2026-01-02T00:00Z")):
        assert "no schedule 'nobody'" in run(*command, code=3)


def test_calls_of_a_topic(run: Command) -> None:
    run("create", "s", "price", "@hourly", "--call", "--arg", '"tea"', "--retention", "1 day", "--priority", "1")
    (row,) = json.loads(run("list", "--json"))
    assert (row["task_queue"], row["input"], row["priority"], row["retention"]) == ("call:price", ["tea"], 1, 86400)


@pytest.fixture
def in_new_york() -> Iterator[None]:
    """The machine's clock shows the time of New York."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
def test_times_are_those_of_the_schedules_zone(run: Command, dsn: str) -> None:
    """Not of the machine's; each with its offset, also in JSON."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select hotmesh_engine.skip('2040-03-24 12:00Z' - hotmesh.now())")
        berlin = ("--time-zone", "Europe/Berlin")
        assert run("create", "s", "hello", "0 3 * * *", *berlin) == "s: first at 2040-03-25 03:00:00+02:00\n"  # the shift
        assert run("create", "plain", "hello", "0 3 * * *") == "plain: first at 2040-03-25 03:00:00+00:00\n"
        assert run("update", "s", "--interval", "30 3 * * *") == "s: next at 2040-03-25 03:30:00+02:00\n"
        assert "2040-03-25 03:30:00+02:00" in run("list") and "2040-03-25 03:00:00+00:00" in run("list")
        conn.execute("select hotmesh_engine.skip('2040-03-25 02:00Z' - hotmesh.now())")
        conn.execute("select hotmesh_engine.fire_schedules()")
        shown = run("show", "s", "--next", "2")
        assert shown.count("2040-03-25 03:30:00+02:00") == 2  # the last slot; in its history
        assert "next runs            2040-03-26 03:30:00+02:00\n                       2040-03-27 03:30:00+02:00\n" in shown
        conn.execute("update hotmesh_engine.schedule set time_zone = 'Nowhere/Gone'")
        assert "2040-03-26 01:30:00+00:00" in run("list")
    assert [row["next_slot"] for row in json.loads(run("list", "--json"))] == [
        "2040-03-25T03:00:00+00:00", "2040-03-26T01:30:00+00:00"
    ]  # fmt: skip


def test_durations_are_told_in_words(run: Command) -> None:
    run("create", "s", "hello", "15 minutes", "--jitter", "90 s", "--catchup", "1 day", "--execution-timeout", "0.5")
    run("create", "plain", "hello", "@daily")
    words = run("show", "s").split("\n")
    for name, text in (("interval", "15 minutes"), ("jitter", "1 minute 30 seconds"), ("catchup", "1 day")):
        assert f"  {name:<20} {text}" in words
    assert f"  {'execution timeout':<20} 0.5 seconds" in words
    assert "15 minutes" in run("list")
    assert not any(nothing in run("show", "plain") for nothing in ("jitter", "trouble", "history", "due at", "execution"))


def test_a_topic_is_told_from_a_workflow(run: Command) -> None:
    run("create", "one", "hello", "@daily")
    run("create", "two", "hello", "@daily", "--call")
    lines = {line.split()[0]: line for line in run("list").split("\n")[1:] if line}
    assert " hello " in lines["one"]
    assert " call of hello " in lines["two"]
    assert "call of" not in lines["one"]


def test_ids_of_all_kinds(run: Command) -> None:
    for name in ("[bold]x[/bold]", 'it\'s "q" %s', "東京 🙂"):
        run("create", name, "hello", "@hourly", "--note", "[red]a note[/red]")
        assert name in run("show", name) and "[red]a note[/red]" in run("show", name)
        assert name in run("list")
        assert run("delete", name) == "deleted\n"


def test_trigger_and_history(hotmesh: HotMesh, run: Command, dsn: str) -> None:
    read_until(hotmesh.start("worker", "app:worker"), "serves default")
    run("create", "s", "hello", "0 3 * * *", "--arg", '"World"')
    workflow_id = run("trigger", "s").strip()
    assert workflow_id.startswith("s:20")
    assert hotmesh("workflow", "result", workflow_id) == '"Hello, World!"\n'
    (firing,) = json.loads(run("show", "s", "--json"))["history"]
    expected = {"workflow_id": workflow_id, "origin": "trigger", "decision": "started", "outcome": "completed"}
    assert {name: firing[name] for name in expected} == expected
    assert "completed" in run("show", "s")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select hotmesh_engine.skip(next_slot - hotmesh.now()) from hotmesh.schedules")
        eventually(lambda: conn.execute("select cycles from hotmesh.schedules").fetchone() == (1,))


def test_what_is_refused(run: Command) -> None:
    said = run("create", "s", "hello", "60 * * * *", code=2)
    assert "minute (field 1, position 1): 60 is out of range" in said
    assert "\n60 * * * *\n^^\n" in said
    assert "'-5 min' (position 1): it cannot be negative (did you mean 5 min?)" in run("create", "s", "hello", "-5 min", code=2)
    assert "No such option '--zone'" in run("create", "s", "hello", "@daily", "--zone", "UTC", code=2)
    assert "it never comes\n0 0 30 2 *\n    ^^\n" in run("create", "s", "hello", "0 0 30 2 *", code=2)
    assert "did you mean 1 day?" in run("create", "s", "hello", "1 dya", code=2)
    assert "did you mean Europe/Berlin?" in run("create", "s", "hello", "@daily", "--time-zone", "Europe/Berln", code=2)
    assert "jitter: not a duration: '1 dya'" in run("create", "s", "hello", "@daily", "--jitter", "1 dya", code=2)
    assert "schedule_id: must have 1 to 900 bytes" in run("create", "", "hello", "@daily", code=2)
    assert "is not JSON" in run("create", "s", "hello", "@daily", "--arg", "World", code=2)
    assert run("list") == "none\n"
    for command in ("show", "pause", "resume", "trigger"):
        assert "no schedule 'nobody'" in run(command, "nobody", code=3)


def test_a_troubled_one_is_shown_with_its_trouble(run: Command, dsn: str) -> None:
    run("create", "s", "hello", "* * * * *")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update hotmesh_engine.schedule set time_zone = 'Nowhere/Gone'")
        conn.execute("select hotmesh_engine.skip('2 minutes')")
        conn.execute("select hotmesh_engine.fire_schedules()")
    shown = run("show", "s")
    assert "troubled  s" in shown and "Nowhere/Gone" in shown


def test_no_connection(run: Command) -> None:
    assert "Cannot connect" in run("list", code=2, database="postgresql://nobody@/nowhere?host=/nonexistent")
