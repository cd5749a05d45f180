"""The examples, run as a reader would: `python examples/x.py`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

from pyhotmesh import Client, Worker, WorkflowInterrupted

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(dsn: str, name: str, *arguments: str) -> str:
    """What the example prints; it has to end with 0."""
    env = {**os.environ, "HOTMESH_DATABASE_URL": dsn}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_greetings(empty_dsn: str) -> None:
    assert run(empty_dsn, "greetings.py", "Ada") == "['Hello, Ada!', '¡Hola, Ada!']\n"


def test_wait_for_signal(dsn: str) -> None:
    assert run(dsn, "wait_for_signal.py") == '{"hello": "world"}\n'
    # A handle by id still returns it, in one more process, after the end.
    assert run(dsn, "wait_for_signal.py", "result") == '{"hello": "world"}\n'


def test_collation(dsn: str) -> None:
    assert run(dsn, "collation.py") == "paid: {'amount': '12.50'}, packed: {'packed by': 'Ada'}\n"


def test_weekly_as_a_program(dsn: str) -> None:
    assert run(dsn, "weekly.py").startswith("sleeps until 2")
    assert run(dsn, "weekly.py") == run(dsn, "weekly.py"), "it is the same workflow each time"
    assert run(dsn, "weekly.py", "interrupt") == "interrupted\n"
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select status from hotmesh.workflows").fetchall() == [("interrupted",)]


async def test_weekly_as_the_weeks_pass(dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    weekly = load("weekly", monkeypatch)
    async with (
        Client(dsn) as client,
        Worker(client, task_queue="weekly", workflows=[weekly.weekly], activities=[weekly.report]),
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn,
    ):
        handle = await client.workflow.start(weekly.weekly, task_queue="weekly", workflow_id="w")
        for week in range(1, 4):
            while await handle.status() != "waiting":
                await asyncio.sleep(0.01)
            await conn.execute("select hotmesh_engine.skip('8 days')")
            while sum(row["event"] == "activity_completed" for row in await handle.history()) < week:
                await asyncio.sleep(0.01)
        await handle.interrupt("enough")
        with pytest.raises(WorkflowInterrupted, match="enough"):
            await handle.result(timeout=10)
    assert capsys.readouterr().out == "the weekly report\n" * 3


def test_nightly_as_a_program(dsn: str) -> None:
    first = run(dsn, "nightly.py").splitlines()
    assert first[0] == "created"
    assert len(first) == 3 and all(line.startswith("runs at 20") for line in first[1:])
    assert run(dsn, "nightly.py").splitlines()[0] == "there already"
    assert run(dsn, "nightly.py", "run") == "the nightly report\n"
    assert run(dsn, "nightly.py", "delete") == "deleted\n"


async def test_nightly_once_a_night_on_three_servers(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nightly = load("nightly", monkeypatch)
    monkeypatch.setenv("HOTMESH_DATABASE_URL", dsn)
    async with Client(dsn) as client, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await asyncio.gather(*[nightly.serve() for _ in range(3)])
        said = capsys.readouterr().out.splitlines()
        assert sorted(line for line in said if "runs at" not in line) == ["created", "there already", "there already"]
        async with nightly.worker(client), nightly.worker(client), nightly.worker(client):
            for night in range(1, 4):
                await conn.execute("select hotmesh_engine.skip(due_at - hotmesh.now()) from hotmesh.schedules")
                while await client.workflow.count(status="completed") < night:
                    await asyncio.sleep(0.01)
    assert capsys.readouterr().out == "the nightly report\n" * 3


def test_calls(dsn: str) -> None:
    said = run(dsn, "calls.py").splitlines()
    assert said[:2] == ["called with {'payload': 'something'}", "{'hello': 'something'}"]
    assert said[2:5] == ["called with {'payload': 'first'}", "{'hello': 'first'}", "{'hello': 'first'}"]
    assert said[5:] == ["called with {'payload': 'third'}", "{'hello': 'third'}", "a nightly call: created"]
    assert run(dsn, "calls.py").splitlines()[-1] == "a nightly call: there already"
    assert run(dsn, "calls.py", "stop") == "ended\n"
    assert run(dsn, "calls.py", "stop") == "there is none\n"


def test_users_are_records_that_are_found_and_joined(dsn: str) -> None:
    assert run(dsn, "users.py").splitlines() == [
        "Welcome, James.",
        "['active', 'created', 'first', 'id']",
        "[('jim123', 'James')]",
        "[('jim123', 'James')]",
        "[{'first': 'James', 'nspname': 'public'}]",
    ]
