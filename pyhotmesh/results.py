"""Waiting for results: one notification channel a client, many waiters, polls in case a hint is lost."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from . import engine, payloads
from .connection import Listener
from .errors import (
    HotMeshError,
    NotConnected,
    TimeoutError,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowInterrupted,
)

POLL = 1.0
POLL_DEAF = 0.1
HINTS = 100  # starts at most that register this client, and of which nobody has asked for the result
EARLY = 10_000  # outcomes that are kept until it is known whether somebody awaits them
COMPLETED, FAILED, CANCELLED, INTERRUPTED, TIMED_OUT = 1, 2, 3, 4, 5

Fetch = Callable[[list[int]], Awaitable[list[tuple[int, int, str | None]]]]


class Results:
    """Futures of runs that somebody awaits."""

    def __init__(self, listen_dsn: str, fetch: Fetch) -> None:
        self.client_id = engine.new_id()
        self._fetch = fetch
        self._listener = Listener(listen_dsn, self._heard)
        self._waiting: dict[int, asyncio.Future[tuple[int, str | None]]] = {}
        self._expecting = 0  # calls that register this client and have not said for which run
        self._early: dict[int, tuple[int, str | None] | None] = {}  # ended before that; None: not with what
        # Of runs whose start has registered this client although nobody asked for the result yet. Who asks for one later,
        # as most do, need not register, and perhaps not even wait. Whoever never asks is not served so: each hint takes
        # one of the credit, each result that is asked for gives two.
        self._hinted: weakref.WeakValueDictionary[int, asyncio.Future[tuple[int, str | None]]] = weakref.WeakValueDictionary()
        self._hints_of = 0  # the listener's connection of that time: what was sent meanwhile to another is lost
        self._credit = 8
        self._ready: set[int] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Listens; called before the first registration."""
        if self._task is not None:
            return
        async with self._lock:
            if self._task is None:
                try:
                    await self._listener.start(f"hotmesh_{self.client_id}", "hotmesh_all")
                except Exception as error:
                    if not isinstance(error, OSError) and type(error).__module__.split(".")[0] != "psycopg":
                        raise
                self._task = asyncio.create_task(self._run(), name="hotmesh-results")

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a call starts a run whose result is awaited: that may be here before the call says which run it is,
        as a start is acknowledged only when it is flushed. Within it, ask for the run's future."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            if not self._expecting:
                self._early.clear()

    def future(self, run_id: int) -> asyncio.Future[tuple[int, str | None]]:
        future = self._waiting.get(run_id)
        if future is None:
            future = self._waiting[run_id] = asyncio.get_running_loop().create_future()
            if run_id in self._early:
                ended = self._early.pop(run_id)
                if ended is not None:
                    self.settle([(run_id, *ended)])
                else:
                    self._ready.add(run_id)
                    self._wake.set()
        return future

    @property
    def hints(self) -> bool:
        """Whether a start is to register this client, should its result be asked for."""
        return self._listener.alive and self._credit > 0

    def hint(self, run_id: int) -> asyncio.Future[tuple[int, str | None]]:
        """The future of a run whose start has registered this client; it is kept as long as the caller keeps it."""
        self._credit -= 1
        is_awaited = run_id in self._waiting
        future = self.future(run_id)
        if not is_awaited and not future.done() and run_id not in self._ready:
            if self._hints_of != self._listener.lives:
                self._hinted.clear()
                self._hints_of = self._listener.lives
            del self._waiting[run_id]
            self._hinted[run_id] = future
        return future

    def take(
        self, run_id: int, hint: asyncio.Future[tuple[int, str | None]] | None
    ) -> tuple[asyncio.Future[tuple[int, str | None]], bool]:
        """The future of a run whose result is asked for, and whether this client is registered for it already."""
        self._credit = min(self._credit + 2, HINTS)
        if hint is not None:
            if hint.done():
                return hint, True
            if self._hinted.pop(run_id, None) is hint and self._hints_of == self._listener.lives and self._listener.alive:
                self._waiting[run_id] = hint
                return hint, True
        return self.future(run_id), False

    def settle(self, rows: list[tuple[int, int, str | None]]) -> None:
        for run_id, status, payload in rows:
            future = self._waiting.pop(run_id, None) or self._hinted.pop(run_id, None)
            if future is not None:
                if not future.done():
                    future.set_result((status, payload))
            else:
                self._note_early(run_id, (status, payload))

    def _note_early(self, run_id: int, ended: tuple[int, str | None] | None) -> None:
        if self._expecting:
            if len(self._early) >= EARLY:  # of runs that nobody here awaits any more; the next poll finds the others
                self._early.clear()
            self._early[run_id] = ended

    async def check(self, run_ids: list[int]) -> None:
        """Looks once, now."""
        self.settle(await self._fetch(run_ids))

    def _heard(self, channel: str, payload: str) -> None:
        if channel == "hotmesh_all":  # whatever it says is meant for workers
            if not self._listener.alive:
                self._wake.set()
        elif " " in payload:  # an outcome came with it
            run_id, status, outcome = payload.split(" ", 2)
            self.settle([(int(run_id), int(status), outcome)])
        elif payload:
            ended = [int(part) for part in payload.split(",")]
            for run in ended:
                if run not in self._waiting:
                    self._hinted.pop(run, None)  # who asks will ask the server
                    self._note_early(run, None)
            self._ready.update(ended)
            self._wake.set()

    async def _run(self) -> None:
        polled = time.monotonic()
        while True:
            bound = POLL if self._listener.alive else POLL_DEAF
            rest = max(0.0, polled + bound - time.monotonic())
            with suppress(asyncio.TimeoutError):
                async with asyncio.timeout(rest):  # wait_for may swallow a cancellation in 3.11
                    await self._wake.wait()
            self._wake.clear()
            if time.monotonic() - polled >= bound:  # by the clock: who is told of something all the time may miss a hint, too
                polled = time.monotonic()
                self._ready.update(self._waiting)
            ready, self._ready = [r for r in self._ready if r in self._waiting], set()
            for start in range(0, len(ready), 5000):
                try:
                    await self.check(ready[start : start + 5000])
                except (HotMeshError, psycopg.Error):
                    await asyncio.sleep(POLL_DEAF)  # the next poll asks again

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._listener.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NotConnected("the client was closed while the result was awaited; the workflow goes on"))
                future.exception()  # seen, should nobody wait any more


def unwrap(workflow_id: str, status: int, payload: str | None) -> Any:
    """The value of a completed run; the error of any other."""
    raw = payload.encode() if payload is not None else b"null"
    if status == COMPLETED:
        return payloads.decode(raw)
    cause = payloads.decode_failure(raw)
    if status == INTERRUPTED:
        raise WorkflowInterrupted(f"workflow {workflow_id!r} was interrupted: {cause.args[0]}")
    if status == CANCELLED:
        raise WorkflowCancelled(f"workflow {workflow_id!r} was cancelled: {cause.args[0]}")
    if status == TIMED_OUT:
        raise TimeoutError(f"workflow {workflow_id!r}: {cause}", kind="execution")
    raise WorkflowFailed(f"workflow {workflow_id!r} failed: {cause}", cause=cause) from cause
