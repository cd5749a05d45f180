"""The cost of a workflow beside many closed runs, and beside many sleeping ones.

The rows are put in with SQL: one real run of each kind is made by a worker, then copied as often
as wanted, with fresh run ids and workflow ids. So they are exactly what the engine leaves, whatever
its tables look like.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
from psycopg import sql

from bench.harness import Bench, MeasurementFailed, Part
from bench.hotmesh_ import QUEUE, HotMesh

Kind = Literal["closed", "sleeping"]
LEVELS = (0, 1_000, 10_000, 100_000, 1_000_000)
CLAIM = 50  # runs in one claim
ROUND_TRIPS = 100
# Tables that hold rows of a run, by the column that names it.
_RUN_TABLES = """
select c.relname
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attname = 'run_id'
 where c.relnamespace = 'hotmesh_engine'::regnamespace and c.relkind = 'r' and c.relpersistence = 'p'
 order by c.relname
"""
_COLUMNS = """
select attname from pg_attribute
 where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = ''
 order by attnum
"""


def measure(bench: Bench, kind: Kind, count: int, greatest: int) -> list[dict[str, float]]:
    """W1, W4 and a bare claim at each level up to `greatest`; a list of values, one a level."""
    engine = HotMesh()
    bench.prepare(engine)
    database = f"{engine.name}_curve"
    dsn = bench.server.create(database, f"{engine.name}_empty")
    found = []
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            pattern = _pattern(bench, dsn, connection, kind)
            have = 0
            for level in [level for level in LEVELS if level <= greatest]:
                copy(connection, pattern, level - have)
                have = level
                connection.execute("vacuum analyze")
                connection.execute("checkpoint")
                values: dict[str, float] = {"level": level}
                values |= _measured(bench, dsn, connection, count)
                found.append(values)
    finally:
        bench.server.drop(database)
    return found


def copy(connection: psycopg.Connection[Any], run_id: int, count: int) -> None:
    """Copy all rows of a run `count` times, in portions, each copy a run of its own."""
    tables = [row[0] for row in connection.execute(_RUN_TABLES).fetchall()]
    for first in range(0, count, 100_000):
        portion = min(100_000, count - first)
        row = connection.execute(
            "select setval('hotmesh_engine.id', last_value + %s + 1) - %s from hotmesh_engine.id",
            (portion, portion),
        ).fetchone()
        assert row is not None
        with connection.transaction():
            for table in tables:
                _copy_rows(connection, table, run_id, int(row[0]), portion)


def _copy_rows(connection: psycopg.Connection[Any], table: str, run_id: int, base: int, count: int) -> None:
    name = sql.Identifier("hotmesh_engine", table)
    columns = [row[0] for row in connection.execute(_COLUMNS, (f"hotmesh_engine.{table}",)).fetchall()]
    fresh = {
        "run_id": sql.SQL("{} + n").format(sql.Literal(base)),
        "workflow_id": sql.SQL("'copy ' || ({} + n)").format(sql.Literal(base)),
        "request_id": sql.SQL("gen_random_uuid()"),
    }
    values = [fresh.get(column, sql.Identifier("t", column)) for column in columns]
    connection.execute(
        sql.SQL("insert into {} ({}) select {} from {} t, generate_series(0, {} - 1) n where t.run_id = {} order by n").format(
            name,
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(values),
            name,
            sql.Literal(count),
            sql.Literal(run_id),
        )
    )


@contextmanager
def _parts(bench: Bench, dsn: str) -> Iterator[tuple[Part, Part]]:
    worker = Part(f"{HotMesh.module}:Worker", bench.log)
    client = Part(f"{HotMesh.module}:Client", bench.log)
    try:
        worker.call("setup", dsn=dsn, workload="curve")
        client.call("setup", dsn=dsn)
        yield worker, client
        client.stop()
        worker.stop()
    finally:
        worker.end()
        client.end()


def _pattern(bench: Bench, dsn: str, connection: psycopg.Connection[Any], kind: Kind) -> int:
    """Let a worker make one run of the kind; returns its run id."""
    kinds = {
        "closed": ("W1", "select run_id from hotmesh_engine.outcome"),
        "sleeping": (
            "dormant",
            "select run_id from hotmesh_engine.live"
            " where holder is null and due_at between now() + interval '1 day' and now() + interval '1 year'",
        ),
    }
    workload, query = kinds[kind]
    with _parts(bench, dsn) as (worker, client):
        worker.call("go")
        client.call("enqueue", workload=workload, count=1, bulk=False)
        deadline = time.monotonic() + 20
        while (row := connection.execute(query).fetchone()) is None:
            if time.monotonic() > deadline:
                raise MeasurementFailed(f"no {kind} run came about within 20 s")
            time.sleep(0.02)
        return int(row[0])


def _measured(bench: Bench, dsn: str, connection: psycopg.Connection[Any], count: int) -> dict[str, float]:
    """Claims, then W1 as in the harness, then W4."""
    row = connection.execute("select last_value from hotmesh_engine.id").fetchone()
    assert row is not None
    with _parts(bench, dsn) as (worker, client):
        client.call("enqueue", workload="W1", count=count)
        claim = _claim(connection)
        connection.execute("vacuum hotmesh_engine.live")
        begin = time.perf_counter()
        worker.call("go")
        worker.call("wait_steps", count=count, timeout=120, within=130)
        # By the primary key: looking must not cost more beside many sleepers.
        query = "select 1 from hotmesh_engine.live where run_id > %s limit 1"
        while connection.execute(query, (row[0],)).fetchone() is not None:
            if time.perf_counter() - begin > 180:
                raise MeasurementFailed("runs still open after 180 s")
            time.sleep(0.002)
        took = time.perf_counter() - begin
        trips = client.call("round_trips", count=ROUND_TRIPS, within=120)
    return {
        "workflows_per_s": round(count / took, 1),
        "claim_p50_ms": claim,
        "round_trip_p50_ms": trips["p50_ms"],
    }


def _claim(connection: psycopg.Connection[Any]) -> float:
    """Milliseconds (p50) of a bare claim of ready runs; each is rolled back."""
    row = connection.execute("select queue_id from hotmesh_engine.queue where name = %s", (QUEUE,)).fetchone()
    assert row is not None
    took = []
    for _ in range(20):
        with connection.transaction(force_rollback=True):
            begin = time.perf_counter()
            claimed = connection.execute(
                "select hotmesh_engine.claim_runs(1, array[%s::int], %s, 0, hotmesh.now(), null)",
                (row[0], CLAIM),
            ).fetchone()
            took.append(time.perf_counter() - begin)
            assert claimed is not None
            assert claimed[0]
    return round(1000 * statistics.median(took), 3)
