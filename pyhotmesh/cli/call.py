"""`hotmesh call`: call a topic.

Exit codes: 0 done, 1 an error, 2 no connection (or bad arguments), 4 the call failed or was interrupted, 5 it has not
ended within the timeout (it goes on).
"""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ..call import MeshCall
from ..calls import queue_of
from ..client import Client
from . import output
from .database import dsn_option
from .workflow import Json, json_option, on_client, timeout_option

_PATIENCE = 1.0  # seconds without an answer, after which somebody at a terminal wonders


@click.command(epilog=__doc__.partition("\n\n")[2] if __doc__ else None)
@click.argument("topic")
@dsn_option
@click.option("--namespace", default="default", show_default=True, help="The namespace of the topic.")
@click.option("--arg", "args", multiple=True, type=Json(), help="An argument, as JSON; repeat it for several.")
@click.option("--id", help="Shared by all who call with it while the call runs; with --ttl also later.")
@click.option("--ttl", metavar="DURATION", help='How long its value is kept for later calls of that id: "15 minutes".')
@timeout_option
@json_option
def call(
    topic: str, dsn: str | None, namespace: str, args: tuple[Any, ...], id: str | None, ttl: str | None, timeout: str | None,
    json_: bool,
) -> None:  # fmt: skip
    """Call TOPIC and print its value; waits for somebody to serve it.

    \b
    hotmesh call greet --arg '"World"'
    hotmesh call price --arg '"tea"' --id tea --ttl '15 minutes'
    """

    if ttl is not None and id is None:
        raise click.UsageError("--ttl needs --id: it is what the value is kept under")

    async def work(client: Client) -> Any:
        # Closed, not left to the end of the event loop: a pool that is still connecting then swallows its cancellation,
        # and the command would wait for it for ever.
        async with MeshCall(client, namespace=namespace) as mesh:
            call = asyncio.ensure_future(mesh.exec(topic, args, id=id, ttl=ttl, timeout=timeout))
            try:
                await asyncio.wait({call}, timeout=_PATIENCE)
                if not call.done() and not await _served(client, topic):
                    click.echo(f"Nobody serves topic {topic!r} in namespace {namespace!r} now; waiting for somebody", err=True)
                return await call
            finally:
                call.cancel()

    result = on_client(dsn, namespace, work)
    if json_:
        output.print_json({"topic": topic, "result": result})
    else:
        click.echo(output.as_json(result))


async def _served(client: Client, topic: str) -> bool:
    rows = await client._rows(
        "select from hotmesh.queues where namespace = %s and task_queue = %s and workers > 0", (client.namespace, queue_of(topic))
    )
    return bool(rows)
