"""`hotmesh cron`: create schedules, look at them, change, stop and start them.

Times are shown in the zone of their schedule, with its offset from UTC; in JSON as ISO 8601.

Exit codes: 0 done, 1 an error, 2 no connection (or a bad argument: the expression, a duration, the time zone), 3 no such
schedule, 6 there is one of that id already.
"""

from __future__ import annotations

import asyncio
import re
import sys
import zoneinfo
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, TypeVar

import click
import psycopg

from ..client import Client
from ..connection import conninfo
from ..durations import written
from ..errors import InvalidDuration, InvalidSchedule, PayloadError, ScheduleNotFound
from ..schedule import OVERLAPS
from . import output
from .database import dsn_option, failures
from .workflow import NOT_FOUND, TAKEN, Json, json_option

T = TypeVar("T")

namespace_option = click.option("--namespace", default="default", show_default=True, help="The namespace of the schedule.")


def _call(dsn: str | None, namespace: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Does the work with a client; tells errors in a line, and which by the exit code."""

    async def main(found: str) -> T:
        async with Client(found, namespace=namespace) as client:
            return await work(client)

    with failures():
        try:
            found = conninfo(dsn)
            psycopg.connect(found).close()  # a client would wait for a database that is away
            return asyncio.run(main(found))
        except (ScheduleNotFound, InvalidSchedule, InvalidDuration, PayloadError) as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(NOT_FOUND if isinstance(error, ScheduleNotFound) else 2)
    raise AssertionError  # the context manager has left the program


@click.group(epilog=__doc__.partition("\n\n")[2] if __doc__ else None)
def cron() -> None:
    """Workflows and calls that start again and again."""


def options(command: Callable[..., None]) -> Callable[..., None]:
    """What `create` and `update` take alike; what is not given is None."""
    for option in reversed((
        click.option("--arg", "args", multiple=True, type=Json(), help="An argument, as JSON; repeat it for several."),
        click.option("--queue", "-q", "task_queue", help="The task queue; `default` without it."),
        click.option("--time-zone", help="Of a cron expression: Europe/Berlin; UTC without it."),
        click.option("--delay", metavar="DURATION", help="Nothing runs before it has passed."),
        click.option("--max-cycles", type=click.IntRange(1), help="So many runs, then it is over."),
        click.option("--overlap", type=click.Choice(OVERLAPS), help="While a run is open; `skip` without it."),
        click.option("--catchup", metavar="none|last|DURATION", help="Slots nobody fired; `1 minute` without it."),
        click.option("--jitter", metavar="DURATION", help="Each slot is later by a part of it."),
        click.option("--pause-after-failures", type=click.IntRange(1), help="So many failures in a row pause it."),
        click.option("--priority", type=click.IntRange(1, 5), help="Of its runs: 1 is first, 3 without it."),
        click.option("--execution-timeout", metavar="DURATION", help="Closes a run when it has passed."),
        click.option("--retention", metavar="DURATION", help="How long a closed run is kept."),
        click.option("--note", help="Shown with the schedule."),
    )):  # fmt: skip
        command = option(command)
    return command


CLEARED = (
    "args", "task-queue", "time-zone", "delay", "max-cycles", "overlap", "catchup", "jitter", "pause-after-failures", "priority",
    "execution-timeout", "retention", "memo", "note",
)  # fmt: skip


def _zone(name: str) -> tzinfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):  # one that this machine does not know, or that has vanished
        return UTC


def _legible(row: dict[str, Any], zone: tzinfo) -> dict[str, Any]:
    """What people read of a schedule or a firing: times in its zone, durations in words, nothing that says nothing."""

    def text(name: str, value: Any) -> Any:
        if isinstance(value, datetime):
            return output.moment(value, zone)
        if isinstance(value, timedelta):
            return written(value.total_seconds()) if value else None
        if name == "execution_timeout" and value is not None:
            return written(value)
        if name in ("interval", "catchup") and value.endswith(" seconds"):
            return written(float(value.removesuffix(" seconds")))
        return value

    return {name: text(name, value) for name, value in row.items() if name != "trouble_times" or value}


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """Those options that were given."""
    return {name: value for name, value in given.items() if value is not None and value != ()}


class Moment(click.ParamType[datetime]):
    """A time with its zone, as ISO 8601 writes it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; for example 2026-11-25T03:00Z", param, ctx)
        if at.tzinfo is None:
            self.fail(f"{value!r} has no zone; write {value}Z if it is UTC, or {value}+01:00", param, ctx)
        return at


class Create(click.Command):
    """`-5 min` is a bad duration, not an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = any(re.match(r"-\s*\d", arg) for arg in args)
        return super().parse_args(ctx, args)


@cron.command(cls=Create)
@click.argument("schedule_id", metavar="ID")
@click.argument("workflow_type", metavar="TYPE")
@click.argument("interval")
@dsn_option
@namespace_option
@options
@click.option("--call", "is_call", is_flag=True, help="TYPE is a topic of MeshCall.")
@click.option("--paused", is_flag=True, help="It begins with `resume`.")
@json_option
def create(
    schedule_id: str, workflow_type: str, interval: str, dsn: str | None, namespace: str, is_call: bool, paused: bool,
    json_: bool, **given: Any,
) -> None:  # fmt: skip
    """Create a schedule.

    Schedule ID starts workflows of TYPE; INTERVAL is a cron expression or a duration.

    \b
    hotmesh cron create nightly report '0 3 * * *' --time-zone Europe/Berlin
    hotmesh cron create often report '15 minutes' --arg '"brief"'
    hotmesh cron create prices price '@hourly' --call --arg '"tea"'
    """
    kind = "call" if is_call else "workflow"

    async def work(client: Client) -> tuple[bool, list[Any]]:
        made = await client.schedule.create(
            schedule_id, workflow_type, interval=interval, kind=kind, paused=paused, **_named(given)
        )
        return made, await client.schedule.get(schedule_id).next_runs(1)

    made, following = _call(dsn, namespace, work)
    if json_:
        output.print_json({"schedule_id": schedule_id, "created": made, "next_slot": following[0] if following else None})
    elif made:
        click.echo(f"{schedule_id}: first at {output.moment(following[0], _zone(given['time_zone'] or 'UTC'))}")
    else:
        click.echo(f"{schedule_id} is there already and stays as it is", err=True)
    sys.exit(0 if made else TAKEN)


@cron.command("list")
@dsn_option
@namespace_option
@json_option
def list_(dsn: str | None, namespace: str, json_: bool) -> None:
    """List the schedules."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return await client.schedule.list()

    rows = _call(dsn, namespace, work)
    if json_:
        output.print_json(rows)
        return
    from ..call import topic_of

    for row in rows:
        row["starts"] = f"call of {row['workflow_type']}" if topic_of(row) else row["workflow_type"]
    columns = ("schedule_id", "status", "interval", "time_zone", "starts", "next_slot", "last_slot", "cycles", "failures")
    output.print_table([_legible(row, _zone(row["time_zone"])) for row in rows], columns)


@cron.command()
@click.argument("schedule_id", metavar="ID")
@dsn_option
@namespace_option
@click.option("--next", "n", type=click.IntRange(0, 1000), default=5, show_default=True, help="How many of its next slots.")
@click.option("--history", "limit", type=click.IntRange(0, 10_000), default=20, show_default=True, help="How many of its last.")
@json_option
def show(schedule_id: str, dsn: str | None, namespace: str, n: int, limit: int, json_: bool) -> None:
    """Show a schedule, its next runs, and its last."""

    async def work(client: Client) -> dict[str, Any]:
        schedule = client.schedule.get(schedule_id)
        about = await schedule.describe()
        # a zone that has vanished leaves a schedule without next runs, and is told in its trouble
        following = await schedule.next_runs(n) if about["trouble"] is None else []
        return {"schedule": about, "next_runs": following, "history": await schedule.history(limit)}

    shown = _call(dsn, namespace, work)
    if json_:
        output.print_json(shown)
        return
    console = output.console()
    zone = _zone(shown["schedule"]["time_zone"])
    about = _legible(shown["schedule"], zone)
    told = {"schedule_id", "status", "namespace"}
    if shown["next_runs"]:
        told.add("next_slot")
    if about["due_at"] == about["next_slot"]:
        told.add("due_at")
    console.print(output.status(about["status"]), f" {about['schedule_id']}", style="bold", markup=False)
    for name, value in about.items():
        if value is not None and name not in told:
            console.print(f"  {name.replace('_', ' '):<20} {output.short(value, 100)}", markup=False)
    label = "if it were resumed" if about["status"] == "paused" else "next runs"
    for number, at in enumerate(shown["next_runs"]):
        console.print(f"  {'' if number else label:<20} {output.moment(at, zone)}", markup=False)
    if not shown["history"]:
        return
    console.print()
    columns = ("slot", "origin", "decision", "outcome", "workflow_id", "closed_at", "missed_until")
    console.print(output.table([_legible(row, zone) for row in shown["history"]], columns, title="history"))


@cron.command()
@click.argument("schedule_id", metavar="ID")
@dsn_option
@namespace_option
@click.option("--note", help="Why; shown until it is resumed.")
def pause(schedule_id: str, dsn: str | None, namespace: str, note: str | None) -> None:
    """Stop a schedule until it is resumed."""

    async def work(client: Client) -> bool:
        return await client.schedule.get(schedule_id).pause(note)

    click.echo("paused" if _call(dsn, namespace, work) else "it is paused already")


@cron.command()
@click.argument("schedule_id", metavar="ID")
@dsn_option
@namespace_option
def resume(schedule_id: str, dsn: str | None, namespace: str) -> None:
    """Let a paused or troubled schedule go on with its next slot."""

    async def work(client: Client) -> bool:
        return await client.schedule.get(schedule_id).resume()

    click.echo("resumed" if _call(dsn, namespace, work) else "it is not paused")


@cron.command()
@click.argument("schedule_id", metavar="ID")
@dsn_option
@namespace_option
@json_option
def trigger(schedule_id: str, dsn: str | None, namespace: str, json_: bool) -> None:
    """Start a run now, whatever runs; print its workflow id."""

    async def work(client: Client) -> str:
        return (await client.schedule.get(schedule_id).trigger()).workflow_id

    workflow_id = _call(dsn, namespace, work)
    if json_:
        output.print_json({"workflow_id": workflow_id})
    else:
        click.echo(workflow_id)


@cron.command()
@click.argument("schedule_id", metavar="ID")
@click.argument("start", type=Moment())
@click.argument("end", type=Moment())
@dsn_option
@namespace_option
@json_option
def backfill(schedule_id: str, start: datetime, end: datetime, dsn: str | None, namespace: str, json_: bool) -> None:
    """Run slots of the past that have not run.

    Those from START to END, both included.

    \b
    hotmesh cron backfill nightly 2026-11-01T00:00Z 2026-11-25T00:00Z
    """

    async def work(client: Client) -> int:
        return await client.schedule.get(schedule_id).backfill(start, end)

    count = _call(dsn, namespace, work)
    if json_:
        output.print_json({"schedule_id": schedule_id, "backfilled": count})
    else:
        click.echo(f"{count} to run" if count else "none that has not run")


@cron.command()
@click.argument("schedule_id", metavar="ID")
@dsn_option
@namespace_option
@click.option("--workflow", metavar="TYPE", help="What it starts.")
@click.option("--interval", help="A cron expression or a duration.")
@options
@click.option("--clear", multiple=True, type=click.Choice(CLEARED), help="Set an option back, as if it had never been given.")
@json_option
def update(schedule_id: str, dsn: str | None, namespace: str, clear: tuple[str, ...], json_: bool, **given: Any) -> None:
    """Change a schedule: what is named, and nothing else.

    \b
    hotmesh cron update nightly --interval '0 4 * * *' --clear max-cycles
    """
    changes = {**_named(given), **{name.replace("-", "_"): None for name in clear}}
    if not changes:
        raise click.UsageError("nothing to change: name an option")

    async def work(client: Client) -> dict[str, Any]:
        schedule = client.schedule.get(schedule_id)
        await schedule.update(**changes)
        return await schedule.describe()

    about = _call(dsn, namespace, work)
    if json_:
        output.print_json({"schedule_id": schedule_id, "next_slot": about["next_slot"]})
    elif about["next_slot"] is None:
        click.echo(f"{schedule_id}: it is {about['status']}")
    else:
        click.echo(f"{schedule_id}: next at {output.moment(about['next_slot'], _zone(about['time_zone']))}")


@cron.command()
@click.argument("schedule_id", metavar="ID")
@dsn_option
@namespace_option
def delete(schedule_id: str, dsn: str | None, namespace: str) -> None:
    """Delete a schedule and its history; runs that it started go on."""

    async def work(client: Client) -> bool:
        return await client.schedule.get(schedule_id).delete()

    if not _call(dsn, namespace, work):
        click.echo(f"Error: no schedule {schedule_id!r}", err=True)
        sys.exit(NOT_FOUND)
    click.echo("deleted")
