"""SyncClient: the same calls for blocking programs (Flask, Django, scripts).

One event loop in a thread of its own serves all of them; the calls only wait for it. ``conn=`` runs on
the caller's connection, in the caller's thread.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import events
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

from . import engine, joined, payloads, schedule, starts
from .call import MeshCall
from .client import Client
from .errors import WrongLoop
from .handle import Handle
from .retry import RetryPolicy
from .schedule import ScheduleHandle
from .starts import StartRequest

T = TypeVar("T")


class SyncClient:
    """A blocking ``Client``; arguments as there. Safe to share between threads; not across a fork."""

    def __init__(self, connection: Any = None, **options: Any) -> None:
        self._client = Client(connection, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hotmesh-client", daemon=True)
        self._thread.start()
        self.workflow = SyncWorkflowClient(self)
        self.schedule = SyncScheduleClient(self)

    @property
    def dsn(self) -> str:
        return self._client.dsn

    @property
    def namespace(self) -> str:
        return self._client.namespace

    def signal(self, signal_id: str, payload: Any = None, *, idempotency_key: str | None = None, conn: Any = None) -> None:
        """As ``Client.signal``."""
        if conn is None:
            self._wait(self._client.signal(signal_id, payload, idempotency_key=idempotency_key))
            return
        payloads.check_name(signal_id, "signal_id")
        if idempotency_key is not None:
            payloads.check_name(idempotency_key, "idempotency_key")
        encoded = payloads.encode(payload).decode()
        joined.run(conn, engine.SIGNAL, (self.namespace, signal_id, encoded, idempotency_key, True))

    def get_handle(self, workflow_id: str, task_queue: str | None = None, *, run_id: int | None = None) -> SyncHandle:
        """As ``Client.get_handle``."""
        return SyncHandle(self, self._client.get_handle(workflow_id, task_queue, run_id=run_id))

    def close(self) -> None:
        """Closes the connections and ends the thread."""
        if self._loop.is_running():
            self._run(self._client.close())  # for a moment, also within a loop
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if events._get_running_loop() is not None:
            work.close()
            raise WrongLoop(
                "this call would block the event loop that runs in this thread",
                hint="await the same call of a Client, or make this one in a thread: asyncio.to_thread",
            )
        return self._run(work)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class SyncWorkflowClient:
    """``client.workflow`` of a ``SyncClient``."""

    def __init__(self, client: SyncClient) -> None:
        self._sync = client
        self._workflow = client._client.workflow

    def start(self, workflow: Any, *, conn: Any = None, **options: Any) -> SyncHandle:
        """As ``WorkflowClient.start``."""
        if conn is None:
            return SyncHandle(self._sync, self._sync._wait(self._workflow.start(workflow, **options)))
        conflict = options.pop("id_conflict_policy", "fail")
        reuse = options.pop("id_reuse_policy", "allow_duplicate")
        starts.check_alone(options.pop("search", None), conn)
        starts.check_policies(conflict, reuse)
        request = StartRequest(workflow, **options)
        columns = starts.arguments(self._sync.namespace, [request], [request.id])
        rows = joined.run(conn, engine.START, [*columns, conflict, reuse, False, None, True])
        return SyncHandle(self._sync, Handle(self._sync._client, request.id, rows[0][0]))

    def execute(self, workflow: Any, **options: Any) -> Any:
        """As ``WorkflowClient.execute``."""
        return self._sync._wait(self._workflow.execute(workflow, **options))

    def start_many(self, requests: Iterable[StartRequest], *, id_conflict_policy: str = "fail") -> Sequence[SyncHandle]:
        """As ``WorkflowClient.start_many``."""
        handles = self._sync._wait(self._workflow.start_many(requests, id_conflict_policy=id_conflict_policy))
        return [SyncHandle(self._sync, handle) for handle in handles]

    def list(self, **filters: Any) -> Any:
        """As ``WorkflowClient.list``."""
        return self._sync._wait(self._workflow.list(**filters))

    def count(self, **filters: Any) -> int:
        """As ``WorkflowClient.count``."""
        return self._sync._wait(self._workflow.count(**filters))


class SyncHandle:
    """A blocking ``Handle``."""

    def __init__(self, client: SyncClient, handle: Handle) -> None:
        self._sync = client
        self._handle = handle
        self.workflow_id = handle.workflow_id
        self.run_id = handle.run_id

    def result(self, timeout: Any = None) -> Any:
        """As ``Handle.result``."""
        return self._sync._wait(self._handle.result(timeout))

    def status(self) -> str:
        """As ``Handle.status``."""
        return self._sync._wait(self._handle.status())

    def describe(self) -> dict[str, Any]:
        """As ``Handle.describe``."""
        return self._sync._wait(self._handle.describe())

    def history(self) -> Any:
        """As ``Handle.history``."""
        return self._sync._wait(self._handle.history())

    def cancel(self, reason: str = "cancelled", *, conn: Any = None) -> None:
        """As ``Handle.cancel``."""
        self._sync._wait(self._handle.cancel(reason, conn=conn))

    def interrupt(self, reason: str = "interrupted", *, conn: Any = None) -> None:
        """As ``Handle.interrupt``."""
        self._sync._wait(self._handle.interrupt(reason, conn=conn))


class SyncScheduleClient:
    """``client.schedule`` of a ``SyncClient``."""

    def __init__(self, client: SyncClient) -> None:
        self._sync = client

    def create(self, schedule_id: str, workflow: Any, *, interval: Any, conn: Any = None, **options: Any) -> bool:
        """As ``ScheduleClient.create``."""
        if conn is None:
            work = self._sync._client.schedule.create(schedule_id, workflow, interval=interval, **options)
            return self._sync._wait(work)
        given = {"workflow": workflow, "interval": interval, **options}
        params = schedule.creation(self._sync.namespace, schedule_id, given)
        return bool(joined.run(conn, engine.CREATE_SCHEDULE, params)[0][0])

    __call__ = create

    def get(self, schedule_id: str) -> SyncScheduleHandle:
        """As ``ScheduleClient.get``."""
        return SyncScheduleHandle(self._sync, self._sync._client.schedule.get(schedule_id))

    def list(self, *, limit: int = 1000) -> Any:
        """As ``ScheduleClient.list``."""
        return self._sync._wait(self._sync._client.schedule.list(limit=limit))


class SyncScheduleHandle:
    """A blocking ``ScheduleHandle``."""

    def __init__(self, client: SyncClient, handle: ScheduleHandle) -> None:
        self._sync = client
        self._handle = handle
        self.schedule_id = handle.schedule_id

    def describe(self) -> dict[str, Any]:
        """As ``ScheduleHandle.describe``."""
        return self._sync._wait(self._handle.describe())

    def pause(self, note: str | None = None) -> bool:
        """As ``ScheduleHandle.pause``."""
        return self._sync._wait(self._handle.pause(note))

    def resume(self) -> bool:
        """As ``ScheduleHandle.resume``."""
        return self._sync._wait(self._handle.resume())

    def trigger(self) -> SyncHandle:
        """As ``ScheduleHandle.trigger``."""
        return SyncHandle(self._sync, self._sync._wait(self._handle.trigger()))

    def backfill(self, start: datetime, end: datetime) -> int:
        """As ``ScheduleHandle.backfill``."""
        return self._sync._wait(self._handle.backfill(start, end))

    def update(self, **changes: Any) -> None:
        """As ``ScheduleHandle.update``: what is not named stays, None sets back."""
        self._sync._wait(self._handle.update(**changes))

    def delete(self) -> bool:
        """As ``ScheduleHandle.delete``."""
        return self._sync._wait(self._handle.delete())

    def next_runs(self, n: int = 5) -> list[datetime]:
        """As ``ScheduleHandle.next_runs``."""
        return self._sync._wait(self._handle.next_runs(n))

    def history(self, limit: int = 100) -> list[dict[str, Any]]:
        """As ``ScheduleHandle.history``."""
        return self._sync._wait(self._handle.history(limit))


class SyncMeshCall:
    """A blocking ``MeshCall``; arguments as there. Callbacks run on its thread's loop, sync ones in threads."""

    def __init__(self, connection: Any = None, **options: Any) -> None:
        self._sync = SyncClient(connection.dsn if isinstance(connection, SyncClient) else connection)
        self._mesh = MeshCall(self._sync._client, **options)

    def connect(self, topic: str, callback: Callable[..., Any], *, retry_policy: RetryPolicy | None = None) -> None:
        """As ``MeshCall.connect``."""
        self._sync._wait(self._mesh.connect(topic, callback, retry_policy=retry_policy))

    def exec(self, topic: str, args: Sequence[Any] = (), **options: Any) -> Any:
        """As ``MeshCall.exec``."""
        return self._sync._wait(self._mesh.exec(topic, args, **options))

    def start(self, topic: str, args: Sequence[Any] = ()) -> SyncHandle:
        """As ``MeshCall.start``."""
        return SyncHandle(self._sync, self._sync._wait(self._mesh.start(topic, args)))

    def start_many(self, topic: str, calls: Iterable[Sequence[Any]]) -> Sequence[SyncHandle]:
        """As ``MeshCall.start_many``."""
        return [SyncHandle(self._sync, handle) for handle in self._sync._wait(self._mesh.start_many(topic, calls))]

    def flush(self, topic: str, id: str) -> bool:
        """As ``MeshCall.flush``."""
        return self._sync._wait(self._mesh.flush(topic, id))

    def interrupt(self, topic: str, id: str, reason: str = "interrupted") -> bool:
        """As ``MeshCall.interrupt``."""
        return self._sync._wait(self._mesh.interrupt(topic, id, reason))

    def cron(self, topic: str, callback: Callable[..., Any] | None = None, **options: Any) -> bool:
        """As ``MeshCall.cron``."""
        return self._sync._wait(self._mesh.cron(topic, callback, **options))

    def close(self) -> None:
        """As ``MeshCall.close``; also ends the thread."""
        self._sync._wait(self._mesh.close())
        self._sync.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
