"""`hotmesh db`: the schema in the database."""

from __future__ import annotations

import sys

import click

from .. import migrate
from .database import dsn_option, failures


@click.group()
def db() -> None:
    """Create, upgrade and check the schema."""


@db.command()
@dsn_option
@click.argument("revision", default="head")
def upgrade(dsn: str | None, revision: str) -> None:
    """Upgrade the schema to REVISION, by default the newest. Safe to repeat and to run at once."""
    with failures():
        before = migrate.current(dsn)
        migrate.upgrade(dsn, revision)
        after = migrate.current(dsn)
    click.echo(f"{before or 'empty'} -> {after}" if before != after else f"{after} already")


@db.command()
@dsn_option
@click.argument("revision", default="base")
@click.option("--yes", is_flag=True, help="Do not ask.")
def downgrade(dsn: str | None, revision: str, yes: bool) -> None:
    """Downgrade the schema to REVISION, by default to none: all workflows are deleted."""
    if not yes:
        click.confirm("This deletes workflows and their history. Go on?", abort=True)
    with failures():
        before = migrate.current(dsn)
        migrate.downgrade(dsn, revision)
        after = migrate.current(dsn)
    click.echo(f"{before or 'empty'} -> {after or 'empty'}")


@db.command()
@dsn_option
def current(dsn: str | None) -> None:
    """Print the revision of the schema; exit code 1 if it is not the newest."""
    with failures():
        revision, newest = migrate.current(dsn), migrate.head()
    click.echo(f"{revision or 'empty'}{'' if revision == newest else f' (newest: {newest})'}")
    sys.exit(0 if revision == newest else 1)


@db.command()
@dsn_option
def check(dsn: str | None) -> None:
    """Compare the schema with the one that this version expects.

    Exit code 0 if they are the same, 1 with a diff, or with what to do, if not, 2 if there is no connection.
    """
    with failures():
        revision, newest = migrate.current(dsn), migrate.head()
        differences = migrate.check(dsn) if revision == newest else []
    if revision != newest:
        found = f"The schema is of revision {revision}" if revision else "There is no schema here"
        cure = "install a newer pyhotmesh" if revision and revision > newest else "hotmesh db upgrade"
        click.echo(f"{found}; revision {newest} is expected: {cure}", err=True)
        sys.exit(1)
    if not differences:
        click.echo("The schema is as it should be.")
        return
    for line in differences:
        click.secho(line, fg="red" if line[0] == "-" else "green")
    click.echo(
        f"{len(differences)} lines differ: - is expected, + is there. What was changed by hand must be changed back by hand.",
        err=True,
    )
    sys.exit(1)


@db.command()
@click.argument("revision", default="head")
def sql(revision: str) -> None:
    """Print the SQL of an upgrade to REVISION (or FROM:TO), to run it by other means.

    It includes the version, so that a later `hotmesh db upgrade` goes on from there.
    """
    with failures():
        click.echo(migrate.script(revision), nl=False)
