"""`hotmesh dev`: a private PostgreSQL, a worker, and a live log of what happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from urllib.parse import quote

import click
import psycopg
from rich.console import Console

from .. import migrate
from ..connection import connect
from ..embedded import resolve
from ..worker import Worker
from . import output
from .database import failures
from .follow import Follower
from .target import load_worker
from .worker import set_up_log

EVERY = 0.25  # seconds between looks


@click.command()
@click.argument("target", metavar="MODULE:WORKER")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=".hotmesh", show_default=True,
    help="The directory of the private PostgreSQL; made if missing, kept at the end.",
)  # fmt: skip
def dev(target: str, data: Path) -> None:
    """Develop without a database of one's own.

    Starts a PostgreSQL in --data, brings its schema up to date, serves MODULE:WORKER and prints what
    happens to workflows. Ends with Ctrl-C; the data stay.
    """
    set_up_log("warning")
    name = f"embedded://{quote(str(data.absolute()))}"
    with failures():
        dsn = resolve(name)
        migrate.upgrade(dsn)
        os.environ["HOTMESH_DATABASE_URL"] = name
        worker = load_worker(target)
        console = output.console()
        console.print(f"[bold]PostgreSQL[/]  export HOTMESH_DATABASE_URL='{name}'")
        console.print(f"[bold]psql DSN[/]    {dsn}", soft_wrap=True)
        console.print(f"[bold]worker[/]      {worker.name} serves {', '.join(worker.task_queues)}")
        console.print(f"[bold]workflows[/]   {', '.join(sorted(worker.workflows)) or 'none'}")
        console.print(f"[bold]activities[/]  {', '.join(sorted(worker.activities)) or 'none'}\n")
        asyncio.run(_serve(worker, dsn, console))


async def _serve(worker: Worker, dsn: str, console: Console) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, worker.stop)
    log = asyncio.create_task(_follow(dsn, console))
    try:
        await worker.run()
    finally:
        log.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await log


async def _follow(dsn: str, console: Console) -> None:
    conn = await connect(dsn)
    try:
        follower = Follower(conn)
        await follower.look()  # what was there before is not news
        while True:
            await asyncio.sleep(EVERY)
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                for line in await follower.look():
                    console.print(line)
    finally:
        await conn.close()
