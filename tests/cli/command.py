"""The command `hotmesh`, run as a user runs it, and a module for it to serve."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from pyhotmesh.cli import main

APP = """
import asyncio, os
from pyhotmesh import ApplicationError, RetryPolicy, Worker, workflow

async def pid():
    return os.getpid()

async def unlucky():
    raise ApplicationError("not today", non_retryable=True)

async def endless():
    print("endless has begun", flush=True)
    await asyncio.sleep(3600)

@workflow.defn
async def hello(name):
    return f"Hello, {name}!"

@workflow.defn
async def who():
    return await workflow.execute_activity(pid)

@workflow.defn
async def failing():
    return await workflow.execute_activity(unlucky)

@workflow.defn
async def waiter(key):
    return await workflow.wait_for(key)

@workflow.defn
async def stuck():
    return await workflow.execute_activity(endless)

def worker():
    return Worker(workflows=[hello, who, failing, waiter, stuck], activities=[pid, unlucky, endless],
                  max_concurrent_activities=1)
not_a_worker = 7
"""


class HotMesh:
    """The command, on one database, in one directory."""

    def __init__(self, directory: Path, dsn: str | None) -> None:
        self.directory = directory
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.env.pop("HOTMESH_DATABASE_URL", None)
        if dsn is not None:
            self.env["HOTMESH_DATABASE_URL"] = dsn
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it prints (and what it complains of), if it ends with this exit code."""
        done = subprocess.run(
            self._command(arguments), cwd=self.directory, env=self.env, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command in the background; it is killed at the end of the test."""
        process = subprocess.Popen(
            self._command(arguments), cwd=self.directory, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "pyhotmesh.cli", *arguments]


def ended(*arguments: str, database: str, code: int = 0) -> str:
    """What the command prints, run in this process, if it ends with this exit code."""
    done = CliRunner(env={"HOTMESH_DATABASE_URL": database}).invoke(main, arguments)
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def read_until(process: subprocess.Popen[str], *texts: str) -> str:
    """Reads what the process prints until all texts have been seen; it is killed if they do not come."""
    assert process.stdout is not None
    limit = threading.Timer(30, process.kill)
    limit.start()
    seen = ""
    try:
        while not all(text in seen for text in texts):
            line = process.stdout.readline()
            assert line, f"it ended without {texts}:\n{seen}"
            seen += line
    finally:
        limit.cancel()
    return seen


def eventually(condition: Callable[[], bool], within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
