"""The servers and databases of the tests, and `async def` tests.

Which PostgreSQL the tests run on:

    (nothing set)                 the embedded one
    HOTMESH_TEST_SERVER=system    that of the machine, found by `pg_config --bindir`
    HOTMESH_TEST_DSN=...          a running server, by a DSN that may create databases

Each test that asks for `dsn` gets a fresh database, a copy of one that was migrated once.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyhotmesh import migrate
from pyhotmesh.embedded import EmbeddedServer

# Nothing that the tests keep outlives them, so the servers need not wait for a disk.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}

_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30  # bytes; the write-ahead log alone may grow to half of that

_numbers = itertools.count()

# The tests that take 10 s and more: those that mostly wait for others, and those that have a processor busy.
LONGEST = (
    (
        "test_the_snippets_do_what_they_say", "test_the_demonstration_succeeds",
        "test_an_activity_that_kills_its_process_late_is_quarantined_alone",
        "test_the_demonstration_fails_if_a_result_is_wrong",
        "test_a_workflow_that_kills_its_process_is_quarantined_alone",
    ),
    (
        "test_the_engine_does_what_the_model_does", "test_two_hundred_attempts_at_each_entry_fail_or_mean_nothing",
        "test_ten_thousand_signals_of_one_statement", "test_it_says_what_croniter_says",
        "test_ten_concurrent_upgrades_make_one_schema", "test_texts_find_what_a_plain_filter_finds",
        "test_lists_find_what_a_plain_filter_finds", "test_a_long_history_is_fetched_in_pages",
    ),
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """What the processes that tests start, hundreds, inherit."""
    # Where Python is told to write no bytecode, each would compile the package again.
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        bytecode = config.cache.mkdir("bytecode")
        _forget_what_is_gone(bytecode)
        os.environ["PYTHONPYCACHEPREFIX"] = str(bytecode)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # A shell has what it starts in the background ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _forget_what_is_gone(bytecode: Path) -> None:
    """Removes the bytecode of directories that are not there any more, as the temporary ones of earlier runs."""
    for directory, below, _ in os.walk(bytecode):
        for name in tuple(below):
            kept = Path(directory, name)
            if not Path("/", kept.relative_to(bytecode)).exists():
                shutil.rmtree(kept)
                below.remove(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest tests first, so that none of them runs alone at the end.

    Of two workers, one begins at the first item and one at the middle; one of them waits while the other one computes.
    """
    if not hasattr(config, "workerinput"):
        return
    waiting, computing = ([i for name in names for i in items if i.name.partition("[")[0] == name] for names in LONGEST)
    longest = {*waiting, *computing}
    rest = [item for item in items if item not in longest]
    middle = max(0, len(items) // 2 - len(waiting))
    items[:] = [*waiting, *rest[:middle], *computing, *rest[middle:]]


@contextlib.contextmanager
def directory_for_server() -> Iterator[Path]:
    """Where a server's files live, reachable for its account (which is not root's): in memory, where there is room.

    A database has 430 files. To copy one takes 20 ms in memory; on a disk between 8 and 450, as the file system
    likes, and there is a copy for each test.
    """
    roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
    with TemporaryDirectory(prefix="hotmesh-", dir=_MEMORY if roomy else None) as name:
        Path(name).chmod(0o755)
        yield Path(name)


class GivenServer:
    """The server of HOTMESH_TEST_DSN: tests can use it, but not restart it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.running = True

    def dsn_for(self, database: str) -> str:
        return make_conninfo(self.dsn, dbname=database)


def bindir() -> Path | None:
    """The binaries that HOTMESH_TEST_SERVER asks for; None for the embedded ones."""
    wanted = os.environ.get("HOTMESH_TEST_SERVER", "embedded")
    if wanted == "embedded":
        return None
    if wanted != "system":
        raise pytest.UsageError(f"HOTMESH_TEST_SERVER={wanted}: use embedded or system")
    return Path(subprocess.check_output(["pg_config", "--bindir"], text=True).strip())


@contextlib.contextmanager
def private_server(prepared: Path | None = None, **settings: str) -> Iterator[EmbeddedServer]:
    """A server of the kind that the tests run on, with the data of a prepared one. Whatever they do there, nothing may
    deadlock."""
    with directory_for_server() as home:
        if prepared is not None:
            subprocess.run(["cp", "-pR", str(prepared / "pgdata"), str(home)], check=True)
        server = EmbeddedServer(home, bindir=bindir(), settings={**SETTINGS, **settings})
        try:
            yield server.start()
            assert "deadlock detected" not in server.log.read_text(), server.log.read_text()
        finally:
            server.remove()


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer | GivenServer]:
    """The server that all tests share."""
    if given := os.environ.get("HOTMESH_TEST_DSN"):
        yield GivenServer(given)
    else:
        with private_server() as started:
            yield started


@pytest.fixture(scope="session")
def prepared() -> Iterator[Path]:
    """The directory of a server that is stopped: to copy it takes 0.2 s, to make one 1.4."""
    with directory_for_server() as home:
        with EmbeddedServer(home, bindir=bindir(), settings=SETTINGS) as server:
            migrate.upgrade(server.dsn)
        yield home


@pytest.fixture
def own_server(prepared: Path) -> Iterator[EmbeddedServer]:
    """A server of the test's own, to restart and kill. Its database `postgres` has the schema."""
    with private_server(prepared) as started:
        yield started


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """A directory for a server that the test itself starts."""
    with directory_for_server() as directory:
        yield directory


class Databases:
    """Makes databases on the shared server. What is not needed any more is dropped while the next test runs."""

    def __init__(self, server: EmbeddedServer | GivenServer) -> None:
        self.server = server
        self._conn = psycopg.connect(server.dsn, autocommit=True)
        self._dropper = ThreadPoolExecutor(1)
        self._dropping = psycopg.connect(server.dsn, autocommit=True)

    @contextlib.contextmanager
    def make(self, clauses: str = "") -> Iterator[tuple[str, str]]:
        """Name and DSN of a fresh one."""
        name = f"hotmesh_test_{os.getpid()}_{next(_numbers)}"
        self._conn.execute(f"create database {name} {clauses}".encode())
        try:
            yield name, self.server.dsn_for(name)
        finally:
            self._dropper.submit(self._dropping.execute, f"drop database {name} with (force)".encode())

    def close(self) -> None:
        self._dropper.shutdown()
        self._dropping.close()
        left = self._conn.execute("select datname from pg_database where datname like %s", (f"hotmesh_test_{os.getpid()}_%",))
        assert left.fetchall() == []
        self._conn.close()


@pytest.fixture(scope="session")
def databases(server: EmbeddedServer | GivenServer) -> Iterator[Databases]:
    made = Databases(server)
    yield made
    made.close()


@pytest.fixture(scope="session")
def template(databases: Databases) -> Iterator[str]:
    """The name of a migrated database to copy from."""
    with databases.make() as (name, dsn):
        migrate.upgrade(dsn)
        yield name


@pytest.fixture
def dsn(databases: Databases, template: str) -> Iterator[str]:
    """A fresh database with the schema."""
    # Measured on 18 in memory: 19 ms by file, although it waits for two checkpoints, and 32 ms through the WAL.
    # With fsync on, as a given server may have it, it is the other way round.
    strategy = "wal_log" if isinstance(databases.server, GivenServer) else "file_copy"
    with databases.make(f"template {template} strategy {strategy}") as (_, database):
        yield database


@pytest.fixture
def empty_dsn(databases: Databases) -> Iterator[str]:
    """A fresh database without the schema."""
    with databases.make() as (_, database):
        yield database


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Has a test that failed tell what its database says, if it has a look into one (`db`)."""
    report = yield
    tells = getattr(getattr(item, "funcargs", {}).get("db"), "tells", None)
    if call.when == "call" and report.failed and tells is not None:
        report.sections.append(("the database", tells()))
    return report


# ------------------------------------------------------------------------------- async def tests --


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests with asyncio, and tell where all tasks stand if one takes too long."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    marker = pyfuncitem.get_closest_marker("limit")
    limit = float(marker.args[0]) if marker else 60.0
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(_within(limit, pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names}))
    return True


async def _within(limit: float, test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    task = asyncio.create_task(test(**arguments), name="the test")
    done, _ = await asyncio.wait({task}, timeout=limit)
    if done:
        return task.result()
    stacks = io.StringIO()
    for other in asyncio.all_tasks() - {asyncio.current_task()}:
        other.print_stack(file=stacks)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    pytest.fail(f"not done after {limit:g} s; where the tasks were:\n{stacks.getvalue()}", pytrace=False)
