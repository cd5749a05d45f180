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

from pyhotmesh.demo import show
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
        [sys.executable, "-m", "pyhotmesh.cli", "demo"],
        env={**os.environ, "TMPDIR": str(server_directory)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "two workers serve", "500 workflows started", "SIGKILL for worker B", "its lease has ended",
        "500 of 500 finished", "sent in reverse order, arrive where they belong",
        "a sleeping workflow is a row that is due later", "workflows without activities", "What SQL says",
        "from hotmesh.workflows", "from demo_log", "from hotmesh.workers", "from hotmesh.history", "All results are right",
    ):  # fmt: skip
        assert part in done.stdout, done.stdout
    took = re.search(r"The demonstration took ([\d.]+) s", done.stdout)
    assert took is not None, done.stdout
    # 30 s at most with the machine to itself, of which 5 to 10 pass until the lease ends; here others run beside it.
    assert float(took[1]) <= 2 * show.PROMISED, done.stdout
    ended = re.search(r"([\d.]+) s after the kill: its lease has ended", done.stdout)
    assert ended is not None, done.stdout
    assert float(ended[1]) > 3, "5 s after its last sign of life, which was at most 1.25 s ago"


def test_the_demonstration_fails_if_a_result_is_wrong(server_directory: Path) -> None:
    """An activity that greets somebody else."""
    (server_directory / "sitecustomize.py").write_text(
        "from pyhotmesh.demo import activities\n"
        "say = activities._say\n"
        "activities._say = lambda text: say(text.replace('guest 7!', 'guest 8!'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyhotmesh.cli", "demo", "--workflows", "10"],
        env={**os.environ, "TMPDIR": str(server_directory), "PYTHONPATH": str(server_directory)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "wrong: greet-7: ['Hello, guest 8!', '¡Hola, guest 8!']" in done.stdout
    assert "Not all results are right." in done.stdout
    assert "The workers' log ends with:" in done.stdout and "A serves demo" in done.stdout


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
