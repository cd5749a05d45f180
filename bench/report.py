"""The report: medians, the bars, and a Markdown page."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable
from typing import Any

from bench.role import STRAIGHT

Medians = dict[tuple[str, str, str], dict[str, Any]]

TITLES = {
    "W1": "W1: 2,000 workflows of one step, enqueued, then drained by one worker process",
    "W2": "W2: 300 workflows of 10 sequential steps, enqueued, then drained",
    "W3": "W3: one workflow of 1,000 parallel steps",
    "W4": "W4: start → result of a one-step workflow on an idle worker, one after another",
    "W5": "W5: signal → result of a waiting workflow, one after another",
    "W6": "W6: 20,000 trivial calls, enqueued, then drained by one worker process; and one call after another",
    "W7": "W7: 2,000 workflows that sleep for 1 s; how late the code of each goes on, and its next step begins",
    "start_many": "Bulk start (start_many), no worker at work",
    "full_load": "W1 at full load: starts and work at the same time",
    "records: set": "Records: 1,000 workflows of five steps, drained by one worker; what a step costs",
    "records: find": "Records: typical searches among 1,000,000, one after another; the indexes that the plan names",
    "cron": "Schedules: `hotmesh.cron_next`, and how late they fire",
}
COLUMNS = {
    "workflows_per_s": "workflows/s",
    "steps_per_s": "steps/s",
    "calls_per_s": "calls/s",
    "started_per_s": "starts/s",
    "enqueued_per_s": "enqueued/s",
    "seconds": "s",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "late_p50_ms": "late p50 ms",
    "late_p95_ms": "late p95 ms",
    "late_p99_ms": "late p99 ms",
    "late_max_ms": "late max ms",
    "step_p50_ms": "next step p50 ms",
    "step_p99_ms": "next step p99 ms",
    "commits_per_workflow": "commits/wf",
    "wal_bytes_per_workflow": "WAL bytes/wf",
    "statements_per_workflow": "statements/wf",
    "worker_cpu_ms_per_workflow": "worker CPU ms/wf",
    "us_per_call": "µs/call",
    "us_per_step": "µs/step",
    "wal_bytes_per_step": "WAL bytes/step",
    "index": "index",
}
MEETS = {">=": operator.ge, ">": operator.gt, "<=": operator.le}
RAW = {
    "commit_p50_ms": "one commit from psycopg, p50 ms",
    "commit_cold_p50_ms": "one commit from psycopg after a pause of 100 ms, p50 ms",
    "notify_p50_ms": "NOTIFY → receive, p50 ms",
    "commits_per_s_1_connection": "one-row commits/s, 1 connection",
    "commits_per_s_32_connections": "one-row commits/s, 32 connections",
    "rows_per_s_in_sets": "rows/s in sets of 1,000",
}


def medians(measurements: list[dict[str, Any]]) -> Medians:
    """(workload, system, variant) → the median of each value over the repeats."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for found in measurements:
        if "error" not in found:
            grouped.setdefault((found["workload"], found["system"], found["variant"]), []).append(found)
    skip = {"workload", "system", "variant", "repeat"}
    return {
        key: {
            name: _middle([one[name] for one in all_of if name in one])
            for name in dict.fromkeys(name for one in all_of for name in one)
            if name not in skip
        }
        for key, all_of in grouped.items()
    }


def _middle(values: list[Any]) -> Any:
    """The median; of names the first."""
    return values[0] if isinstance(values[0], str) else statistics.median(values)


