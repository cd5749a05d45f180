"""Client: starts workflows, sends signals, hands out handles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from . import direct, documents, engine, joined, payloads, starts
from .connection import IN_THE_WAY, connect, conninfo, is_connection_trouble, refusal, translate
from .errors import HotMeshError, NotConnected, OutcomeUnknown, WrongLoop
from .handle import Handle
from .loop import WorkflowLoop
from .pool import Pool
from .results import Results, unwrap
from .schedule import ScheduleClient
from .starts import StartRequest
from .wire import Int8s

T = TypeVar("T")
Rows = list[Any]  # WorkflowClient has a method of the name

RETRY_FOR = 30.0  # seconds that a call is repeated while the database cannot be reached
FIRST_FOR = 0.3  # seconds that the first attempt waits for a connection: the pool knows of no refusal
UNKNOWN_AFTER = 0.5  # seconds that a result is awaited before it is asked whether there is such a run
CHUNK = 1000  # starts per statement of start_many


class Client:
    """A way into one database and namespace. Cheap to make; connects at the first call.

    Args:
        connection: a DSN, a psycopg pool (whose DSN is used), another client (whose connections are shared, and
            stay open until the last that used them is closed), or nothing for ``HOTMESH_DATABASE_URL``.
            ``embedded:`` starts a private PostgreSQL.
        namespace: workflows of different namespaces do not see each other.
        notification_connection: a DSN for LISTEN, if ``connection`` goes through a pooler (in session mode:
            settings and prepared statements stay with a connection).
        pool_size: connections at most, of a client and those that share them.

    Every call waits up to 30 s for a database that cannot be reached, then raises ``NotConnected``; at once if
    the first connection is refused for good (no such database or role, a wrong password).
    """

    def __init__(
        self,
        connection: str | AsyncConnectionPool[Any] | Client | None = None,
        *,
        namespace: str = "default",
        notification_connection: str | None = None,
        pool_size: int = 4,
    ) -> None:
        if isinstance(connection, Client):
            self.dsn: str = connection.dsn
            self.notification_dsn: str = connection.notification_dsn
        elif isinstance(connection, AsyncConnectionPool):
            self.dsn = conninfo(str(connection.conninfo))
        else:
            self.dsn = conninfo(connection)
        self.namespace = payloads.check_name(namespace, "namespace")
        if notification_connection or not isinstance(connection, Client):
            self.notification_dsn = conninfo(notification_connection or self.dsn)
        self._pool: Pool = connection._pool if isinstance(connection, Client) else Pool(self.dsn, pool_size)
        self._results: Results | None = None
        self._closed = False
        self._reached = False  # there has been a connection
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that it was first used in
        self.workflow = WorkflowClient(self)
        self.schedule = ScheduleClient(self)

    async def signal(self, signal_id: str, payload: Any = None, *, idempotency_key: str | None = None, conn: Any = None) -> None:
        """Sends a signal to whoever waits for this id, now or later: kept in order for 7 days.

        With ``idempotency_key`` a second signal of that key does nothing, and a lost connection is
        retried; without it, a reply that was lost raises ``OutcomeUnknown``. ``conn=`` joins the
        caller's transaction: the signal is sent if and only if that commits.
        """
        payloads.check_name(signal_id, "signal_id")
        if idempotency_key is not None:
            payloads.check_name(idempotency_key, "idempotency_key")
        encoded = payloads.encode(payload).decode()
        params = (self.namespace, signal_id, encoded, idempotency_key)
        if conn is not None:
            await joined.execute(conn, engine.SIGNAL, (*params, True))
            return
        stayed = await self._value(engine.SIGNAL_EARLY, params, safe=idempotency_key is not None)
        if stayed:
            await self._route()

    def get_handle(self, workflow_id: str, task_queue: str | None = None, *, run_id: int | None = None) -> Handle:
        """A handle by id; no round trip. ``task_queue`` is accepted for symmetry and not needed."""
        payloads.text_bytes(workflow_id, "workflow_id")
        return Handle(self, workflow_id, run_id)

    async def close(self) -> None:
        """Closes the client, and its connections if no other shares them. Who awaits something of it gets
        ``NotConnected``, as do later calls."""
        self._closed = True
        if self._results is not None:
            await self._results.close()
            self._results = None
        await self._pool.leave(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------ internal --

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnected("this client has been closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            if isinstance(loop, WorkflowLoop):
                raise WrongLoop(
                    "workflow code cannot use a client: what it sees would differ on replay",
                    hint="do it in an activity; workflow.signal sends signals",
                )
            self._loop = loop
        elif self._loop is not loop:
            raise WrongLoop(
                "this client has connections that belong to another event loop",
                hint="make a Client in each event loop, or use a SyncClient, which threads may share",
            )

    async def _repeated(self, call: Callable[[Any, bool], Awaitable[T]], *, safe: bool = True) -> T:
        """One call over a connection of the pool. ``safe``: it may be repeated after a lost reply, and is told."""
        deadline = float("inf")
        delay = 0.05
        self._check_open()
        lost = False
        while True:
            sent = False
            try:
                pool = await self._pool.opened(self)
                # Not pool.connection(): its commit of nothing, with autocommit, costs as much as all of this.
                conn = await pool.getconn(None if self._reached else FIRST_FOR)
                try:
                    sent = self._reached = True
                    return await call(conn, lost)
                finally:
                    await pool.putconn(conn)
            except (psycopg.Error, OSError) as error:
                if not sent:
                    self._check_open()
                deadline = min(deadline, time.monotonic() + RETRY_FOR)  # from now on: an answer may be waited for for long
                if isinstance(error, psycopg.Error) and not is_connection_trouble(error):
                    if error.sqlstate in IN_THE_WAY and time.monotonic() < deadline:
                        await asyncio.sleep(delay)
                        delay = min(delay * 2, 1.0)
                        continue
                    raise translate(error) from error
                if sent and not safe:
                    raise OutcomeUnknown(
                        "the connection was lost during the call: it may or may not have happened; "
                        "pass idempotency_key to make it safe to repeat"
                    ) from error
                late = time.monotonic() > deadline
                if late or not self._reached:
                    reason = await self._why(error)
                    if not self._reached and (refused := refusal(reason)):
                        raise refused from reason
                    if late:
                        raise NotConnected(f"the database cannot be reached: {str(reason).strip()}") from error
                if sent:
                    lost = True
                    await pool.check()  # the others of the pool are likely broken too: replaced now, not one by one
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)

    async def _rows(self, query: str, params: Sequence[Any], *, safe: bool = True, again: Sequence[Any] | None = None) -> Rows:
        """One statement; ``again``: its parameters when it is repeated after a lost reply."""

        def call(conn: Any, lost: bool) -> Awaitable[Rows]:
            return direct.fetch(conn, query, again if lost and again is not None else params)

        return await self._repeated(call, safe=safe)

    async def _why(self, error: Exception) -> Exception:
        """The pool knows only that it has no connection; one more attempt tells what the server or the network says."""
        if isinstance(error, PoolTimeout):
            try:
                conn = await connect(self.dsn)
            except (psycopg.Error, OSError) as reason:
                return reason
            await conn.close()
        return error

    async def _value(self, query: str, params: Sequence[Any], *, safe: bool = True) -> Any:
        rows = await self._rows(query, params, safe=safe)
        return rows[0][0] if rows else None

    async def _route(self) -> None:
        """A message stayed because somebody held a lock, mostly for a commit: route it again, for a second at most."""
        delay = 0.001
        while delay < 0.6:
            await asyncio.sleep(delay)
            if not await self._value(engine.ROUTE, ()):
                return
            delay *= 2

    async def _waiting(self) -> Results:
        self._check_open()
        if self._results is None:
            self._results = Results(self.notification_dsn, self._outcomes)
        await self._results.start()
        return self._results

    async def _outcomes(self, run_ids: list[int]) -> list[tuple[int, int, str | None]]:
        client = self._results.client_id if self._results is not None else None
        return await self._rows(engine.OUTCOMES, (Int8s(run_ids), client))

    async def _result(
        self, workflow_id: str, run_id: int, timeout: float | None, hint: asyncio.Future[tuple[int, str | None]] | None = None
    ) -> Any:
        """The result of a run. ``hint``: see ``Results.hint``."""
        results = await self._waiting()
        future, registered = results.take(run_id, hint)
        if not registered:
            ((runs, states, outcomes),) = await self._rows(engine.AWAIT, (Int8s([run_id]), results.client_id))
            results.settle(list(zip(runs or (), states or (), outcomes or (), strict=True)))
        try:
            async with asyncio.timeout(timeout):
                if not registered:
                    # Nearly always open: asked only if nothing comes, or an expired one would be awaited for ever.
                    await asyncio.wait([future], timeout=UNKNOWN_AFTER)
                    if not future.done():
                        await Handle(self, workflow_id, run_id).describe()
                status, payload = await asyncio.shield(future)
        except asyncio.TimeoutError:
            from .errors import TimeoutError

            raise TimeoutError(
                f"workflow {workflow_id!r} has not closed within {timeout:g} s; it goes on", kind="result"
            ) from None
        return unwrap(workflow_id, status, payload)


class WorkflowClient:
    """``client.workflow``: starting workflows and looking at them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def start(
        self,
        workflow: str | Callable[..., Any],
        *,
        args: Sequence[Any] = (),
        task_queue: str = "default",
        workflow_id: str | None = None,
        priority: int = 3,
        start_delay: Any = None,
        execution_timeout: Any = None,
        retention: Any = None,
        search: Mapping[str, Any] | None = None,
        memo: Any = None,
        id_conflict_policy: str = "fail",
        id_reuse_policy: str = "allow_duplicate",
        conn: Any = None,
    ) -> Handle:
        """Starts a workflow and returns its handle; durable when it returns.

        ``id_conflict_policy`` says what an *open* run of the same id means: ``fail`` (raises
        ``WorkflowAlreadyStarted``), ``use_existing``, ``terminate_existing``. ``id_reuse_policy`` says
        what a *closed* one within its retention means: ``allow_duplicate``,
        ``allow_duplicate_failed_only``, ``reject_duplicate``. ``conn=`` (a psycopg or SQLAlchemy
        connection or session) joins the caller's transaction: it starts if and only if that commits.
        ``search={"data": {...}}`` is written in the same transaction as the start: the beginning of the record that
        ``workflow.search()`` works on (entity: the workflow's type, id: its id); not with ``conn=``, whose transaction
        would hold the record until its end. ``RecordError``: the data do not fit into a record, and nothing has started.
        """
        starts.check_alone(search, conn)
        data = documents.beginning(search)
        request = StartRequest(workflow, args, task_queue, workflow_id, priority, start_delay, execution_timeout, retention, memo)
        results = self._client._results
        if conn is not None or results is None or not results.hints:
            rows = await self._start([request], id_conflict_policy, id_reuse_policy, conn=conn, data=data)
            return Handle(self._client, request.id, rows[0][0])
        with results.expecting():
            rows = await self._start([request], id_conflict_policy, id_reuse_policy, client=results.client_id, data=data)
            return Handle(self._client, request.id, rows[0][0], results.hint(rows[0][0]))

    async def execute(self, workflow: str | Callable[..., Any], *, timeout: Any = None, **options: Any) -> Any:
        """Starts a workflow and waits for its result (``timeout``: for so long; it goes on after that)."""
        if options.pop("conn", None) is not None:
            raise HotMeshError("execute cannot join a transaction: the result comes only after its commit; use start")
        conflict = options.pop("id_conflict_policy", "fail")
        reuse = options.pop("id_reuse_policy", "allow_duplicate")
        data = documents.beginning(options.pop("search", None))
        request = StartRequest(workflow, **options)
        from .durations import parse

        limit = None if timeout is None else parse(timeout)
        results = await self._client._waiting()
        with results.expecting():
            rows = await self._start([request], conflict, reuse, client=results.client_id, data=data)
            hint = results.hint(rows[0][0])
        return await self._client._result(request.id, rows[0][0], limit, hint)

    async def start_many(self, requests: Iterable[StartRequest], *, id_conflict_policy: str = "fail") -> Rows:
        """Starts many workflows, a thousand in a transaction; handles in the order of the requests.

        An id that is taken raises ``WorkflowAlreadyStarted``: of its thousand none has started, of
        the thousands before it all have, of the three after it perhaps.
        """
        todo = list(requests)
        chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
        handles: Rows = []
        running: Rows = []
        try:
            for chunk in chunks:  # while three statements run, the next is laid out
                ids = [r.id for r in chunk]
                task = asyncio.create_task(self._start(chunk, id_conflict_policy, "allow_duplicate", ids=ids))
                running.append((ids, task))
                await asyncio.sleep(0)
                if len(running) == 4:
                    self._collect(handles, running[0][0], await running[0][1])
                    running.pop(0)
            for ids, task in running:
                self._collect(handles, ids, await task)
        finally:
            await asyncio.gather(*(task for _, task in running), return_exceptions=True)
        return handles

    def _collect(self, handles: Rows, ids: Sequence[str], rows: list[Any]) -> None:
        client = self._client
        handles.extend([Handle(client, wid, row[0]) for wid, row in zip(ids, rows, strict=True)])

    async def list(self, *, status: str | None = None, workflow_type: str | None = None, limit: int = 100) -> Rows:
        """Newest runs first, as rows of the view ``hotmesh.workflows``."""
        columns = "workflow_id, run_id, workflow_type, task_queue, status, created_at, closed_at"
        rows = await self._client._rows(
            f"select {columns} from hotmesh.workflows where namespace = %s"
            " and (%s::text is null or status = %s) and (%s::text is null or workflow_type = %s)"
            " order by run_id desc limit %s",
            (self._client.namespace, status, status, workflow_type, workflow_type, limit),
        )
        return [dict(zip(columns.split(", "), row, strict=True)) for row in rows]

    async def count(self, *, status: str | None = None, workflow_type: str | None = None) -> int:
        """How many runs there are, open and closed within their retention."""
        value = await self._client._value(
            "select count(*) from hotmesh.workflows where namespace = %s"
            " and (%s::text is null or status = %s) and (%s::text is null or workflow_type = %s)",
            (self._client.namespace, status, status, workflow_type, workflow_type),
        )
        return int(value)

    async def _start(
        self,
        requests: Sequence[StartRequest],
        conflict: str,
        reuse: str,
        *,
        client: int | None = None,
        conn: Any = None,
        ids: Sequence[str] | None = None,
        data: str | None = None,
    ) -> Rows:
        starts.check_policies(conflict, reuse)
        columns = starts.arguments(self._client.namespace, requests, ids or [r.id for r in requests])
        if conn is not None:
            return await joined.execute(conn, engine.START, [*columns, conflict, reuse, False, client, True])
        params, again = ([*columns, conflict, reuse, lost, client] for lost in (False, True))
        if data is not None:
            return await self._client._rows(engine.START_WITH_RECORD, [*params, data], again=[*again, data])
        if len(requests) == 1:
            return await self._client._rows(engine.START_EARLY, params, again=again)
        return await self._client._rows(engine.START, [*params, False], again=[*again, False])
