"""Executing entities' functions: on a record of their own, and later on one that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import documents, engine, payloads
from ..client import Client
from ..durations import Duration
from ..durations import parse as parse_duration
from ..errors import PayloadError
from ..ids import guid
from ..starts import interval
from .spaces import Spaces, queue_of, type_of_hook, workflow_id

RESULT_KEPT = 7 * 86400.0  # seconds, without a ttl


class Executing(Spaces):
    """``exec``, ``hook``, ``interrupt``, ``signal``, ``flush``."""

    async def exec(
        self,
        entity: str,
        args: Sequence[Any] = (),
        *,
        id: str | None = None,
        ttl: Duration | None = None,
        search: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """The result of the entity's function for this id: the one that is there, or of the run under way, or
        of a new one. One that failed is not kept: the next call runs again.

        ``search={"data": {...}}`` is written in the same transaction as the start: the new record's beginning, or set in
        the one that is there (of a run that failed, or made by ``set``), which is this workflow's from now on.
        ``ttl``: how long after its end the workflow is kept, and its record with it; ``"infinity"``, or 7 days
        without it. Both count for the call that starts it; one that joins it, or finds its result, changes neither.

        ``RecordError``: the data do not fit into a record, and nothing has started.
        Raises ``WorkflowFailed`` and the others of ``Handle.result``; ``TimeoutError``: it goes on.
        """
        record = id if id is not None else guid()
        data = documents.beginning(search)
        space = self._space(namespace)
        limit = None if timeout is None else parse_duration(timeout)
        results = await space._waiting()
        run = await self._start(space, entity, record, data, entity, workflow_id(entity, record), args, ttl, results.client_id)
        return await space._result(workflow_id(entity, record), run, limit)

    async def hook(
        self, entity: str, id: str, fn: str | Callable[..., Any], args: Sequence[Any] = (), *, namespace: str | None = None
    ) -> str:
        """Runs one more function within a record that is there, and returns the id of that workflow at once.
        It is one of the ``hooks`` of ``connect``. ``RecordError``: there is no such record; the function gets it as
        well, if it changes the record when that is gone.

        One that no worker serves (a name that is misspelt, or of a server that is yet to come) is taken: its workflow
        waits for one that does. ``hotmesh.workflows`` has it as ``troubled``, and says why; ``interrupt`` ends it too."""
        name = type_of_hook(entity, fn)
        key = f"{workflow_id(entity, id)}:{guid()}"
        await self._start(self._space(namespace), entity, id, None, name, key, args, None, None, hook=True)
        return key

    async def _start(
        self, space: Client, entity: str, record: str, data: str | None, name: str, key: str, args: Sequence[Any],
        ttl: Duration | None, waiter: int | None, *, hook: bool = False,
    ) -> int:  # fmt: skip
        self._entity(entity)
        payloads.check_name(record, "id")
        payloads.check_name(key, "id")
        if not isinstance(args, Sequence) or isinstance(args, str | bytes):
            raise PayloadError("args", f"must be a list of the arguments, not {args!r:.100}")
        kept = interval(RESULT_KEPT if ttl is None else parse_duration(ttl))
        before = [
            space.namespace, entity, record, data, hook, name, key, queue_of(entity), payloads.encode(list(args)).decode(),
            guid(), kept, None,
        ]  # fmt: skip
        rows = await space._rows(engine.START_ON_RECORD, [*before, False, waiter], again=[*before, True, waiter])
        return int(rows[0][0])

    async def interrupt(self, entity: str, id: str, reason: str = "interrupted", *, namespace: str | None = None) -> None:
        """Ends the record's workflow and its hooks at once. ``WorkflowNotFound`` if none is open."""
        payloads.text_bytes(reason, "reason")
        space = self._space(namespace)
        stayed = False
        for (run,) in await space._rows(engine.RUNS_OF_RECORD, self._key(entity, id, namespace)):
            stayed |= bool(await space._value(engine.TELL_RUN, (run, "interrupt", reason, False)))
        if stayed:
            await space._route()

    async def signal(
        self, signal_id: str, payload: Any = None, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> None:
        """As ``Client.signal``."""
        await self._space(namespace).signal(signal_id, payload, idempotency_key=idempotency_key)

    async def flush(self, entity: str, id: str, *, namespace: str | None = None) -> bool:
        """Forgets the record, its history and its result: the next ``exec`` runs anew. A workflow that is open
        goes on. False if there was nothing."""
        return bool(await self._space(namespace)._value(engine.FLUSH_RECORD, self._key(entity, id, namespace)))
