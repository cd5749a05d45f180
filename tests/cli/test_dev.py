"""`hotmesh dev` and `hotmesh demo`: a private PostgreSQL each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import APP, HotMesh, read_until


@pytest.fixture
def here(server_directory: Path) -> Iterator[HotMesh]:
    """The command in a directory that holds its servers' files as well."""
    (server_directory / "app.py").write_text(APP)
    command = HotMesh(server_directory, None)
    command.env["TMPDIR"] = str(server_directory)
    yield command
    for process in command.processes:
        process.terminate()
        process.communicate()


def test_dev_tells_what_happens(here: HotMesh) -> None:
    dev = here.start("dev", "app:worker")
    found = re.search(r"HOTMESH_DATABASE_URL='(embedded:[^']+)'", read_until(dev, "activities"))
    assert found is not None
    here.env["HOTMESH_DATABASE_URL"] = found[1]
    here("workflow", "start", "waiter", "--arg", '"k"', "--id", "w1")
    read_until(dev, 'waiter("k")', "signal k")
    here("workflow", "signal", "k", "42")
    read_until(dev, "signal_received", "completed")
    here("workflow", "start", "failing", "--id", "f1")
    read_until(dev, "activity_failed", "ApplicationError: not today", "failed")
    dev.terminate()
    dev.communicate(timeout=30)
    assert dev.returncode == 0
    assert (here.directory / ".hotmesh").is_dir(), "the data stay"
    assert '"Hello' not in here("workflow", "list"), "and can be looked at"
    assert "w1" in here("workflow", "list")


def test_the_demonstration_succeeds(server_directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyhotmesh.cli", "demo", "--workflows", "200"],
        env={**os.environ, "TMPDIR": str(server_directory)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "two workers serve", "SIGKILL for worker B", "200 of 200 finished", "sent in reverse order, arrive where they belong",
        "a sleeping workflow is a row that is due later", "workflows without activities", "What SQL says",
        "from hotmesh.workflows", "from demo_log", "from hotmesh.workers", "from hotmesh.history", "All results are right",
    ):  # fmt: skip
        assert part in done.stdout, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demonstration_leaves_nothing(here: HotMesh, number: signal.Signals) -> None:
    demo = here.start("demo")
    workers = re.findall(r"process (\d+)", read_until(demo, "workflows started"))
    assert len(workers) == 2
    assert list(here.directory.glob("hotmesh-*"))
    demo.send_signal(number)
    said, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Traceback" not in said
    assert "pending" not in said
    assert list(here.directory.glob("hotmesh-*")) == []
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
