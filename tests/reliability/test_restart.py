"""PostgreSQL stops and comes back in the middle of the work."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import psycopg
import pytest

from bench.chaos.torment import torment
from pyhotmesh import Client, migrate
from pyhotmesh.embedded import EmbeddedServer
from tests.reliability.flows import listen
from tests.reliability.kit import Database, serve, spawn, until


@pytest.mark.limit(100)
@pytest.mark.parametrize("mode", ["fast", "kill"])
async def test_work_goes_on_after_a_restart(own_server: EmbeddedServer, tmp_path: Path, mode: str) -> None:
    report = await torment(
        own_server.dsn, tmp_path, workflows=60, restarts=2, restart=lambda: own_server.restart(mode), lease=10.0
    )
    assert report.good, report
    assert report.closed == 60
    # Two workers, two restarts: each says at most that the database is away, for its turns, its
    # listener and a statement in between, not once a try.
    assert report.log_lines <= 12


async def test_a_worker_says_once_that_there_is_no_database(caplog: pytest.LogCaptureFixture) -> None:
    worker = serve("host=127.0.0.1 port=1 dbname=nothing")
    running = asyncio.create_task(worker.run())
    with caplog.at_level(logging.DEBUG, "pyhotmesh.worker"):
        await asyncio.sleep(1.0)  # three attempts: it waits for 0.1, 0.2, 0.4, ... seconds
    running.cancel()
    said = [record.message for record in caplog.records if "no connection" in record.message]
    assert len(said) == 1, said
    assert "trying again" in said[0]
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.limit(60)
async def test_a_signal_that_was_sent_survives_a_crash(own_server: EmbeddedServer) -> None:
    migrate.upgrade(own_server.dsn)
    with spawn(own_server.dsn, lease=30.0) as worker:
        async with Client(own_server.dsn) as client:
            await client.workflow.start(listen, args=["s"], workflow_id="w")
            with Database(own_server.dsn) as db:
                await until(lambda: db.waits("w"), "it waits")
            worker.send(signal.SIGSTOP)
            await client.signal("s", 1)
        own_server.restart("kill")
        with psycopg.connect(own_server.dsn) as conn:
            assert conn.execute("select count(*) from hotmesh_engine.inbox where kind = 5").fetchone() == (1,)
        worker.send(signal.SIGCONT)
        async with Client(own_server.dsn) as client:
            assert await client.get_handle("w").result(timeout=40) == [1]
