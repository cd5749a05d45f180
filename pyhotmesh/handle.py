"""Handles: one workflow, by id."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from . import engine, joined, payloads
from .durations import parse as parse_duration
from .errors import WorkflowNotFound

if TYPE_CHECKING:
    from .client import Client


CLOSED = ("completed", "failed", "cancelled", "interrupted", "timed_out")


class Handle:
    """A workflow, by its id. Made without a round trip; stands for the run it was made for, or, made by
    ``client.get_handle``, for the open run of that id and else the newest one kept."""

    __slots__ = ("_client", "_hint", "run_id", "workflow_id")

    def __init__(
        self, client: Client, workflow_id: str, run_id: int | None = None,
        hint: asyncio.Future[tuple[int, str | None]] | None = None,
    ) -> None:  # fmt: skip
        self._client = client
        self._hint = hint  # its outcome will come to it, if this client was registered with the start
        self.workflow_id = workflow_id
        self.run_id = run_id

    def __repr__(self) -> str:
        return f"Handle({self.workflow_id!r})"

    async def result(self, timeout: Any = None) -> Any:
        """Waits for the end and returns the workflow's value.

        Raises ``WorkflowFailed`` (``.cause``), ``WorkflowCancelled``, ``WorkflowInterrupted``,
        ``TimeoutError`` (``timeout`` or the execution timeout has passed), and at once
        ``WorkflowNotFound`` for an unknown or expired id.
        """
        limit = None if timeout is None else parse_duration(timeout)
        return await self._client._result(self.workflow_id, await self._run(), limit, self._hint)

    async def status(self) -> str:
        """``ready``, ``running``, ``waiting``, ``troubled``, ``quarantined``, or how it closed."""
        return str((await self.describe())["status"])

    async def describe(self) -> dict[str, Any]:
        """The workflow's row in the view ``hotmesh.workflows``."""
        columns = (
            "namespace, workflow_id, run_id, workflow_type, task_queue, status, priority, created_at, closed_at, "
            "expires_at, due_at, deadline, worker_id, input, result, error, trouble_code, trouble, memo"
        )
        rows = await self._client._rows(f"select {columns} from hotmesh.workflows where run_id = %s", (await self._run(),))
        if not rows:
            raise WorkflowNotFound(f"workflow {self.workflow_id!r} was never committed, or has expired")
        return dict(zip(columns.split(", "), rows[0], strict=True))

    async def history(self) -> list[dict[str, Any]]:
        """What happened to the run, in the order in which its code saw it."""
        columns = "seq, event, command, at, payload, commands"
        rows = await self._client._rows(
            f"select {columns} from hotmesh.history where run_id = %s order by seq nulls last",
            (await self._run(),),
        )
        return [dict(zip(columns.split(", "), row, strict=True)) for row in rows]

    async def cancel(self, reason: str = "cancelled", *, conn: Any = None) -> None:
        """Asks the workflow to end: its code gets a ``CancelledError`` where it waits, may clean up (activities
        too, in ``finally``), and decides how it ends; ``result`` raises ``WorkflowCancelled`` if it lets the
        error through. It sees the first request only. A call's function gets it in the same way, or finds
        ``activity.cancelled()`` true; a call that nobody runs ends at once. Returns once the request is on its way.

        ``conn=`` joins the caller's transaction: the workflow is asked if and only if that commits.

        Raises:
            WorkflowNotFound: it is not open.
        """
        await self._tell("cancel", reason, conn)

    async def interrupt(self, reason: str = "interrupted", *, conn: Any = None) -> None:
        """Ends the workflow at once, whatever its code is doing. ``WorkflowNotFound`` if it is not open.
        ``conn=`` joins the caller's transaction: it ends once that has committed."""
        await self._tell("interrupt", reason, conn)

    async def _tell(self, how: str, reason: str, conn: Any) -> None:
        payloads.text_bytes(reason, "reason")

        async def first(query: str, *params: Any) -> Any:
            if conn is None:
                return await self._client._value(query, params)
            rows = await joined.execute(conn, query, params)
            return rows[0][0] if rows else None

        # By the run, never by the id: a call that is repeated must not end a later run of that id.
        run = self.run_id
        if run is None:
            run = int(await first(engine.OPEN_RUN, self._client.namespace, self.workflow_id))
        else:
            status = await first("select status from hotmesh.workflows where run_id = %s", run)
            if status is None or status in CLOSED:
                raise WorkflowNotFound(f"workflow {self.workflow_id!r} is not open any more: {status or 'expired'}")
        if await first(engine.TELL_RUN, run, how, reason, conn is not None) and conn is None:
            await self._client._route()

    async def _run(self) -> int:
        if self.run_id is None:
            return int(await self._client._value(engine.FIND_RUN, (self._client.namespace, self.workflow_id)))
        return self.run_id
