"""`hotmesh workflow`: start workflows, look at them, end them.

Exit codes: 0 done, 1 an error, 2 no connection (or bad arguments), 3 no such workflow, 4 the workflow
failed, timed out, was cancelled or interrupted, 5 it has not closed within the timeout, 6 its id is taken.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import orjson
import psycopg

from ..client import Client
from ..connection import conninfo
from ..durations import parse as parse_duration
from ..errors import (
    HotMeshError,
    InvalidDuration,
    TimeoutError,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowInterrupted,
    WorkflowNotFound,
)
from ..handle import Handle
from . import output
from .database import dsn_option, failures
from .follow import asked, failure, told

T = TypeVar("T")

NOT_FOUND, NOT_COMPLETED, STILL_OPEN, TAKEN = 3, 4, 5, 6

_WAITING = ("command", "waits_for", "name", "due_at", "collation_group", "arrived")
_ACTIVITIES = ("command", "activity", "task_queue", "status", "attempt", "due_at", "last_failure")

namespace_option = click.option("--namespace", default="default", show_default=True, help="The namespace of the workflow.")
json_option = click.option("--json", "json_", is_flag=True, help="Print JSON, for programs.")
timeout_option = click.option("--timeout", metavar="DURATION", help='How long to wait: seconds, or text such as "5 minutes".')


class Json(click.ParamType[Any]):
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            self.fail(f"{value!r} is not JSON ({error}); a text needs its own quotes: '\"{value}\"'", param, ctx)


@contextmanager
def _outcomes() -> Iterator[None]:
    """Tells errors in a line; the exit code says which."""
    try:
        with failures():
            try:
                yield
            except (WorkflowNotFound, WorkflowAlreadyStarted, InvalidDuration) as error:
                codes: dict[type[Exception], int] = {WorkflowNotFound: NOT_FOUND, WorkflowAlreadyStarted: TAKEN}
                raise _Exit(error, codes.get(type(error), 2)) from None
            except (WorkflowFailed, WorkflowCancelled, WorkflowInterrupted) as error:
                raise _Exit(error, NOT_COMPLETED) from None
            except TimeoutError as error:
                raise _Exit(error, STILL_OPEN if error.kind == "result" else NOT_COMPLETED) from None
    except _Exit as end:
        click.echo(f"Error: {end.error}", err=True)
        sys.exit(end.code)


class _Exit(Exception):
    def __init__(self, error: HotMeshError, code: int) -> None:
        super().__init__()
        self.error = error
        self.code = code


def on_client(dsn: str | None, namespace: str, work: Callable[[Client], Awaitable[T]]) -> T:
    async def main(dsn: str) -> T:
        async with Client(dsn, namespace=namespace) as client:
            return await work(client)

    with _outcomes():
        found = conninfo(dsn)
        # A client waits for a database that is away; somebody at a terminal wants to know at once.
        psycopg.connect(found).close()
        return asyncio.run(main(found))
    raise AssertionError  # the context manager has left the program


@click.group(epilog=__doc__.partition("\n\n")[2] if __doc__ else None)
def workflow() -> None:
    """Start workflows, look at them, end them."""


@workflow.command()
@click.argument("workflow_type", metavar="TYPE")
@dsn_option
@namespace_option
@click.option("--arg", "args", multiple=True, type=Json(), help="An argument, as JSON; repeat it for several.")
@click.option("--id", "workflow_id", help="The workflow's id; a new one without it.")
@click.option("--queue", "-q", default="default", show_default=True, help="The task queue.")
@click.option("--priority", type=click.IntRange(1, 5), default=3, show_default=True, help="1 (first) to 5.")
@click.option("--delay", metavar="DURATION", help='Start it only then: "10 minutes".')
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@timeout_option
@json_option
def start(
    workflow_type: str, dsn: str | None, namespace: str, args: tuple[Any, ...], workflow_id: str | None, queue: str,
    priority: int, delay: str | None, wait: bool, timeout: str | None, json_: bool,
) -> None:  # fmt: skip
    """Start a workflow of TYPE and print its id (with --wait: its result).

    \b
    hotmesh workflow start example --arg '"World"' --id hello-1
    """

    async def work(client: Client) -> tuple[Handle, Any]:
        if timeout is not None:
            parse_duration(timeout)  # nonsense is refused before anything starts
        handle = await client.workflow.start(
            workflow_type, args=args, task_queue=queue, workflow_id=workflow_id, priority=priority, start_delay=delay
        )
        return handle, await handle.result(timeout) if wait else None

    handle, result = on_client(dsn, namespace, work)
    if json_:
        given = {"workflow_id": handle.workflow_id, "run_id": handle.run_id}
        output.print_json(given | {"result": result} if wait else given)
    else:
        click.echo(output.as_json(result) if wait else handle.workflow_id)


@workflow.command("list")
@dsn_option
@namespace_option
@click.option("--status", help="Only these: ready, running, waiting, troubled, quarantined, completed, failed, ...")
@click.option("--type", "workflow_type", help="Only workflows of this type.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
def list_(dsn: str | None, namespace: str, status: str | None, workflow_type: str | None, limit: int, json_: bool) -> None:
    """List the newest workflows."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return await client.workflow.list(status=status, workflow_type=workflow_type, limit=limit)

    rows = on_client(dsn, namespace, work)
    if json_:
        output.print_json(rows)
        return
    columns = ("workflow_id", "workflow_type", "task_queue", "status", "created_at", "closed_at")
    output.print_table(rows, columns)


