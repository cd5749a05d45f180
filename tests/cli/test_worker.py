"""`hotmesh worker`: one process or several, started, stopped and killed."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.cli.command import HotMesh, eventually, read_until


def pids_of(said: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"\[(\d+)\] INFO pyhotmesh.worker: \S+ serves default", said)]


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(hotmesh: HotMesh, dsn: str, number: signal.Signals) -> None:
    worker = hotmesh.start("worker", "app:worker")
    read_until(worker, "serves default")
    assert hotmesh("workflow", "start", "hello", "--arg", '"World"', "--wait") == '"Hello, World!"\n'
    worker.send_signal(number)
    said, _ = worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert "has stopped" in said
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select status from hotmesh.workers").fetchall() == [("dead",)]


def test_a_second_signal_abandons_what_still_runs(hotmesh: HotMesh) -> None:
    worker = hotmesh.start("worker", "app:worker")
    hotmesh("workflow", "start", "stuck", "--id", "s")
    read_until(worker, "endless has begun")
    worker.terminate()
    read_until(worker, "a second signal abandons them")
    worker.terminate()
    said, _ = worker.communicate(timeout=8)  # less than the 10 s that the activity would get
    assert worker.returncode == 0
    assert "abandons what still runs" in said
    assert json.loads(hotmesh("workflow", "show", "s", "--json"))["workflow"]["worker_id"] is None


def test_several_processes_share_the_work_and_replace_a_dead_one(hotmesh: HotMesh, dsn: str) -> None:
    parent = hotmesh.start("worker", "app:worker", "--processes", "2")
    said = ""
    while len(pids_of(said)) < 2:
        said += read_until(parent, "serves default")
    first, second = pids_of(said)
    os.kill(first, signal.SIGKILL)
    said = read_until(parent, "killed by SIGKILL", "serves default")
    (third,) = pids_of(said)
    assert hotmesh("workflow", "start", "who", "--wait").strip() in (str(second), str(third))
    parent.terminate()
    parent.communicate(timeout=20)
    assert parent.returncode == 0
    assert not alive(second)
    assert not alive(third)


def test_processes_end_when_their_supervisor_is_killed(hotmesh: HotMesh) -> None:
    parent = hotmesh.start("worker", "app:worker", "-n", "2")
    said = ""
    while len(pids_of(said)) < 2:
        said += read_until(parent, "serves default")
    parent.kill()
    eventually(lambda: not any(map(alive, pids_of(said))))


def test_a_worker_that_cannot_start_is_not_tried_for_ever(hotmesh: HotMesh) -> None:
    assert "no module 'nothere'" in hotmesh("worker", "nothere:worker", "-n", "2", code=2)


def test_one_that_cannot_start_again_does_not_end_the_others(hotmesh: HotMesh, app: Path) -> None:
    parent = hotmesh.start("worker", "app:worker", "-n", "2")
    said = ""
    while len(pids_of(said)) < 2:
        said += read_until(parent, "serves default")
    first, second = pids_of(said)
    (app / "app.py").rename(app / "away.py")
    os.kill(first, signal.SIGKILL)
    read_until(parent, "no module 'app'", "exit code 2")
    assert hotmesh("workflow", "start", "who", "--wait").strip() == str(second)
    (app / "away.py").rename(app / "app.py")
    read_until(parent, "serves default")
    parent.terminate()
    parent.communicate(timeout=20)
    assert parent.returncode == 0


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("app", "MODULE:ATTRIBUTE"),
        ("nothere:worker", "no module 'nothere'"),
        ("app:nothing", "has no 'nothing'"),
        ("app:not_a_worker", "app:not_a_worker is int"),
    ],
)
def test_a_wrong_target_is_told(hotmesh: HotMesh, target: str, says: str) -> None:
    assert says in hotmesh("worker", target, code=2)


def test_without_a_database(app: Path) -> None:
    assert "HOTMESH_DATABASE_URL" in HotMesh(app, None)("worker", "app:worker", code=2)


@pytest.mark.parametrize("more", [(), ("-n", "2")])
def test_with_a_database_that_there_is_not(app: Path, dsn: str, more: tuple[str, ...]) -> None:
    said = HotMesh(app, make_conninfo(dsn, dbname="nowhere"))("worker", "app:worker", *more, code=2)
    assert 'database "nowhere" does not exist' in said


def test_without_a_schema(app: Path, empty_dsn: str) -> None:
    assert "hotmesh db upgrade" in HotMesh(app, empty_dsn)("worker", "app:worker", code=1)
