"""`hotmesh workflow`: what people read, what programs read, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.cli.command import HotMesh, ended, read_until

Command = Callable[..., str]


@pytest.fixture
def served(hotmesh: HotMesh) -> HotMesh:
    read_until(hotmesh.start("worker", "app:worker"), "serves default")
    return hotmesh


def test_start_and_result(served: HotMesh) -> None:
    assert served("workflow", "start", "hello", "--arg", '"World"', "--id", "h1") == "h1\n"
    assert served("workflow", "result", "h1") == '"Hello, World!"\n'
    made = json.loads(served("workflow", "start", "hello", "--arg", "1", "--wait", "--json"))
    assert made["result"] == "Hello, 1!"
    assert made["workflow_id"]


def test_a_signal_ends_the_wait(served: HotMesh) -> None:
    served("workflow", "start", "waiter", "--arg", '"k"', "--id", "w")
    assert "not closed" in served("workflow", "result", "w", "--timeout", "100 ms", code=5)
    shown = served("workflow", "show", "w")
    assert "signal" in shown
    assert "waiter" in shown
    served("workflow", "signal", "k", '{"a": [1, null]}')
    assert json.loads(served("workflow", "result", "w", "--timeout", "20")) == {"a": [1, None]}


def test_interrupt(served: HotMesh) -> None:
    served("workflow", "start", "waiter", "--arg", '"k"', "--id", "w")
    served("workflow", "interrupt", "w", "--reason", "enough")
    assert "enough" in served("workflow", "result", "w", code=4)
    assert "not open" in served("workflow", "interrupt", "w", code=3)


def test_cancel(served: HotMesh) -> None:
    served("workflow", "start", "waiter", "--arg", '"k"', "--id", "w")
    served("workflow", "cancel", "w", "--reason", "enough")
    assert "was cancelled: enough" in served("workflow", "result", "w", code=4)
    assert "not open" in served("workflow", "cancel", "w", code=3)


def test_a_failure_is_told(served: HotMesh) -> None:
    served("workflow", "start", "failing", "--id", "f")
    assert "not today" in served("workflow", "result", "f", code=4)
    shown = json.loads(served("workflow", "show", "f", "--json"))
    assert shown["workflow"]["status"] == "failed"
    assert [row["event"] for row in shown["history"]] == ["started", "activity_failed", "failed"]
    assert "activity unlucky" in served("workflow", "show", "f")


def test_the_reason_of_a_trouble_is_shown_to_its_end(hotmesh: HotMesh, dsn: str) -> None:
    hotmesh("workflow", "start", "nobody's", "--id", "w")
    reason = "because of this, and that, " * 5 + "and so on to the end"
    with psycopg.connect(dsn) as conn:
        conn.execute("select hotmesh_engine.quarantine(run_id, 'HM028', %s, hotmesh.now()) from hotmesh_engine.live", (reason,))
    assert reason in " ".join(hotmesh("workflow", "show", "w").split())


@pytest.fixture
def run(dsn: str) -> Command:
    """The command, in this process: what it prints, if it ends with this exit code."""
    return lambda *arguments, code=0: ended("workflow", *arguments, code=code, database=dsn)


def test_list(run: Command) -> None:
    assert run("list") == "none\n"
    for number in range(3):
        run("start", "hello", "--id", f"h{number}")
    run("start", "other", "--id", "o", "--delay", "1 hour")
    assert [row["workflow_id"] for row in json.loads(run("list", "--json"))] == ["o", "h2", "h1", "h0"]
    assert [row["workflow_id"] for row in json.loads(run("list", "--json", "--status", "waiting"))] == ["o"]
    assert len(json.loads(run("list", "--json", "--type", "hello", "--limit", "2"))) == 2
    assert "h1" in run("list")


def test_what_is_refused(run: Command) -> None:
    assert "no workflow 'nobody'" in run("result", "nobody", code=3)
    assert "no workflow 'nobody'" in run("show", "nobody", code=3)
    run("start", "hello", "--id", "h")
    assert "taken by an open run" in run("start", "hello", "--id", "h", code=6)
    assert "is not JSON" in run("start", "hello", "--arg", "World", code=2)
    assert "1 dya" in run("start", "hello", "--wait", "--timeout", "1 dya", code=2)
    assert json.loads(run("list", "--json"))[0]["workflow_id"] == "h", "nothing else has started"
    assert "1000 bytes" in run("start", "hello", "--id", "x" * 1001, code=1)


def test_no_connection_and_no_schema(app: Path, empty_dsn: str) -> None:
    away = HotMesh(app, "postgresql://nobody@/nowhere?host=/nonexistent")
    assert "Cannot connect" in away("workflow", "list", code=2)
    assert "hotmesh db upgrade" in HotMesh(app, empty_dsn)("workflow", "list", code=1)
    assert "HOTMESH_DATABASE_URL" in HotMesh(app, None)("workflow", "list", code=2)
