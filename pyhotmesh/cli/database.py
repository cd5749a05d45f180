"""What all commands share that work on a database: the option that names it, and how failures are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import psycopg

from ..errors import HotMeshError, NotConnected

dsn_option = click.option(
    "--dsn",
    envvar="HOTMESH_DATABASE_URL",
    show_envvar=True,
    metavar="DSN",
    help="The database: postgresql://user:password@host:5432/db, or embedded: for a private server.",
)


@contextmanager
def failures() -> Iterator[None]:
    """Tell failures in a line, and which: exit code 2 without a connection, else 1."""
    try:
        yield
    except (NotConnected, psycopg.OperationalError) as error:
        click.echo(f"Cannot connect: {str(error).strip()}", err=True)
        sys.exit(2)
    except HotMeshError as error:
        raise click.ClickException(str(error)) from error
    except psycopg.Error as error:
        raise click.ClickException(str(error).strip()) from error
