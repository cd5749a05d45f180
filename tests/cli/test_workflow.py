"""`hotmesh workflow`: what people read, what programs read, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.cli.command import HotMesh, read_until


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


def test_list(hotmesh: HotMesh) -> None:
    assert hotmesh("workflow", "list") == "none\n"
    for number in range(3):
        hotmesh("workflow", "start", "hello", "--id", f"h{number}")
    hotmesh("workflow", "start", "other", "--id", "o", "--delay", "1 hour")
    assert [row["workflow_id"] for row in json.loads(hotmesh("workflow", "list", "--json"))] == ["o", "h2", "h1", "h0"]
    assert [row["workflow_id"] for row in json.loads(hotmesh("workflow", "list", "--json", "--status", "waiting"))] == ["o"]
    assert len(json.loads(hotmesh("workflow", "list", "--json", "--type", "hello", "--limit", "2"))) == 2
    assert "h1" in hotmesh("workflow", "list")


def test_what_is_refused(hotmesh: HotMesh) -> None:
    assert "no workflow 'nobody'" in hotmesh("workflow", "result", "nobody", code=3)
    assert "no workflow 'nobody'" in hotmesh("workflow", "show", "nobody", code=3)
    hotmesh("workflow", "start", "hello", "--id", "h")
    assert "taken by an open run" in hotmesh("workflow", "start", "hello", "--id", "h", code=6)
    assert "is not JSON" in hotmesh("workflow", "start", "hello", "--arg", "World", code=2)
    assert "1 dya" in hotmesh("workflow", "start", "hello", "--wait", "--timeout", "1 dya", code=2)
    assert json.loads(hotmesh("workflow", "list", "--json"))[0]["workflow_id"] == "h", "nothing else has started"
    assert "1000 bytes" in hotmesh("workflow", "start", "hello", "--id", "x" * 1001, code=1)


def test_no_connection_and_no_schema(app: Path, empty_dsn: str) -> None:
    away = HotMesh(app, "postgresql://nobody@/nowhere?host=/nonexistent")
    assert "Cannot connect" in away("workflow", "list", code=2)
    assert "hotmesh db upgrade" in HotMesh(app, empty_dsn)("workflow", "list", code=1)
    assert "HOTMESH_DATABASE_URL" in HotMesh(app, None)("workflow", "list", code=2)
