"""`make chaos`: blows of each kind while workflows run, and what the checker found afterwards."""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from pyhotmesh import migrate
from pyhotmesh.embedded import EmbeddedServer

from .ledger import Report
from .proxy import AFTER, BEFORE, Proxy
from .torment import torment

Round = Callable[[EmbeddedServer, Path], Coroutine[Any, Any, Report]]


def rounds(workflows: int, kills: int, stops: int, restarts: int, share: float) -> dict[str, Round]:
    """The kinds of rounds by name."""

    def struck(**blows: Any) -> Round:
        async def run(server: EmbeddedServer, directory: Path) -> Report:
            return await torment(server.dsn, directory, workflows=workflows, say=click.echo, limit=600, **blows)

        return run

    async def cut(server: EmbeddedServer, directory: Path) -> Report:
        sides = itertools.cycle((BEFORE, AFTER))

        def decide(turn: int) -> str | None:
            return next(sides) if random.random() < share else None

        async with Proxy(server.dsn, decide) as proxy:
            report = await torment(server.dsn, directory, workflows=workflows, worker_dsn=proxy.dsn, lease=60.0, limit=600)
        click.echo(
            f"{proxy.turns} turns; lost before the server saw them: {proxy.cuts[BEFORE]}, after the commit: {proxy.cuts[AFTER]}"
        )
        return report

    async def restarted(server: EmbeddedServer, directory: Path) -> Report:
        def restart() -> None:
            server.restart(random.choice(("fast", "immediate", "kill")))

        return await torment(
            server.dsn, directory, workflows=workflows, restarts=restarts, restart=restart, lease=10.0, limit=600, say=click.echo
        )

    return {"kill": struck(kills=kills), "stop": struck(stops=stops), "cut": cut, "restart": restarted}


@click.command(help=__doc__)
@click.option("--only", default="kill,stop,cut,restart", show_default=True, help="Kinds of rounds, separated by commas.")
@click.option("--times", default=1, show_default=True, help="How often each kind.")
@click.option("--workflows", default=500, show_default=True, help="Workflows in a round.")
@click.option("--kills", default=20, show_default=True, help="SIGKILLs in a round of kills.")
@click.option("--stops", default=8, show_default=True, help="SIGSTOPs past the lease in a round of stops.")
@click.option("--restarts", default=6, show_default=True, help="Restarts of the server in a round of those.")
@click.option("--share", default=0.3, show_default=True, help="Share of the turns that a round of cuts loses.")
@click.option("--seed", type=int, help="Of the random choices; the timing stays the machine's.")
def main(only: str, times: int, workflows: int, kills: int, stops: int, restarts: int, share: float, seed: int | None) -> None:
    seed = seed if seed is not None else random.randrange(10**6)
    random.seed(seed)
    kinds = rounds(workflows, kills, stops, restarts, share)
    wanted = [name.strip() for name in only.split(",")]
    if unknown := set(wanted) - set(kinds):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: the kinds are {', '.join(kinds)}", param_hint="--only")
    click.echo(f"seed {seed}")
    bad = 0
    summary = []
    for kind in wanted * times:
        click.echo(f"\n== {kind}: {workflows} workflows")
        begin = time.monotonic()
        with EmbeddedServer() as server, tempfile.TemporaryDirectory() as directory:
            migrate.upgrade(server.dsn)
            report = asyncio.run(kinds[kind](server, Path(directory)))
        bad += not report.good
        click.echo(report)
        summary.append(
            f"{kind:8} {'good' if report.good else 'BAD ':4} {time.monotonic() - begin:6.1f} s  {str(report).splitlines()[0]}"
        )
    click.echo("\n" + "\n".join(summary))
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