def bars(found: Medians, curves: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for and what was reached; `reached` is None where something was not measured."""

    def value(name: str, workload: str, system: str, pick: Callable[..., float] = min, straight: bool = False) -> float | None:
        """The best (or as `pick` says) over the variants of a system, those without pauses or the others."""
        all_of = [
            one[name]
            for (w, s, variant), one in found.items()
            if (w, s) == (workload, system) and name in one and (STRAIGHT in variant) == straight
        ]
        return pick(all_of) if all_of else None

    def ratio(name: str, workload: str, peer: str, best: Callable[..., float], straight: bool = False) -> float | None:
        # Ours at its worst variant against the peer at its best.
        ours = value(name, workload, "pyhotmesh", max if best is min else min, straight)
        theirs = value(name, workload, peer, best, straight)
        return ours / theirs if ours is not None and theirs else None

    trip = value("p50_ms", "W6", "pyhotmesh", max)
    raw = found.get(("raw", "raw", ""))
    least = raw["commit_p50_ms"] + raw["notify_p50_ms"] if raw else None
    table: list[tuple[str, str, float, float | None]] = [
        ("W1, times DBOS", ">=", 40, ratio("workflows_per_s", "W1", "dbos", max)),
        ("W1, times absurd", ">=", 10, ratio("workflows_per_s", "W1", "absurd", max)),
        ("W2, times DBOS", ">=", 100, ratio("steps_per_s", "W2", "dbos", max)),
        ("W2, times absurd", ">=", 20, ratio("steps_per_s", "W2", "absurd", max)),
        ("W3, s", "<=", 0.2, value("seconds", "W3", "pyhotmesh")),
        ("W4 p50, of DBOS's in its worker's process", "<=", 0.6, ratio("p50_ms", "W4", "dbos", min)),
        ("W5 p50, of DBOS's best", "<=", 0.3, ratio("p50_ms", "W5", "dbos", min, straight=False)),
        (f"W5 p50, of DBOS's best, {STRAIGHT}", "<=", 0.3, ratio("p50_ms", "W5", "dbos", min, straight=True)),
        ("W6, times procrastinate", ">", 1, ratio("calls_per_s", "W6", "procrastinate", max)),
        ("W6, times pgqueuer", ">", 1, ratio("calls_per_s", "W6", "pgqueuer", max)),
        ("W6 p50 of a call, of one commit and one NOTIFY", "<=", 7, trip / least if trip is not None and least else None),
        ("start_many, starts/s", ">=", 40_000, value("started_per_s", "start_many", "pyhotmesh")),
        (
            "full load, commits per workflow",
            "<=",
            0.2,
            value("commits_per_workflow", "full_load", "pyhotmesh"),
        ),
        (
            "full load, WAL bytes per workflow",
            "<=",
            2048,
            value("wal_bytes_per_workflow", "full_load", "pyhotmesh"),
        ),
    ]
    for (workload, system, variant), one in found.items():
        if (workload, system) == ("W7", "pyhotmesh"):
            table.append((f"W7 late p50 ms, {variant}", "<=", 20, one["late_p50_ms"]))
            table.append((f"W7 late p99 ms, {variant}", "<=", 150, one["late_p99_ms"]))
    for (workload, _, variant), one in found.items():
        if workload == "records: find" and variant.startswith("find: "):
            table.append((f"{variant}: p95 ms", "<=", 5, one["p95_ms"]))
    for kind, base in (("closed", 1000), ("sleeping", 0)):
        table.append((f"W1 beside most {kind} runs, of that beside {base:,}", ">=", 0.8, _flat(curves, kind, base)))
    return [
        {
            "bar": name,
            "wanted": f"{sign} {limit:,g}",
            "reached": None if reached is None else float(f"{reached:.4g}"),
            "met": None if reached is None else MEETS[sign](reached, limit),
        }
        for name, sign, limit, reached in table
    ]


def _flat(curves: dict[str, Any], kind: str, base: int) -> float | None:
    points = curves.get(kind)
    if not isinstance(points, list) or not points:
        return None
    first = next((point for point in points if point["level"] == base), points[0])
    return float(points[-1]["workflows_per_s"] / first["workflows_per_s"])


def markdown(results: dict[str, Any]) -> str:
    """The page; also adds `medians` and `bars` to the results."""
    found = medians(results["measurements"])
    reached = bars(found, results.get("curve", {}))
    results["medians"] = [
        {"workload": workload, "system": system, "variant": variant, **values}
        for (workload, system, variant), values in found.items()
    ]
    results["bars"] = reached
    lines = [f"# Benchmark of {results['date']}", "", *_environment(results), ""]
    lines += ["## Bars", "", *_table(["bar", "wanted", "reached", ""], [_bar(one) for one in reached]), ""]
    if results["scale"] < 1:
        lines += ["With reduced counts the first and the last moments of a worker weigh too much: no judgement.", ""]
    for workload, title in TITLES.items():
        rows = [(key, values) for key, values in found.items() if key[0] == workload]
        if rows:
            lines += [f"## {title}", "", *_workload(rows, "call" if workload == "W6" else "wf"), ""]
    if ("raw", "raw", "") in found:
        raw = found["raw", "raw", ""]
        lines += ["## Raw limits of the server", ""]
        lines += [*_table(["", ""], [[RAW[name], _number(raw[name])] for name in RAW if name in raw]), ""]
    for kind, points in results.get("curve", {}).items():
        lines += [f"## Cost beside {kind} runs", ""]
        if isinstance(points, list):
            head = [f"{kind} runs", "W1 workflows/s", "claim of 50, p50 ms", "W4 p50 ms"]
            names = ("level", "workflows_per_s", "claim_p50_ms", "round_trip_p50_ms")
            lines += _table(head, [[_number(point[name]) for name in names] for point in points])
        else:
            lines.append(f"Not measured: {points['error']}")
        lines.append("")
    errors = [one for one in results["measurements"] if "error" in one]
    if errors:
        lines += ["## Failed", ""]
        lines += [f"- {one['workload']} {one['system']} {one['variant']}: {one['error']}" for one in errors]
        lines.append("")
    lines += ["## Configuration", ""]
    for system, notes in results["configuration"].items():
        lines += [f"**{system}**", "", *[f"- {note}" for note in notes], ""]
    return "\n".join(lines)


def _environment(results: dict[str, Any]) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    packages = ", ".join(f"{name} {version}" for name, version in results["packages"].items())
    size = "" if results["scale"] == 1 else f"; counts are {results['scale']:g} of those in the headings"
    return [
        f"- {results['cpu']}, {results['cores']} cores, {results['memory_gib']} GiB, "
        f"{results['system']}, data on {results['file_system']}",
        f"- {results['postgresql'].split(',')[0]}, embedded, over a Unix socket: {settings}",
        f"- Python {results['python']}: {packages}",
        f"- Medians of {results['repeats']} interleaved repeats, each in a fresh database{size}. "
        f"The whole took {results['minutes']} minutes.",
        "- Commits, WAL, statements and worker CPU are those of the whole measurement over its workflows or calls: "
        "starts, polls while waiting and the worker's shutdown included (W1, W2 and W6's drain: CPU of the drain alone). "
        "WAL is the whole server's.",
    ]


def _bar(one: dict[str, Any]) -> list[str]:
    if one["reached"] is None:
        return [one["bar"], one["wanted"], "not measured", ""]
    return [one["bar"], one["wanted"], _number(one["reached"]), "met" if one["met"] else "**missed**"]


def _workload(rows: list[tuple[tuple[str, str, str], dict[str, Any]]], unit: str) -> list[str]:
    names = [name for name in COLUMNS if any(name in values for _, values in rows)]
    head = ["", *[COLUMNS[name].replace("/wf", f"/{unit}") for name in names]]
    body = []
    for (_, system, variant), values in sorted(rows, key=lambda row: row[0][1] != "pyhotmesh"):
        title = f"{system}: {variant}" if variant else system
        body.append([title, *[_number(values[name]) if name in values else "" for name in names]])
    return _table(head, body)


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    line = "|".join(["", *["---"] + ["---:"] * (len(head) - 1), ""])
    return [f"| {' | '.join(head)} |", line, *[f"| {' | '.join(row)} |" for row in body]]
