"""Ctrl-C is the process's, wherever it hits; what user code raises is that code's, wherever it ends up."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.cli.command import HotMesh, eventually, read_until

APP = """
import asyncio, os, sys, time
from pyhotmesh import Client, RetryPolicy, Worker, workflow

ONCE = RetryPolicy(maximum_attempts=1)

def interrupted():
    raise KeyboardInterrupt("mine")

async def interrupted_on_the_loop():
    raise KeyboardInterrupt("mine")

async def its_task_is_interrupted():
    async def leave():
        raise KeyboardInterrupt("mine")
    await asyncio.gather(leave())

async def its_task_exits():
    async def leave():
        sys.exit("mine")
    await asyncio.create_task(leave())

async def its_callback_exits():
    asyncio.get_running_loop().call_soon(sys.exit, "nobody's")
    await asyncio.sleep(0.1)

async def pid():
    return os.getpid()

def spin():
    print("it runs", flush=True)
    while True:
        time.sleep(0.01)

async def spins():
    spin()

async def waits():
    print("it runs", flush=True)
    await asyncio.sleep(3600)

@workflow.defn
async def does(name):
    return await workflow.execute_activity(name, retry_policy=ONCE)

@workflow.defn
async def spins_itself():
    spin()

ACTIVITIES = [interrupted, interrupted_on_the_loop, its_task_is_interrupted, its_task_exits, its_callback_exits, pid, spin,
              spins, waits]

def worker(connection=None):
    return Worker(connection, workflows=[does, spins_itself], activities=ACTIVITIES)

async def embedded(start):
    async with Client(os.environ["HOTMESH_DATABASE_URL"]) as client, worker(client):
        await client.workflow.start(start[0], args=start[1:], workflow_id="x")
        await asyncio.sleep(3600)

if __name__ == "__main__":
    asyncio.run(embedded(sys.argv[1:]))
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_what_activities_raise_ends_no_worker(hotmesh: HotMesh) -> None:
    worker = hotmesh.start("worker", "app:worker")
    read_until(worker, "serves default")
    for name in ("interrupted", "interrupted_on_the_loop", "its_task_is_interrupted"):
        assert "KeyboardInterrupt: mine" in hotmesh("workflow", "start", "does", "--arg", f'"{name}"', "--wait", code=4)
    assert "SystemExit: mine" in hotmesh("workflow", "start", "does", "--arg", '"its_task_exits"', "--wait", code=4)
    assert hotmesh("workflow", "start", "does", "--arg", '"its_callback_exits"', "--wait").strip() == "null"
    assert hotmesh("workflow", "start", "does", "--arg", '"pid"', "--wait").strip() == str(worker.pid)
    worker.send_signal(signal.SIGINT)
    said, _ = worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert "SystemExit: nobody's" in said
    assert "has stopped" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("activity", ["waits", "spin"])
def test_signals_are_honoured_while_an_activity_runs(hotmesh: HotMesh, activity: str, number: signal.Signals) -> None:
    worker = hotmesh.start("worker", "app:worker")
    hotmesh("workflow", "start", "does", "--arg", f'"{activity}"', "--id", "x")
    read_until(worker, "it runs")
    worker.send_signal(number)
    read_until(worker, "a second signal abandons them")
    worker.send_signal(number)
    read_until(worker, "has stopped")
    worker.kill()  # Python waits for the threads that it has
    assert '"running"' not in hotmesh("workflow", "show", "x", "--json")


@pytest.mark.parametrize("start", [["does", "spins"], ["spins_itself"]], ids=["activity", "workflow"])
def test_a_second_ctrl_c_ends_a_process_that_runs_a_loop_of_its_own(hotmesh: HotMesh, dsn: str, start: list[str]) -> None:
    """asyncio.run cancels at the first one, which a loop that is blocked does not see, and raises at the second."""
    process = subprocess.Popen(
        [sys.executable, "app.py", *start], cwd=hotmesh.directory, env=hotmesh.env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    hotmesh.processes.append(process)
    read_until(process, "it runs")

    def ended() -> bool:
        process.send_signal(signal.SIGINT)  # two that come at one time are one, and one may come while it ends
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        return process.poll() is not None

    eventually(ended)
    assert process.returncode == -signal.SIGINT
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select status from hotmesh.workflows").fetchall() in ([("ready",)], [("running",)])
