"""The worker's second connection, in a thread of its own: heartbeats and duties.

A thread, so that user code that blocks the event loop does not lose the lease. But a worker whose
loop has not turned for ``stall_limit`` seconds holds its runs for nothing: then the heartbeats stop,
and the stack that blocks is logged.

Duties (sweep, deadlines, schedules, retention) are short transactions that any worker may do at any time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg

from . import engine
from .connection import connect_sync, is_connection_trouble
from .direct import ANSWER
from .wire import Int4s, Int8s, Jsons

log = logging.getLogger("pyhotmesh.worker")

Duty = Callable[[psycopg.Connection[Any]], float | None]

SWEEP_EVERY = 5.0
DEADLINES_EVERY = 0.5
PRUNE_EVERY = 60.0
SCHEDULES_EVERY = 1.0  # at the latest: the engine says when the next one is due
SCHEDULES_PAUSE = 0.02  # between two looks at the bidding of others: a bound of what a storm of changes costs


class Beat(NamedTuple):
    """A running activity that has a row. ``details``: of a sign of life that has not been sent; else None."""

    run: int
    command: int
    attempt: int
    details: bytes | None


class Heartbeat(threading.Thread):
    """Keeps one incarnation's lease. Callbacks are called on this thread."""

    def __init__(
        self,
        dsn: str,
        worker_id: int,
        *,
        lease: float,
        stall_limit: float,
        turned_at: Callable[[], float],
        beats: Callable[[], Sequence[Beat]],
        on_lost: Callable[[Sequence[Beat]], None],
        on_dead: Callable[[], None],
        on_gone: Callable[[int, int, int], None],
    ) -> None:
        super().__init__(name="hotmesh-heartbeat", daemon=True)
        self.worker_id = worker_id
        self._dsn = dsn
        self._lease = lease
        self._stall_limit = stall_limit
        self._turned_at = turned_at
        self._beats = beats
        self._on_lost = on_lost
        self._on_dead = on_dead
        self._on_gone = on_gone
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._stalled = False
        self._said: set[str] = set()
        self._soon = float("inf")  # monotonic: an activity's sign of life is to be sent by then
        self._look = False  # a schedule may have become due
        self._looked = 0.0  # monotonic
        self._doing: tuple[psycopg.Connection[Any], float] | None = None  # a duty: on which connection, since when

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    def send_by(self, at: float) -> None:
        """An activity has shown a sign of life that cannot wait for the next round. From any thread."""
        if at < self._soon:
            self._soon = at
            self._woken.set()

    def cut_if_stuck(self) -> None:
        """Ends a connection over which no answer comes; nothing but its socket can be reached from another thread."""
        doing = self._doing
        if doing is not None and time.monotonic() - doing[1] > ANSWER:
            with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(doing[0].fileno())) as theirs:
                theirs.shutdown(socket.SHUT_RDWR)

    def look_at_schedules(self) -> None:
        """Something has changed that may have made a schedule due earlier. From any thread."""
        self._look = True
        self._woken.set()

    def run(self) -> None:
        conn: psycopg.Connection[Any] | None = None
        due: dict[Duty, float] = {
            self._beat: 0.0, self._schedules: 0.0, self._deadlines: 0.0,
            self._sweep: time.monotonic() + SWEEP_EVERY * random.random(),
            self._prune: time.monotonic() + PRUNE_EVERY * random.random(),
        }  # fmt: skip
        every: dict[Duty, float] = {
            self._beat: self._lease / 4, self._schedules: SCHEDULES_EVERY, self._deadlines: DEADLINES_EVERY,
            self._sweep: SWEEP_EVERY, self._prune: PRUNE_EVERY,
        }  # fmt: skip
        delay = 0.1
        while not self._stopped.is_set():
            try:
                if conn is None or conn.closed:
                    conn = connect_sync(self._dsn)
                self._woken.clear()
                due[self._beat] = min(due[self._beat], self._soon)
                if self._look:
                    self._look = False
                    due[self._schedules] = min(due[self._schedules], self._looked + SCHEDULES_PAUSE)
                for duty, at in list(due.items()):
                    if at <= time.monotonic() and not self._stopped.is_set():
                        wait = self._do(duty, conn)
                        due[duty] = time.monotonic() + (every[duty] if wait is None else min(wait, every[duty]))
                delay = 0.1
            except (psycopg.Error, OSError) as error:
                log.debug("heartbeat: %s", error)
                if conn is not None:
                    conn.close()
                conn = None
                self._stopped.wait(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 2.0)
                continue
            except Exception:  # a worker without a heartbeat is a worker lost, and this thread has no other
                log.exception("the heartbeat failed; it goes on")
                self._stopped.wait(1.0)
            if not self._look:
                self._woken.wait(max(0.01, min(*due.values(), self._soon) - time.monotonic()))
        if conn is not None:
            conn.close()

    def _do(self, duty: Duty, conn: psycopg.Connection[Any]) -> float | None:
        """One duty; seconds until it is wanted again, if it knows. What it fails on is said once, and keeps none
        of the others waiting."""
        self._doing = conn, time.monotonic()
        try:
            return duty(conn)
        except psycopg.Error as error:
            if is_connection_trouble(error) or duty == self._beat:
                raise
            if str(error) not in self._said:
                self._said.add(str(error))
                log.warning("%s failed: %s", duty.__name__.strip("_"), error)
            return None
        finally:
            self._doing = None

    def _beat(self, conn: psycopg.Connection[Any]) -> None:
        silent = time.monotonic() - self._turned_at()
        if silent > self._stall_limit:
            if not self._stalled:
                self._stalled = True
                frame = sys._current_frames().get(self._loop_thread)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
                log.error(
                    "the event loop has not turned for %.0f s: this worker gives up its lease. It is here:\n%s",
                    silent,
                    stack,
                )
            return
        self._stalled = False
        worker = self.worker_id
        self._soon = float("inf")
        beats = self._beats()
        try:
            row = conn.execute(
                engine.HEARTBEAT,
                (worker, Int8s(b.run for b in beats), Int4s(b.command for b in beats),
                 Int4s(b.attempt for b in beats), Jsons(b.details for b in beats)),
            ).fetchone()  # fmt: skip
        except BaseException:
            self._on_lost(beats)
            raise
        assert row is not None
        alive, gone_run, gone_command = row
        if not alive:  # what it held has moved, perhaps to this worker's own next incarnation
            if worker == self.worker_id:
                self._on_dead()
            return
        attempts = {(b.run, b.command): b.attempt for b in beats}
        for run, command in zip(gone_run or (), gone_command or (), strict=True):
            self._on_gone(run, command, attempts[run, command])

    def _sweep(self, conn: psycopg.Connection[Any]) -> None:
        while not self._stopped.is_set():
            row = conn.execute(engine.SWEEP, (self.worker_id,)).fetchone()
            if row is None or row[0] < 10_000:
                return

    def _deadlines(self, conn: psycopg.Connection[Any]) -> None:
        while not self._stopped.is_set():
            row = conn.execute(engine.DEADLINES).fetchone()
            if row is None or row[0] < 500:
                return

    def _schedules(self, conn: psycopg.Connection[Any]) -> float:
        row = conn.execute(engine.FIRE_SCHEDULES).fetchone()
        assert row is not None
        self._looked = time.monotonic()
        return float(row[1])

    def _prune(self, conn: psycopg.Connection[Any]) -> None:
        for _ in range(100):
            row = conn.execute(engine.PRUNE).fetchone()
            if row is None or row[0] < 1000:
                return
