"""What the tests of calls share: a callback that counts, a process that serves."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Counted:
    """A callback that counts how often it ran, and may be held up."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.runs = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, *args: Any) -> Any:
        self.runs += 1
        await self.go.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return [*args, self.runs]


@contextlib.contextmanager
def server(dsn: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.calls.server", dsn, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        process.wait(20)
