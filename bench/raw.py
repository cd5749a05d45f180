"""The raw limits of the server: what no engine on it can pass.

Rates come from `pgbench`, which is beside the embedded server's programs; latencies from psycopg,
as an engine written in Python sees them.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

from bench.role import SETTLE
from bench.server import Server

SECONDS = 4
BATCH = 1000
NOTES = (
    "one-row commits: `pgbench -M prepared -n`, an insert of (bigint, text) with a primary key and its "
    "commit, 1 and 32 connections",
    f"sets: the same rows, {BATCH:,} in one insert and commit, 1 connection",
    "commit latency and NOTIFY → receive: psycopg, one connection for each side, p50",
)
_TABLE = """
create table raw (id bigint generated always as identity primary key, payload text);
"""
_ONE = "insert into raw (payload) values ('a payload of about thirty bytes');\n"
_SET = f"insert into raw (payload) select 'a payload of about thirty bytes' from generate_series(1, {BATCH});\n"


def measure(server: Server, seconds: float = SECONDS) -> dict[str, float]:
    """All raw limits, in a database of their own that is dropped again."""
    dsn = server.create("raw_bench")
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(_TABLE)
        found = {
            "commits_per_s_1_connection": _pgbench(server.programs, dsn, _ONE, 1, seconds),
            "commits_per_s_32_connections": _pgbench(server.programs, dsn, _ONE, 32, seconds),
            "rows_per_s_in_sets": BATCH * _pgbench(server.programs, dsn, _SET, 1, seconds),
            "commit_p50_ms": _commit_latency(dsn),
            "commit_cold_p50_ms": _commit_latency(dsn, 40, SETTLE),
            "notify_p50_ms": _notify_latency(dsn),
        }
        return {name: round(value, 4 if name.endswith("_ms") else 0) for name, value in found.items()}
    finally:
        server.drop("raw_bench")


def _pgbench(programs: Path, dsn: str, script: str, clients: int, seconds: float) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = [str(programs / "pgbench"), "-n", "-M", "prepared", "-f", file.name]
        command += ["-c", str(clients), "-j", str(min(clients, 2)), "-T", str(max(1, round(seconds))), dsn]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    if rate is None:
        raise RuntimeError(f"pgbench said nothing of its rate:\n{done.stdout}\n{done.stderr}")
    return float(rate[1])


def _commit_latency(dsn: str, count: int = 500, pause: float = 0) -> float:
    took = []
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=1) as connection:
        for _ in range(count):
            time.sleep(pause)
            begin = time.perf_counter()
            connection.execute("insert into raw (payload) values ('x')")
            took.append(time.perf_counter() - begin)
    return 1000 * statistics.median(took)


def _notify_latency(dsn: str, count: int = 300) -> float:
    """From before the NOTIFY is sent until another connection has it."""
    took: list[float] = []
    arrived = threading.Event()

    def listen(connection: psycopg.Connection[Any]) -> None:
        for _ in connection.notifies(timeout=30, stop_after=count):
            took.append(time.perf_counter())
            arrived.set()

    sent = []
    with (
        psycopg.connect(dsn, autocommit=True) as receiver,
        psycopg.connect(dsn, autocommit=True, prepare_threshold=1) as sender,
    ):
        receiver.execute("listen raw")
        thread = threading.Thread(target=listen, args=(receiver,), daemon=True)
        thread.start()
        for _ in range(count):
            arrived.clear()
            sent.append(time.perf_counter())
            sender.execute("select pg_notify('raw', '')")
            if not arrived.wait(10):
                raise RuntimeError("a notification did not arrive within 10 s")
        thread.join(10)
    return 1000 * statistics.median(got - begin for begin, got in zip(sent, took, strict=True))
