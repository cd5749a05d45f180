"""Worker processes, to be signalled."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from .ledger import ENV

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count(1)


class WorkerProcess:
    """One `python -m bench.chaos.worker`. Ends with its `with` block, if it still lives."""

    def __init__(self, dsn: str, *options: object, ledger: Path | None = None, lease: float = 1.0, sweep: float = 0.25) -> None:
        self.name = f"chaos-{os.getpid()}-{next(_numbers)}"
        self.dsn = dsn
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        words = [dsn, "--name", self.name, "--lease", lease, "--sweep-every", sweep, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.chaos.worker", *map(str, words)], cwd=ROOT, stderr=self._log, stdout=self._log,
            env=os.environ | ({ENV: str(ledger)} if ledger else {}),
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def registered(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether it serves."""
        return conn.execute("select from hotmesh.workers where name = %s and status <> 'dead'", (self.name,)).rowcount > 0

    def released(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether the engine has taken everything away from it."""
        query = "select from hotmesh.workers where name = %s and (status <> 'dead' or runs > 0 or activities > 0)"
        return conn.execute(query, (self.name,)).rowcount == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
        if kind is not None:
            print(f"-- {self.name} (pid {self.pid}) said:\n{self.log}")


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
