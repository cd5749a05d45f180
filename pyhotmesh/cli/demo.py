"""`hotmesh demo`: see workflows survive a killed worker, on a PostgreSQL that is gone afterwards."""

from __future__ import annotations

import sys

import click

from ..demo import show
from .database import failures


@click.command()
@click.option("--workflows", type=click.IntRange(10, 100_000), default=500, show_default=True, help="How many greetings.")
def demo(workflows: int) -> None:
    """Run workflows on a private PostgreSQL, and kill a worker in the middle.

    Exit code 0 only if every result was right.
    """
    with failures():
        sys.exit(show.run(workflows))
