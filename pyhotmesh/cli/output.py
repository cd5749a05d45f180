"""What commands print: tables for people, JSON for programs.

rich is imported where something is drawn: what prints JSON or an id starts without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import click
import orjson

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STATUS_STYLES = {
    "completed": "green", "failed": "red", "timed_out": "red", "interrupted": "yellow", "cancelled": "yellow",
    "troubled": "bold red", "quarantined": "bold red", "running": "cyan", "ready": "cyan", "waiting": "blue",
    "active": "green", "paused": "yellow", "over": "blue",
}  # fmt: skip


def console() -> Console:
    """A console as wide as the terminal; without one, wide enough for a table in a log."""
    from rich.console import Console

    found = Console(highlight=False)
    if not found.is_terminal:
        found = Console(highlight=False, width=160)
    return found


def as_json(value: Any) -> str:
    """JSON on one line; times in ISO 8601, durations in seconds."""

    def default(odd: Any) -> Any:
        return odd.total_seconds() if isinstance(odd, timedelta) else str(odd)

    return orjson.dumps(value, default).decode()


def print_json(value: Any) -> None:
    click.echo(as_json(value))


def short(value: Any, width: int = 60) -> str:
    """A value in little space: JSON, cut; times to the second in the local zone, with its offset."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return moment(value)
    text = value if isinstance(value, str) else as_json(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def moment(at: datetime, zone: tzinfo | None = None, timespec: str = "seconds") -> str:
    """A time in a zone, or the local one, with the offset from UTC: 2026-11-26 03:00:00+01:00."""
    return at.astimezone(zone).isoformat(" ", timespec)


def status(value: str) -> Text:
    from rich.text import Text

    return Text(value, style=STATUS_STYLES.get(value, ""))


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> Table:
    """Rows as a table; a column `status` in colours."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim", title_style="bold")
    for column in columns:
        made.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "status")
    for row in rows:
        made.add_row(*(status(row[c]) if c == "status" else Text(short(row[c])) for c in columns))
    return made


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """The rows as a table, or that there are none."""
    if rows:
        console().print(table(rows, columns))
    else:
        click.echo("none")
