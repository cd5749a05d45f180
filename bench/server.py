"""The one PostgreSQL server of a benchmark, and what it says of itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pyhotmesh.embedded import EmbeddedServer, wheel_binaries

# Everything else is PostgreSQL's default, durability above all.
SETTINGS = {"shared_preload_libraries": "pg_stat_statements"}
SHOWN = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
    "shared_preload_libraries",
    "autovacuum",
    "jit",
)
PACKAGES = (
    "pyhotmesh",
    "dbos",
    "absurd-sdk",
    "absurdctl",
    "procrastinate",
    "pgqueuer",
    "psycopg",
    "asyncpg",
    "sqlalchemy",
    "orjson",
    "uvloop",
)


@dataclass(frozen=True)
class Counters:
    """What a database has done so far. WAL is the whole server's."""

    commits: int
    deadlocks: int
    statements: int | None
    wal_bytes: int

    def since(self, before: Counters) -> dict[str, int]:
        """The differences to an earlier reading."""
        found = {
            "commits": self.commits - before.commits,
            "deadlocks": self.deadlocks - before.deadlocks,
            "wal_bytes": self.wal_bytes - before.wal_bytes,
        }
        if self.statements is not None and before.statements is not None:
            found["statements"] = self.statements - before.statements
        return found


class Server:
    """An embedded PostgreSQL with a database per system, made afresh for each measurement."""

    def __init__(self, **settings: str) -> None:
        self._embedded = EmbeddedServer(settings={**SETTINGS, **settings})
        self._control: psycopg.Connection[Any] | None = None
        self._has_statements = False

    def __enter__(self) -> Server:
        self._embedded.start()
        # In the database `postgres`: its own statements count in no measured database.
        self._control = psycopg.connect(self._embedded.dsn, autocommit=True)
        try:
            self._control.execute("create extension pg_stat_statements")
            self._has_statements = True
        except psycopg.Error:
            self._has_statements = False
        return self

    def __exit__(self, *_: object) -> None:
        if self._control is not None:
            self._control.close()
        self._embedded.remove()

    @property
    def programs(self) -> Path:
        """Where `psql` and `pgbench` are."""
        return wheel_binaries()

    @property
    def pid(self) -> int | None:
        return self._embedded.pid

    def dsn(self, database: str) -> str:
        return self._embedded.dsn_for(database)

    def one(self, query: str, *args: Any) -> Any:
        """The first column of the first row of a query in the database `postgres`."""
        assert self._control is not None
        row = self._control.execute(query, args).fetchone()  # type: ignore[arg-type]
        return row[0] if row else None

    def create(self, database: str, template: str | None = None) -> str:
        """Make a database (dropping an old one of that name) and return its DSN."""
        assert self._control is not None
        self.drop(database)
        statement = sql.SQL("create database {}").format(sql.Identifier(database))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        self._control.execute(statement)
        return self.dsn(database)

    def drop(self, database: str) -> None:
        assert self._control is not None
        self._control.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database)))

    def clients(self, database: str) -> int:
        """How many clients are connected to a database."""
        query = "select count(*) from pg_stat_activity where datname = %s and backend_type = 'client backend'"
        return int(self.one(query, database))

    def counters(self, database: str) -> Counters:
        """What a database has done. A backend reports its commits at most once a second, and all of
        them when it ends, so a reading is exact once the clients have gone."""
        assert self._control is not None
        self._control.execute("select pg_stat_clear_snapshot()")
        row = self._control.execute(
            "select xact_commit, deadlocks, pg_current_wal_insert_lsn() - '0/0'::pg_lsn, datid"
            " from pg_stat_database where datname = %s",
            (database,),
        ).fetchone()
        assert row is not None
        statements = None
        if self._has_statements:
            query = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements(false) where dbid = %s"
            statements = int(self.one(query, row[3]))
        return Counters(int(row[0]), int(row[1]), statements, int(row[2]))

    def describe(self) -> dict[str, Any]:
        """The machine, the server and the packages, for the report."""
        data = str(self._embedded.pgdata)
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
            "file_system": _file_system(data),
            "python": platform.python_version(),
            "postgresql": self.one("select version()"),
            "settings": {name: self.one("select current_setting(%s)", name) for name in SHOWN},
            "packages": _versions(PACKAGES),
        }


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(path: str) -> str:
    best, kind = "", "unknown"
    try:
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, fs, *_ = line.split()
            if len(mount) > len(best) and (path + "/").startswith(mount.rstrip("/") + "/"):
                best, kind = mount, fs
    except OSError:
        pass
    return kind
