"""The command `hotmesh`.

Each subcommand is a module of this package; it is imported when it is called or listed, so that one
command does not wait for the imports of all others.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

from .. import __version__

# Name of the subcommand: module of this package and the click command in it.
COMMANDS: Final = {
    "demo": ("demo", "demo"),
    "dev": ("dev", "dev"),
    "db": ("db", "db"),
    "worker": ("worker", "worker"),
    "workflow": ("workflow", "workflow"),
    "call": ("call", "call"),
    "cron": ("cron", "cron"),
}


class _Lazy(click.Group):
    """A group that imports its commands when it needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        assert isinstance(found, click.Command)
        return found


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="pyhotmesh", message="pyhotmesh %(version)s")
def main() -> None:
    """Durable workflows on PostgreSQL."""
