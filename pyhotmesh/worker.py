"""Worker: serves task queues with workflow and activity functions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg

from . import __version__, activity, engine, workflow
from .calls import Callback, queue_of
from .client import Client
from .connection import IN_THE_WAY, Listener, connect, conninfo, is_connection_trouble, refusal, translate
from .durations import parse as parse_duration
from .errors import SchemaVersionError
from .heartbeat import Heartbeat
from .interrupts import is_ctrl_c
from .recovery import LeaseEnded, first_line
from .turn import TurnLoop

log = logging.getLogger("pyhotmesh.worker")


class Worker:
    """Runs workflows and activities of one or several task queues until it is stopped.

    ``await worker.run()`` serves until cancelled or ``stop()``; ``async with worker:`` serves while the
    block runs. Several workers, in any processes on any machines, may serve the same queue.

    Args:
        connection: a DSN, or a ``Client`` (whose DSN and namespace are then used).
        task_queue: the queue to serve; or ``task_queues`` for several.
        workflows: functions or classes decorated with ``workflow.defn``.
        activities: a module, an object or an iterable of functions, async or not.
        max_concurrent_runs: workflows with something to do at one time.
        max_concurrent_activities: activities at one time (and threads, for sync ones).
        cache_size: idle workflows kept in memory; 0 replays from the journal at each step.
        lease: seconds after which another worker may take over from one that has died.
        stall_limit: seconds after which a worker whose event loop does not turn gives up its lease.
        graceful_shutdown_timeout: seconds that running activities get to finish when it stops.
        callbacks: of topics; ``MeshCall`` makes them.
        gc_threshold: Python's garbage collector is told to look after this many allocations instead of
            700, in the whole process: a worker holds many objects that live on, and walking them cost a
            quarter of its CPU (measured: 2,400 ten-step workflows a second against 3,500). None leaves
            it alone.
    """

    def __init__(
        self,
        connection: str | Client | None = None,
        *,
        task_queue: str | None = None,
        task_queues: Sequence[str] | None = None,
        workflows: Iterable[Any] = (),
        activities: Any = (),
        namespace: str | None = None,
        name: str | None = None,
        max_concurrent_runs: int = 2000,
        max_concurrent_activities: int = 200,
        cache_size: int | None = None,
        lease: float | str = 10.0,
        stall_limit: float | str = 300.0,
        graceful_shutdown_timeout: float | str = 10.0,
        notification_connection: str | None = None,
        gc_threshold: int | None = 20_000,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        if isinstance(connection, Client):
            self._dsn = connection.dsn
            self.namespace = namespace or connection.namespace
            notification_connection = notification_connection or connection.notification_dsn
        else:
            self._dsn = conninfo(connection)
            self.namespace = namespace or "default"
        self._listen_dsn = conninfo(notification_connection) if notification_connection else self._dsn
        if task_queue and task_queues:
            raise ValueError("give task_queue or task_queues, not both")
        if task_queues is None:
            task_queues = [task_queue or "default"]
        self.task_queues = list(task_queues)
        self.workflows = {d.name: d for d in map(workflow.definition_of, workflows)}
        self.activities = activity.collect(activities)
        self._callbacks = {c.topic: c for c in callbacks}
        self.task_queues += map(queue_of, self._callbacks)
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._max_runs = max_concurrent_runs
        self._max_activities = max_concurrent_activities
        self._cache_size = cache_size
        self._lease = parse_duration(lease)
        self._stall_limit = parse_duration(stall_limit)
        self._grace = parse_duration(graceful_shutdown_timeout)
        self._gc_threshold = gc_threshold
        self._turns: TurnLoop | None = None
        self._listener: Listener | None = None
        self._heartbeat: Heartbeat | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._paused = False
        self._ready = asyncio.Event()

    # ------------------------------------------------------------------------------- public --

    async def run(self) -> None:
        """Serves until ``stop()`` or cancellation; then finishes or hands back what it holds.

        A database that is away is waited for. Raises ``NotConnected`` if the first connection is refused for
        good (no such database or role, a wrong password); after that, nothing the server says ends the worker.
        """
        loop = asyncio.get_running_loop()
        if self._gc_threshold is not None and gc.get_threshold()[0] < self._gc_threshold:
            gc.set_threshold(self._gc_threshold, 50, 100)
        self._listener = Listener(self._listen_dsn, self._heard)
        delay, said = 0.1, ""
        try:
            while not self._stopping:
                try:
                    await self._incarnation(loop)
                    delay, said = 0.1, ""
                except LeaseEnded:
                    log.warning("worker %s lost its lease; registering anew", self.name)
                except (psycopg.Error, OSError) as error:
                    if isinstance(error, psycopg.Error) and not (is_connection_trouble(error) or error.sqlstate in IN_THE_WAY):
                        raise translate(error) from error
                    if not self._ready.is_set() and (refused := refusal(error)):
                        raise refused from error
                    if said != (said := first_line(error)):
                        log.warning("no connection (%s); trying again", said)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, 5.0)
        finally:
            await self._listener.close()

    async def serve(self, callback: Callback) -> None:
        """Serves a topic's calls too, with this function, from now on; see ``MeshCall``, which is the way to it."""
        self._callbacks[callback.topic] = callback
        queue = queue_of(callback.topic)
        if queue in self.task_queues:
            return
        self.task_queues.append(queue)
        if self._turns is not None:
            await self._add_queue(self._turns, queue)

    def stop(self) -> None:
        """Stops claiming; what runs may finish within the grace period, the rest is handed back.

        A second call abandons what still runs: another worker takes it over at once.
        """
        turns, again = self._turns, self._stopping
        self._stopping = True
        if turns is None:
            return
        turns.stop()
        if again:
            log.info("%s abandons what still runs", self.name)
            turns.abandon()
            return
        if turns.work.is_busy:
            log.info("%s is stopping: activities may end within %g s; a second signal abandons them", self.name, self._grace)
        if self._grace != float("inf"):
            asyncio.get_running_loop().call_later(self._grace, turns.abandon)

    def pause(self) -> None:
        """Takes no new work until ``resume()``; what it holds goes on. Also before it runs: it then
        connects and registers, and waits. The engine learns of it with the next turn: a workflow that is
        started in these milliseconds may still be given to this worker."""
        self._paused = True
        if self._turns is not None:
            self._turns.take(False)

    def resume(self) -> None:
        """Takes work again."""
        self._paused = False
        if self._turns is not None and not self._stopping:
            self._turns.take(True)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name="hotmesh-worker")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()  # nobody will leave the block: it would look for its database for ever
            raise
        finally:
            ready.cancel()
        if self._task.done():
            await self._task
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if self._task is not None:
            await self._task

    def run_forever(self) -> None:
        """Blocking: serves until SIGINT or SIGTERM; a second signal abandons what still runs."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):
                    loop.add_signal_handler(number, self.stop)
            await self.run()

        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            loop = runner.get_loop()
            serving = loop.create_task(main(), name="hotmesh-worker")
            while not serving.done():
                try:
                    loop.run_until_complete(serving)
                except (SystemExit, KeyboardInterrupt) as error:
                    # Out of a task or callback of an activity's own. The task has it as its outcome, and gives it to
                    # whoever awaits it; asyncio raises it once more to end the process.
                    if serving.done() or is_ctrl_c(error):
                        raise
                    log.error("user code raised %s beside its activity; the worker goes on", _said(error), exc_info=error)

    # ------------------------------------------------------------------------------ internal --

    async def _add_queue(self, turns: TurnLoop, queue: str) -> None:
        conn = await connect(self._dsn)
        try:
            cursor = await conn.execute(engine.SERVE, (turns.held.worker_id, self.namespace, [queue]))
            row = await cursor.fetchone()
            assert row is not None
        finally:
            await conn.close()
        turns.serve({row[0][0]: queue})

    async def _incarnation(self, loop: asyncio.AbstractEventLoop) -> None:
        """One life of the worker: from registration to the end of its lease, or a clean end."""
        worker_id = engine.new_id()
        names = list(self.task_queues)
        conn = await connect(self._dsn)
        try:
            await _check_schema(conn)
            cursor = await conn.execute(
                engine.REGISTER,
                (worker_id, self.name, self.namespace, names, self._lease, __version__),
            )
            row = await cursor.fetchone()
            assert row is not None and self._listener is not None
            queues = dict(zip(row[0], names, strict=True))
        finally:
            await conn.close()
        turns = TurnLoop(
            dsn=self._dsn, worker_id=worker_id, name=self.name, namespace=self.namespace, queues=queues,
            workflows=self.workflows, activities=self.activities, callbacks=self._callbacks, max_runs=self._max_runs,
            max_activities=self._max_activities, cache_size=self._cache_size, lease=self._lease,
            is_listening=lambda: self._listener is not None and self._listener.alive, on_new_id=self._renamed,
        )  # fmt: skip
        self._turns = turns
        for queue in self.task_queues[len(names) :]:  # connected while this one registered
            await self._add_queue(turns, queue)
        try:
            if self._listener.started:
                await self._listener.replace(f"hotmesh_{worker_id}", worker_id)
            else:
                await self._listener.start("hotmesh_all", "hotmesh_0", f"hotmesh_{worker_id}", presence=worker_id)
        except (psycopg.Error, OSError) as error:
            log.warning("notifications are not available (%s); polling", error)
        self._heartbeat = heartbeat = Heartbeat(
            self._dsn, worker_id, lease=self._lease, stall_limit=self._stall_limit,
            turned_at=lambda: turns.turned_at, beats=turns.work.take_beats, on_lost=turns.work.beats_lost,
            on_dead=lambda: _threadsafe(loop, turns.held.wake),
            on_gone=lambda *task: _threadsafe(loop, turns.work.task_gone, *task),
        )  # fmt: skip
        turns.work.on_beat = heartbeat.send_by
        heartbeat.start()
        ticker = asyncio.create_task(_tick(turns, heartbeat))
        turns.held.claiming = not (self._paused or self._stopping)
        turns.held.stopping = self._stopping
        self._ready.set()
        clean = False
        try:
            await turns.run()
            clean = True
        except asyncio.CancelledError:
            clean = True
            raise
        finally:
            ticker.cancel()
            heartbeat.stop()
            self._turns = None
            await turns.close()
            if clean:
                await self._retire(turns.held.worker_id)

    async def _retire(self, worker_id: int) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            conn = await connect(self._dsn)
            try:
                await conn.execute(engine.RETIRE, (worker_id,))
            finally:
                await conn.close()

    async def _renamed(self, old: int, new: int) -> None:
        if self._heartbeat is not None:
            self._heartbeat.worker_id = new
        if self._listener is not None:
            await self._listener.replace(f"hotmesh_{new}", new)

    def _heard(self, channel: str, payload: str) -> None:
        if self._heartbeat is not None and channel in ("hotmesh_0", "hotmesh_all"):  # schedules have changed; the clock has
            self._heartbeat.look_at_schedules()
        if self._turns is None or channel == "hotmesh_0":
            return
        if payload.startswith("["):
            self._turns.given(payload)
        elif " " in payload:
            run_id, inbox_id, command, message = payload.split(" ", 3)
            self._turns.feeder.pushed(int(run_id), int(inbox_id), int(command), message)
        elif channel == "hotmesh_all":
            self._turns.told_of_commit()
        else:
            self._turns.held.wake()


def _said(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _check_schema(conn: psycopg.AsyncConnection[Any]) -> None:
    """A worker may be older than the schema, which keeps what older ones call. One that is newer would find
    out in the middle of its work."""
    try:
        cursor = await conn.execute(engine.REVISION)
        row = await cursor.fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return
    if row is not None and row[0] < engine.NEEDS:
        raise SchemaVersionError(
            f"the schema of pyhotmesh is at revision {row[0]}, this version ({__version__}) needs {engine.NEEDS}",
            hint="run: hotmesh db upgrade --dsn ...",
        )


async def _tick(turns: TurnLoop, heartbeat: Heartbeat) -> None:
    """Shows the heartbeat that the loop turns, also while a turn waits for the database."""
    while True:
        turns.turned_at = time.monotonic()
        heartbeat.cut_if_stuck()
        await asyncio.sleep(0.5)


def _threadsafe(loop: asyncio.AbstractEventLoop, function: Any, *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has closed
        loop.call_soon_threadsafe(function, *args)
