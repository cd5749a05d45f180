"""Who keeps a lease, and who does not."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client
from pyhotmesh.line import Line
from tests.reliability.engine import Hand, start
from tests.reliability.flows import call, listen
from tests.reliability.kit import Database, serve, spawn, until


async def test_a_loop_that_blocks_keeps_its_lease(dsn: str, db: Database) -> None:
    """Three leases long nothing turns; heartbeats come from a thread of their own."""
    async with Client(dsn) as client, serve(client, lease=1.0):
        with spawn(dsn, "--queue", "blocks", lease=0.5) as blocker:
            handle = await client.workflow.start(call, args=["blocks_the_loop", [1.8], {}], task_queue="blocks")
            assert await handle.result(timeout=20) == "blocked"
            workers = db.rows("select status from hotmesh.workers where name = %s", blocker.name)
    assert workers == [("busy",)] or workers == [("idle",)]


@pytest.mark.limit(60)
async def test_a_loop_that_blocks_for_too_long_gives_its_runs_up(
    dsn: str, db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "pyhotmesh.worker")
    async with Client(dsn) as client:
        with spawn(dsn, "--stall-limit", "0.5", lease=0.5) as stalled:
            handle = await client.workflow.start(call, args=["blocks_until", [str(tmp_path / "go")], {}])
            await until((tmp_path / "go.begun").exists, "it blocks")
            async with serve(client, lease=0.5):
                await until(lambda: (tmp_path / "go.begun").read_text() == "xx", "another has taken over")
                assert "has not turned" in stalled.log and "blocks_until" in stalled.log
                (tmp_path / "go").touch()
                assert await handle.result(timeout=20) == "free"


async def test_a_run_at_rest_is_in_nobody_s_memory(dsn: str, db: Database) -> None:
    """After two seconds of waiting the lease goes back, and a signal finds any worker."""
    async with Client(dsn) as client:
        async with serve(client):
            handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
            await until(lambda: db.parked("w"), "it is parked")
        with spawn(dsn):
            await client.signal("k", 1)
            assert await handle.result(timeout=20) == [1]


async def test_an_outage_kills_no_lease(dsn: str, db: Database) -> None:
    """A worker that was itself out of touch judges nobody."""
    async with Client(dsn) as client, serve(client, lease=0.5) as one, serve(client, lease=0.5) as two:
        handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
        await until(lambda: db.waits("w"), "it waits")
        # As after an outage: nobody has been heard of for an hour.
        db.rows("update hotmesh_engine.worker set beat_at = beat_at - interval '1 hour' returning 1")
        await until(
            lambda: db.value("select count(*) from hotmesh_engine.worker where beat_at > contact_at") == 2, "all beat again"
        )
        assert db.value("select count(*) from hotmesh.workers where status = 'dead'") == 0
        await client.signal("k", 1)
        assert await handle.result(timeout=20) == [1]
        assert one is not two


def test_the_first_to_come_back_waits_for_the_others(db: Database) -> None:
    """An outage broke everybody's contact. Who has been in touch for a lease again may judge those who have not."""
    one, two = Hand(db, 1), Hand(db, 2)
    for worker in (one, two):
        worker.is_old()
        worker.falls_silent()
    assert one.beat()
    one.sweep()
    assert not two.is_dead
    one.is_old()
    assert one.beat()
    one.sweep()
    assert two.is_dead
    assert not two.beat(), "death is final, and it is told so"
    assert two.is_dead


def test_who_has_not_been_heard_of_judges_nobody(db: Database) -> None:
    """The server itself stood still for a while, with a sweep on its way: all are silent by its clock, the sweeper too."""
    one, two = Hand(db, 1), Hand(db, 2)
    for worker in (one, two):
        worker.is_old()
        worker.falls_silent()
    one.sweep()
    assert not two.is_dead
    assert not one.is_dead


async def test_what_an_interrupted_run_does_is_stopped_at_once(dsn: str, db: Database, tmp_path: Path) -> None:
    """Its worker is told; it need not find out with its next heartbeat, which here is 15 s away."""
    end = tmp_path / "end"
    async with Client(dsn) as client, serve(client, lease=60.0):
        handle = await client.workflow.start(call, args=["tells_its_end", [str(end)], {}])
        await until(end.exists, "it runs")
        await handle.interrupt()
        await until(lambda: end.read_text() == "cancelled", "it is cancelled", seconds=8)


def test_a_dead_worker_is_released_in_portions_that_end(db: Database) -> None:
    """Whoever comes goes on with it; nobody waits for who is at it."""
    dead, sweeper, other = Hand(db, 1), Hand(db, 2, "other"), Hand(db, 3, "other")
    runs = set(start(db, *[f"w{i}" for i in range(25)]))
    assert dead.claim() == runs
    dead.falls_silent()
    for worker in (sweeper, other):
        worker.is_old()
    with Database(db.dsn) as first:
        first.conn.autocommit = False
        assert first.value("select hotmesh_engine.sweep(2, 10)") == 10
        assert other.sweep() == 0, "it is being noted, by somebody else"
        first.conn.commit()
        assert first.value("select hotmesh_engine.sweep(2, 10)") == 10
        assert other.sweep() == 5
        first.conn.commit()
    assert other.sweep() == 0
    heir = Hand(db, 4)
    assert heir.claim() == runs
    assert {fence for fence, _ in heir.leases.values()} == {3}


async def test_what_stays_locked_is_tried_ever_more_rarely(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal for a run that a session which has got stuck holds: a worker does not spend its time on it."""
    turns, turn = 0, Line.turn

    async def counted(*args: Any) -> Any:
        nonlocal turns
        turns += 1
        return await turn(*args)

    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
            await until(lambda: db.parked("w"), "it is parked")
        with psycopg.connect(dsn) as stuck:
            stuck.execute("select from hotmesh_engine.live for update")
            db.rows("select hotmesh.signal('k', '1')")
            monkeypatch.setattr(Line, "turn", counted)
            async with serve(client):
                await until(lambda: turns > 3, "it tries")
                await asyncio.sleep(1.0)
                assert 5 < turns < 40
                stuck.rollback()
                assert await handle.result(timeout=20) == [1]
