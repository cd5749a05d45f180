"""MeshCall: connect any function to a topic, call it from anywhere, cache its answer."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from psycopg_pool import AsyncConnectionPool

from . import engine, payloads, schedule
from .calls import Callback, callback, queue_of, workflow_id
from .client import Client
from .durations import Duration
from .durations import parse as parse_duration
from .errors import CallFailed, PayloadError, ScheduleNotFound, TimeoutError, WorkflowFailed, WorkflowNotFound
from .handle import Handle
from .ids import guid, guid_bytes
from .results import unwrap
from .retry import RetryPolicy
from .starts import StartRequest, interval
from .worker import Worker

F = TypeVar("F", bound=Callable[..., Any])

FLUSHED = -1  # not a status of a run: it runs, and was flushed, so that its value is not for who comes now
RETENTION = 3600.0  # seconds that the outcome of a call is kept that is not cached, as call_retention() in SQL


class MeshCall:
    """Calls by topic, through PostgreSQL. Several processes may serve a topic and share its calls.

    ::

        mesh = MeshCall()
        await mesh.connect("greet", lambda name: f"Hello, {name}!")     # serves it until mesh.close()
        await mesh.exec("greet", args=["World"])                        # from any process

    Args:
        connection: a DSN, a psycopg pool (whose DSN is used), a ``Client``, or nothing for
            ``HOTMESH_DATABASE_URL``.
        namespace: topics of different namespaces do not see each other.
        max_concurrent_calls: callbacks at one time in this process (and threads, for sync ones).
        options: for the ``Worker`` that serves connected topics (``name``, ``lease``,
            ``graceful_shutdown_timeout``, ``notification_connection``, ...).

    A callback may run more than once: if its process dies before the result is recorded, another one runs
    it again. The first recorded outcome is the outcome.
    """

    def __init__(
        self,
        connection: str | AsyncConnectionPool[Any] | Client | None = None,
        *,
        namespace: str = "default",
        max_concurrent_calls: int = 200,
        **options: Any,
    ) -> None:
        self.client = Client(connection, namespace=namespace)
        self.namespace = namespace
        self._options = {"max_concurrent_activities": max_concurrent_calls, **options}
        self._callbacks: dict[str, Callback] = {}
        self._worker: Worker | None = None
        self._beginning = asyncio.Lock()
        self._paused = False

    # ------------------------------------------------------------------------------ serving --

    @overload
    def connect(
        self, topic: str, callback: Callable[..., Any], *, retry_policy: RetryPolicy | None = None
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def connect(self, topic: str, *, retry_policy: RetryPolicy | None = None) -> Callable[[F], F]: ...
    def connect(self, topic: str, callback: Any = None, *, retry_policy: RetryPolicy | None = None) -> Any:
        """Serves a topic with a function, async or not, until ``close()``.

        ``await mesh.connect(topic, fn)`` serves when it returns. As a decorator, ``@mesh.connect(topic)``,
        it notes the function; ``async with mesh`` or ``await mesh.serve()`` begins.

        Arguments and result are JSON; where annotations say dataclass, pydantic model, datetime or the
        like, the function is given that. Without ``retry_policy`` an exception goes to the caller at once;
        with one the call is tried again as it says, and a crash of the process counts as a try.
        """
        payloads.check_name(topic, "topic")
        if callback is not None:
            return self._connect(topic, callback, retry_policy)

        def mark(fn: F) -> F:
            self._note(topic, fn, retry_policy)
            return fn

        return mark

    def _note(self, topic: str, fn: Callable[..., Any], retry_policy: RetryPolicy | None) -> Callback:
        definition = callback(topic, fn, retry_policy)
        known = self._callbacks.get(topic)
        if known is not None and known.fn is not fn:
            raise ValueError(f"topic {topic!r} is connected to {known.fn!r} already")
        self._callbacks[topic] = definition
        return definition

    async def _connect(self, topic: str, fn: Callable[..., Any], retry_policy: RetryPolicy | None) -> None:
        self._note(topic, fn, retry_policy)
        await self.serve()

    async def serve(self) -> None:
        """Serves all topics that are connected so far; ``connect`` does that by itself, but for decorators."""
        async with self._beginning:
            if self._worker is not None:
                for definition in list(self._callbacks.values()):
                    await self._worker.serve(definition)
            elif self._callbacks:
                self._worker = self.worker()
                if self._paused:
                    self._worker.pause()
                try:
                    await self._worker.__aenter__()
                except BaseException:
                    self._worker = None
                    raise

    def worker(self) -> Worker:
        """A worker of its own for the functions connected so far, as ``hotmesh worker module:mesh`` runs it."""
        return Worker(self.client, task_queues=[], callbacks=self._callbacks.values(), **self._options)

    def pause(self) -> None:
        """Takes no new calls until ``resume()``; what runs goes on. Also before it serves: it then connects
        and registers, and waits. As with ``Worker.pause``, a call of the next milliseconds may still come."""
        self._paused = True
        if self._worker is not None:
            self._worker.pause()

    def resume(self) -> None:
        """Takes calls again."""
        self._paused = False
        if self._worker is not None:
            self._worker.resume()

    async def close(self) -> None:
        """Serves no more: what runs may end within the grace period, the rest is handed back. Closes the
        connections."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.__aexit__(None, None, None)
        await self.client.close()

    async def __aenter__(self) -> Self:
        await self.serve()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # ------------------------------------------------------------------------------ calling --

    async def exec(
        self,
        topic: str,
        args: Sequence[Any] = (),
        *,
        id: str | None = None,
        ttl: Duration | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Calls the topic's function and returns its value. Waits for somebody to serve the topic, if need be.

        ``id`` alone: while a call of that topic and id is open, all callers share it. ``id`` and ``ttl``:
        its value is also kept, and returned to later callers with a ``ttl``, until ``ttl`` has passed since
        it ended; a call that failed is not kept.

        Raises:
            CallFailed: the function raised; ``.cause`` has its type, message and cause.
            TimeoutError: ``timeout`` has passed. The call goes on.
            WorkflowInterrupted: it was ended by ``interrupt``.
        """
        limit = None if timeout is None else parse_duration(timeout)
        key = workflow_id(topic, payloads.check_name(id, "id") if id is not None else guid())
        results = await self.client._waiting()

        async def ask() -> tuple[bool, asyncio.Future[tuple[int, str | None]]]:
            """Whether the call that there is was flushed, and what becomes of it."""
            with results.expecting():
                if id is None:
                    request = _request(topic, args, key, ttl)
                    rows = await self.client.workflow._start([request], "fail", "allow_duplicate", client=results.client_id)
                    return False, results.future(rows[0][0])
                run_id, status, payload = await self._call(topic, args, id, ttl, results.client_id)
                if status is None or status == FLUSHED:
                    return status == FLUSHED, results.future(run_id)
            ended = asyncio.get_running_loop().create_future()
            ended.set_result((status, payload))
            return False, ended

        flushed, outcome = await ask()
        try:
            async with asyncio.timeout(limit):
                while flushed:
                    await asyncio.shield(outcome)
                    flushed, outcome = await ask()
                ended = await asyncio.shield(outcome)
        except builtins.TimeoutError:
            raise TimeoutError(f"call of {topic!r} has not ended within {limit:g} s; it goes on", kind="result") from None
        try:
            return unwrap(key, *ended)
        except WorkflowFailed as error:
            cause = error.cause
            raise CallFailed(f"call of {topic!r} failed: {cause}", cause=cause) from cause

    async def _call(self, topic: str, args: Sequence[Any], id: str, ttl: Duration | None, client: int) -> Any:
        request = _request(topic, args, workflow_id(topic, id), None)
        keep = None if ttl is None else interval(parse_duration(ttl))
        params = (self.namespace, topic, id, payloads.encode(list(request.args)).decode(), request.request_id, keep, client)
        rows = await self.client._rows(engine.CALL, (*params, False), again=(*params, True))
        return rows[0]

    async def start(self, topic: str, args: Sequence[Any] = ()) -> Handle:
        """Calls without waiting; ``await handle.result()`` is the value, for an hour after it ended."""
        return (await self.start_many(topic, [args]))[0]

    async def start_many(self, topic: str, calls: Iterable[Sequence[Any]]) -> list[Handle]:
        """Many calls of a topic, a list of arguments each, a thousand in a transaction. Without waiting."""
        requests = [_request(topic, args, workflow_id(topic, guid()), None) for args in calls]
        return list(await self.client.workflow.start_many(requests))

    async def flush(self, topic: str, id: str) -> bool:
        """Forgets the cached value: the next caller runs the function again. Who waits for a call that is
        running still gets its value, which is not kept then; who comes with a ``ttl`` after the flush waits for
        its end, and runs the function again. True if there was either."""
        payloads.check_name(topic, "topic")
        payloads.check_name(id, "id")
        return bool(await self.client._value(engine.FLUSH_CALL, (self.namespace, topic, id)))

    async def interrupt(self, topic: str, id: str, reason: str = "interrupted") -> bool:
        """Ends the running call of that id at once; its callers get ``WorkflowInterrupted``. A cron of that id
        ends too: what it has started goes on. True if there was either."""
        payloads.check_name(topic, "topic")
        payloads.check_name(id, "id")
        found = topic_of(await self._schedule(id)) == topic and await self.client.schedule.get(id).delete()
        try:
            await self.client.get_handle(workflow_id(topic, id)).interrupt(reason)
        except WorkflowNotFound:
            return found
        return True

    # ------------------------------------------------------------------------------ schedules --

    async def cron(
        self,
        topic: str,
        callback: Callable[..., Any] | None = None,
        *,
        id: str,
        interval: Any,
        args: Sequence[Any] = (),
        delay: Duration | None = None,
        max_cycles: int | None = None,
        time_zone: str = "UTC",
        overlap: str = "skip",
        catchup: Any = "1 minute",
        jitter: Duration | None = None,
    ) -> bool:
        """Has the topic called again and again: by a cron expression, or after an interval such as ``"1 day"``.

        True if this call created it, False if it was there already: of any number of processes that ask, one
        creates it, and each slot calls once. With ``callback`` this process serves the topic in any case. A
        call that fails never ends its cron. The other arguments are those of ``client.schedule.create``;
        ``client.schedule.get(id)`` pauses it, lists its next runs and what became of them.

        Raises:
            InvalidSchedule, InvalidDuration: what the interval should be, and where it is wrong.
            ValueError: the id belongs to something else.
        """
        payloads.check_name(topic, "topic")
        given = {
            "kind": "call", "interval": interval, "args": args, "delay": delay, "max_cycles": max_cycles, "time_zone": time_zone,
            "overlap": overlap, "catchup": catchup, "jitter": jitter,
        }  # fmt: skip
        schedule.creation(self.namespace, id, {"workflow": topic, **given})  # refused before anything is served
        known = self._callbacks.get(topic)
        if callback is not None and (known is None or known.fn is not callback):  # else with the policy that it has
            await self._connect(topic, callback, None)
        elif callback is not None:
            await self.serve()
        created = await self.client.schedule.create(id, topic, **given)
        if not created and (found := await self._schedule(id)) is not None and topic_of(found) != topic:
            kind = "schedule of workflow" if topic_of(found) is None else "cron of topic"
            raise ValueError(f"id {id!r} is that of a {kind} {found['workflow_type']!r}: choose another")
        return created

    async def _schedule(self, id: str) -> dict[str, Any] | None:
        try:
            return await self.client.schedule.get(id).describe()
        except ScheduleNotFound:
            return None


def topic_of(schedule: dict[str, Any] | None) -> str | None:
    """The topic that a schedule calls; None if it starts workflows, or is not there."""
    if schedule is None or schedule["task_queue"] != queue_of(schedule["workflow_type"]):
        return None
    return str(schedule["workflow_type"])


def _request(topic: str, args: Sequence[Any], key: str, ttl: Duration | None) -> StartRequest:
    payloads.check_name(topic, "topic")
    if ttl is not None:
        raise PayloadError("ttl", "needs an id: it is what the value is kept under", "pass id= as well")
    if not isinstance(args, Sequence) or isinstance(args, str | bytes):
        raise PayloadError("args", f"must be a list of the arguments, not {args!r:.100}")
    return StartRequest(topic, args, queue_of(topic), key, retention=RETENTION, raw_id=guid_bytes())