@workflow.command()
@click.argument("workflow_id")
@dsn_option
@namespace_option
@json_option
def show(workflow_id: str, dsn: str | None, namespace: str, json_: bool) -> None:
    """Show a workflow: its state, what it waits for, its activities, its history."""

    async def work(client: Client) -> dict[str, Any]:
        handle = client.get_handle(workflow_id)
        about = await handle.describe()
        pinned = client.get_handle(workflow_id, run_id=about["run_id"])
        return {
            "workflow": about,
            "waiting": await _of_run(client, "waiting", _WAITING, about["run_id"]),
            "activities": await _of_run(client, "activities", _ACTIVITIES, about["run_id"]),
            "history": await pinned.history(),
        }

    shown = on_client(dsn, namespace, work)
    if json_:
        output.print_json(shown)
    else:
        _print_workflow(shown)


async def _of_run(client: Client, view: str, columns: tuple[str, ...], run_id: int) -> list[dict[str, Any]]:
    rows = await client._rows(f"select {', '.join(columns)} from hotmesh.{view} where run_id = %s order by command", (run_id,))
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _print_workflow(shown: dict[str, Any]) -> None:
    console = output.console()
    about = shown["workflow"]
    console.print(output.status(about["status"]), f" {about['workflow_id']}", style="bold", markup=False)
    for name, value in about.items():
        if value is not None and name not in ("workflow_id", "status", "namespace"):
            text = failure(value) if name == "error" else value if name == "trouble" else output.short(value, 100)
            console.print(f"  {name.replace('_', ' '):<14} {text}", markup=False)
    for part, columns in (("waiting", _WAITING), ("activities", _ACTIVITIES)):
        if shown[part]:
            console.print()
            console.print(output.table(shown[part], columns, title={"waiting": "waits for"}.get(part, part)))
    console.print()
    history = [
        {
            **row,
            "at": output.moment(row["at"], timespec="milliseconds"),
            "payload": told(row["event"], row["payload"]),
            "asked_for": asked(row["commands"]),
        }
        for row in shown["history"]
    ]
    console.print(output.table(history, ("seq", "at", "event", "command", "payload", "asked_for"), title="history"))


@workflow.command()
@click.argument("workflow_id")
@dsn_option
@namespace_option
@timeout_option
def result(workflow_id: str, dsn: str | None, namespace: str, timeout: str | None) -> None:
    """Wait for a workflow's end and print its result as JSON.

    Exit code 3: no such workflow; 4: it failed, timed out, was cancelled or interrupted; 5: it has not
    closed within --timeout.
    """

    async def work(client: Client) -> Any:
        return await client.get_handle(workflow_id).result(timeout)

    output.print_json(on_client(dsn, namespace, work))


@workflow.command()
@click.argument("signal_id")
@click.argument("payload", type=Json(), default="null")
@dsn_option
@namespace_option
@click.option("--idempotency-key", help="A second signal of this key does nothing.")
def signal(signal_id: str, payload: Any, dsn: str | None, namespace: str, idempotency_key: str | None) -> None:
    """Send a signal to whoever waits for SIGNAL_ID, now or later; PAYLOAD is JSON."""

    async def work(client: Client) -> None:
        await client.signal(signal_id, payload, idempotency_key=idempotency_key)

    on_client(dsn, namespace, work)


@workflow.command()
@click.argument("workflow_id")
@dsn_option
@namespace_option
@click.option("--reason", default="interrupted", show_default=True, help="What those who await the result are told.")
def interrupt(workflow_id: str, dsn: str | None, namespace: str, reason: str) -> None:
    """End a workflow at once, whatever its code is doing."""

    async def work(client: Client) -> None:
        await client.get_handle(workflow_id).interrupt(reason)

    on_client(dsn, namespace, work)


@workflow.command()
@click.argument("workflow_id")
@dsn_option
@namespace_option
@click.option("--reason", default="cancelled", show_default=True, help="What its code and those who await the result are told.")
def cancel(workflow_id: str, dsn: str | None, namespace: str, reason: str) -> None:
    """Ask a workflow to clean up and end; `interrupt` ends one that does not."""

    async def work(client: Client) -> None:
        await client.get_handle(workflow_id).cancel(reason)

    on_client(dsn, namespace, work)
