"""`hotmesh worker`: serve task queues, in one process or several."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

import click

from .database import dsn_option, failures
from .supervisor import Supervisor
from .target import load_worker

log = logging.getLogger("pyhotmesh.worker")


def set_up_log(level: str) -> None:
    """Log lines of workers: time, process, what."""
    form = f"%(asctime)s [{os.getpid()}] %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level.upper(), format=form, datefmt="%H:%M:%S")


@click.command()
@click.argument("target", metavar="MODULE:WORKER")
@dsn_option
@click.option("--processes", "-n", type=click.IntRange(1, 256), default=1, show_default=True, help="How many worker processes.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True,
)  # fmt: skip
@click.option("--until-eof", type=int, hidden=True, help="Stop when this file descriptor closes: the supervisor has died.")
def worker(target: str, dsn: str | None, processes: int, log_level: str, until_eof: int | None) -> None:
    """Serve task queues with the worker MODULE:WORKER: a Worker, or a function that returns one.

    SIGINT or SIGTERM: it claims nothing more, finishes or hands back what it holds, and exits with 0. A
    second signal abandons what still runs. With several processes one that dies is started again.
    """
    set_up_log(log_level)
    with failures():
        if dsn:
            os.environ["HOTMESH_DATABASE_URL"] = dsn
        if processes > 1:
            arguments = [target, "--log-level", log_level]
            sys.exit(Supervisor([sys.executable, "-m", "pyhotmesh.cli", "worker", *arguments], processes).run())
        found = load_worker(target)
        if until_eof is not None:
            threading.Thread(target=_stop_at_eof, args=(until_eof,), daemon=True).start()
        log.info("%s serves %s", found.name, ", ".join(found.task_queues))
        found.run_forever()
        log.info("%s has stopped", found.name)


def _stop_at_eof(descriptor: int) -> None:
    while os.read(descriptor, 100):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
