"""Several processes of one command: started again when they die, signals handed on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

log = logging.getLogger("pyhotmesh.worker")

USAGE = 2  # exit code: bad arguments or no way into the database; another try would end the same way
CALM = 10.0  # seconds after which a process counts as well
MAX_DELAY = 30.0


class Supervisor:
    """Keeps `count` processes of `command` alive until it is told to stop.

    The command gets `--until-eof FD`, a pipe that closes when the supervisor dies, however it does.
    """

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = list(command)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._born: dict[int, float] = {}
        self._due = dict.fromkeys(range(count), 0.0)  # slot: when to start it
        self._delay = dict.fromkeys(range(count), 0.5)
        self._first = set(range(count))  # slots whose first process has not ended yet
        self._stopping = False
        self._code = 0

    def run(self) -> int:
        """Blocking; returns the exit code: 0 after a signal, that of the command if it cannot run."""
        read, write = os.pipe()
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._children or not self._stopping:
                self._start_due(read)
                self._reap()
                # A signal ends the sleep only after its handler; a death is noticed within it.
                time.sleep(0.05)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for child in self._children.values():
                child.kill()
            os.close(read)
            os.close(write)
        return self._code

    def _start_due(self, pipe: int) -> None:
        for slot, due in list(self._due.items()):
            if self._stopping or due > time.monotonic():
                continue
            del self._due[slot]
            # A process group of its own, or a terminal's Ctrl-C would reach it twice.
            self._children[slot] = subprocess.Popen([*self._command, "--until-eof", str(pipe)], pass_fds=[pipe], process_group=0)
            self._born[slot] = time.monotonic()

    def _reap(self) -> None:
        for slot, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            del self._children[slot]
            if self._stopping:
                continue
            first = slot in self._first
            self._first.discard(slot)
            if code == USAGE and first:  # later it may be mended, and others of them still serve
                self._code = code
                self._stop(signal.SIGTERM)
                continue
            lived = time.monotonic() - self._born[slot]
            self._delay[slot] = 0.5 if lived > CALM else min(self._delay[slot] * 2, MAX_DELAY)
            self._due[slot] = time.monotonic() + self._delay[slot]
            log.warning("process %d ended (%s); another starts in %g s", child.pid, _how(code), self._delay[slot])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        for child in list(self._children.values()):
            if child.poll() is None:
                child.send_signal(number)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
