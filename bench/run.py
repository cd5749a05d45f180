"""`make bench`: pyhotmesh, other engines and the raw limits, side by side on one embedded PostgreSQL.

Engines take turns at each workload, in another order in each repeat, and the medians over the
repeats are reported.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench import cron, curve, raw, records, report
from bench.engine import Engine
from bench.harness import Bench, MeasurementFailed
from bench.hotmesh_ import HotMesh
from bench.peers.absurd_ import Absurd
from bench.peers.dbos_ import Dbos
from bench.peers.pgqueuer_ import PgQueuer
from bench.peers.procrastinate_ import Procrastinate
from bench.server import Server

ENGINES: dict[str, Callable[[], Engine]] = {
    "pyhotmesh": HotMesh,
    "dbos": Dbos,
    "absurd": Absurd,
    "procrastinate": Procrastinate,
    "pgqueuer": PgQueuer,
}
SYSTEMS = (*ENGINES, "raw")
COUNTS = {
    "W1": 2000,
    "W2": 300,
    "W3": 1000,
    "W4": 200,
    "W5": 200,
    "W6": 20_000,
    "W7": 2000,
    "start_many": 40_000,
    "full_load": 20_000,
    "curve": 2000,
}
PARTS = (*COUNTS, "cron", "records", "raw")


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Fraction of the full counts.")
@click.option("--only", default="", help=f"Some of {', '.join(PARTS)}, separated by commas.")
@click.option("--systems", default=",".join(SYSTEMS), show_default=True, help="Which to measure.")
@click.option("--repeats", default=3, show_default=True, help="How often; medians are reported.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "results",
    help="Directory of the reports.",
)
def main(scale: float, only: str, systems: str, repeats: int, out: Path) -> None:
    """Measure, and write a table as Markdown and JSON."""
    wanted = _names(only, PARTS, "--only")
    chosen = _names(systems, SYSTEMS, "--systems")
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server and all parts end with us
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%MZ")
    begin = time.monotonic()
    with (out / "last.log").open("w") as log, Server() as server:
        results: dict[str, Any] = {**server.describe(), "scale": scale, "repeats": repeats}
        engines = [make() for name, make in ENGINES.items() if name in chosen]
        results["configuration"] = {engine.name: list(engine.notes) for engine in engines}
        if "raw" in chosen:
            results["configuration"]["raw"] = list(raw.NOTES)
        bench = Bench(server, log)
        results["measurements"] = _measure(bench, engines, wanted, "raw" in chosen, scale, repeats)
        if "curve" in wanted and "pyhotmesh" in chosen:
            results["curve"] = _curves(bench, scale)
    results["minutes"] = round((time.monotonic() - begin) / 60, 1)
    text = report.markdown(results)
    (out / f"{stamp}.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / f"{stamp}.md").write_text(text)
    click.echo(text)
    click.echo(f"Written to {out / stamp}.md and .json")
    failed = [found for found in results["measurements"] if "error" in found]
    sys.exit(1 if failed else 0)


def _names(given: str, known: tuple[str, ...], option: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}", param_hint=option)
    return names


def _measure(
    bench: Bench, engines: list[Engine], wanted: list[str], with_raw: bool, scale: float, repeats: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for repeat in range(repeats):
        if with_raw and "raw" in wanted:
            values = raw.measure(bench.server, raw.SECONDS * min(1.0, scale))
            found.append(_record("raw", "raw", "", repeat, values))
        if "cron" in wanted and "pyhotmesh" in (engine.name for engine in engines):
            for variant, values in cron.measure(bench.server, scale):
                found.append(_record("cron", "pyhotmesh", variant, repeat, values))
        if "records" in wanted and "pyhotmesh" in (engine.name for engine in engines):
            parts = [("records: set", records.writing(bench.server, scale))]
            parts += [("records: find", records.finding(scale))] if repeat == 0 else []  # a million are made once
            for workload, measured in parts:
                for variant, values in measured:
                    found.append(_record(workload, "pyhotmesh", variant, repeat, values))
        for workload in (name for name in COUNTS if name in wanted and name != "curve"):
            taking_part = [engine for engine in engines if workload in engine.workloads]
            turn = repeat % len(taking_part) if taking_part else 0
            for engine in taking_part[turn:] + taking_part[:turn]:
                for variant in engine.variants(workload):
                    values = _one(bench, engine, workload, variant, max(5, math.ceil(COUNTS[workload] * scale)))
                    found.append(_record(workload, engine.name, variant["label"], repeat, values))
    return found


def _one(bench: Bench, engine: Engine, workload: str, variant: dict[str, Any], count: int) -> dict[str, Any]:
    try:
        if workload in ("W1", "W2"):
            return bench.drain(engine, variant, count, workload)
        by_name = {
            "W3": bench.fan_out,
            "W4": bench.round_trips,
            "W5": bench.signal_trips,
            "W6": bench.calls,
            "W7": bench.sleepers,
            "start_many": bench.start_many,
            "full_load": bench.full_load,
        }
        return by_name[workload](engine, variant, count)
    except (MeasurementFailed, OSError) as error:
        return {"error": str(error)}


def _record(workload: str, system: str, label: str, repeat: int, values: dict[str, Any]) -> dict[str, Any]:
    record = {"workload": workload, "system": system, "variant": label, "repeat": repeat, **values}
    shown = "  ".join(f"{name} {value}" for name, value in values.items())
    click.echo(f"{repeat + 1}  {workload:10} {system:13} {label:40} {shown}", err=True)
    return record


def _curves(bench: Bench, scale: float) -> dict[str, Any]:
    greatest = int(curve.LEVELS[-1] * scale)
    count = max(50, int(COUNTS["curve"] * scale))
    found: dict[str, Any] = {}
    for kind in ("closed", "sleeping"):
        try:
            found[kind] = curve.measure(bench, kind, count, greatest)
        except MeasurementFailed as error:
            found[kind] = {"error": str(error)}
        click.echo(f"curve, {kind}: {found[kind]}", err=True)
    return found


if __name__ == "__main__":
    main()
