"""What the reliability tests share: a look into the database, waiting for conditions, workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from bench.chaos.processes import WorkerProcess
from pyhotmesh import Client, Worker
from tests.reliability import flows


class Database:
    """A connection of the test's own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = psycopg.connect(dsn, autocommit=True)

    def rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        cursor = self.conn.execute(query.encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *params: Any) -> Any:
        found = self.rows(query, *params)
        return found[0][0] if found else None

    def skip(self, by: str) -> None:
        """Moves the engine's clock."""
        self.rows("select hotmesh_engine.skip(%s)", by)

    def status(self, workflow_id: str) -> str | None:
        return self.value("select status from hotmesh.workflows where workflow_id = %s order by run_id desc limit 1", workflow_id)

    def parked(self, *workflow_ids: str) -> bool:
        """Whether all these are open, in no worker's memory, and have nothing to do."""
        query = "select count(*) from hotmesh.workflows where workflow_id = any(%s) and status = 'waiting'"
        return bool(self.value(query, list(workflow_ids)) == len(workflow_ids))

    def waits(self, workflow_id: str, count: int = 1) -> bool:
        """Whether the workflow has registered that many waits."""
        return bool(self.value("select count(*) from hotmesh.waiting where workflow_id = %s", workflow_id) >= count)

    def all_wait(self, workflow_ids: list[str]) -> bool:
        """Whether each of these has registered a wait; one question, as the loop of a worker here waits for it."""
        query = "select count(distinct workflow_id) from hotmesh.waiting where workflow_id = any(%s)"
        return bool(self.value(query, workflow_ids) == len(workflow_ids))

    def waits_for_a_lock(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether this other connection waits for somebody's lock."""
        return bool(self.value("select cardinality(pg_blocking_pids(%s))", conn.info.backend_pid))

    def leases(self, workflow_id: str) -> int:
        """How often an open workflow has been leased."""
        query = "select abs(fence) from hotmesh_engine.live join hotmesh_engine.run using (run_id) where workflow_id = %s"
        return int(self.value(query, workflow_id))

    def events(self, workflow_id: str) -> list[str]:
        query = "select event from hotmesh.history where workflow_id = %s order by seq nulls last"
        return [e for (e,) in self.rows(query, workflow_id)]

    def tells(self) -> str:
        """What a person would look at."""
        lines = []
        for name in ("workflows", "waiting", "activities", "schedules", "firings", "queues", "workers"):
            with psycopg.connect(self.dsn, row_factory=psycopg.rows.dict_row) as conn:
                for row in conn.execute(f"select * from hotmesh.{name} limit 20".encode()):
                    lines.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in row.items() if v is not None))
        return "\n".join(lines)

    def check(self) -> None:
        """Nothing is wrong, and nobody has deadlocked."""
        assert self.rows("select * from hotmesh.check_invariants()") == []
        self.conn.execute("select pg_stat_clear_snapshot()")
        assert self.value("select deadlocks from pg_stat_database where datname = current_database()") == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.conn.close()


async def until(condition: Callable[[], Any], what: str = "", seconds: float = 20.0) -> None:
    """Waits for a condition (a function, async or not)."""
    deadline = time.monotonic() + seconds
    while True:
        met = condition()
        if isinstance(met, Awaitable):
            met = await met
        if met:
            return
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)


def serve(connection: Client | str, **options: Any) -> Worker:
    """A worker in this process, for all workflows and activities of the suite."""
    options = {"workflows": flows.WORKFLOWS, "activities": flows.ACTIVITIES, "graceful_shutdown_timeout": 1.0} | options
    return Worker(connection, **options)


def spawn(dsn: str, *options: object, ledger: Path | None = None, **more: Any) -> WorkerProcess:
    """The same in a process of its own."""
    return WorkerProcess(dsn, "--module", "tests.reliability.flows", *options, ledger=ledger, **more)
