"""What is over is kept for as long as was said, and then it is gone, all of it."""

from __future__ import annotations

import pytest

from pyhotmesh import Client, WorkflowNotFound
from tests.reliability.engine import Hand, start
from tests.reliability.flows import chain, listen
from tests.reliability.kit import Database, serve, until

# What begins and ends with runs, signals and workers. The others hold names, or the clock.
TABLES = (
    "run", "outcome", "live", "open_id", "trouble", "journal", "inbox", "waiting", "message", "unrouted", "undelivered",
    "request", "activity_task", "worker", "sleeper", "waiter",
)  # fmt: skip


def left(db: Database) -> dict[str, int]:
    """Rows of each table that has any."""
    counts = {t: db.value(f"select count(*) from hotmesh_engine.{t}") for t in TABLES}
    return {t: n for t, n in counts.items() if n}


def prune(db: Database) -> int:
    return int(db.value("select hotmesh.prune()"))


async def test_a_run_is_kept_for_its_retention(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with serve(client):
            short = await client.workflow.start(chain, args=[2], workflow_id="short", retention="1 hour")
            long = await client.workflow.start(chain, args=[3], workflow_id="long")
            await short.result(20), await long.result(20)
        db.skip("59 minutes")
        assert prune(db) == 0
        assert await short.result(1) == [0, 2]
        assert len(await short.history()) > 0
        db.skip("1 minute 5 seconds")
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("short").result(1)
        assert prune(db) == 0, "who has just been told of its end may still fetch the outcome"
        db.skip("10 seconds")
        assert prune(db) == 1
        assert db.rows("select workflow_id from hotmesh_engine.run") == [("long",)]
        assert db.value("select count(distinct run_id) from hotmesh_engine.journal") == 1
        db.skip("6 days 22 hours")
        assert prune(db) == 0
        assert await long.result(1) == [0, 2, 4]
        db.skip("1 hour 10 seconds")
        assert prune(db) == 1
        assert not left(db).keys() & {"run", "outcome", "journal"}


async def test_a_portion_at_a_time(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        for _ in range(5):
            await client.workflow.execute(chain, args=[1], timeout=20)
        db.skip("8 days")
        assert [db.value("select hotmesh.prune(2)") for _ in range(4)] == [2, 2, 1, 0]


async def test_signals_and_their_keys_are_kept_for_a_week(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        await client.signal("k", 1, idempotency_key="once")
        db.skip("6 days 23 hours")
        prune(db)
        await client.signal("k", 2, idempotency_key="once")
        assert left(db) == {"message": 1, "request": 1}
        db.skip("2 hours")
        prune(db)
        assert left(db) == {}
        await client.signal("k", 3, idempotency_key="once")
        assert left(db) == {"message": 1, "request": 1}


async def test_what_workflows_send_is_kept_for_as_long(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        await client.workflow.start("ping_pong", args=["a", "b", 1], workflow_id="w")
        await until(lambda: db.rows("select signal_id from hotmesh.signals") == [("b/0",)], "it is sent")
        db.skip("6 days 23 hours")
        prune(db)
        assert left(db)["message"] == 1
        db.skip("2 hours")
        prune(db)
        assert "message" not in left(db)
        await client.get_handle("w").interrupt()


async def test_what_could_not_be_delivered_goes_too(dsn: str, db: Database) -> None:
    """A signal with its week, what was meant for a run with that run."""
    async with Client(dsn) as client, serve(client):
        await client.workflow.start(listen, args=["k"], workflow_id="w")
        await until(lambda: db.waits("w"), "it waits")
        insert = (
            "insert into hotmesh_engine.undelivered (message_id, since, place, expires_at, namespace_id, run_id, command, kind,"
            " shared, key, payload, code, reason)"
        )
        db.rows(f"{insert} values (1, now(), 1, now() + interval '7 days', 1, null, null, 5, false, 'x', '1', '22003', 'why')")
        db.rows(
            f"{insert} select 2, now(), null, null, 1, run_id, 99, 2, false, null, '1', '22003', 'why' from hotmesh_engine.live"
        )
        prune(db)
        assert left(db)["undelivered"] == 2
        db.skip("8 days")
        prune(db)
        assert db.rows("select message_id from hotmesh_engine.undelivered") == [(2,)]
        await client.get_handle("w").interrupt()
        prune(db)
        assert "undelivered" not in left(db)


def test_dead_workers_are_remembered_for_a_day_and_until_their_runs_are_others(db: Database) -> None:
    dead, sweeper = Hand(db, 1), Hand(db, 2, "other")
    sweeper.is_old()
    (run,) = start(db, "w")
    assert dead.claim() == {run}
    # Its death has been noted, and nobody has come yet to release what it held.
    db.rows("update hotmesh_engine.worker set dead = true, beat_at = beat_at - interval '2 days' where worker_id = 1 returning 1")
    prune(db)
    assert left(db)["worker"] == 2
    sweeper.sweep()
    assert db.status("w") == "ready"
    prune(db)
    assert db.rows("select worker_id from hotmesh_engine.worker") == [(2,)]


def test_clients_that_never_came_back_are_forgotten(db: Database) -> None:
    (run,) = start(db, "w")
    db.rows("call hotmesh_engine.await(%s, 7, null, null, null)", [run])
    prune(db)
    assert left(db)["waiter"] == 1
    db.rows("update hotmesh_engine.waiter set since = since - interval '2 days' returning 1")
    prune(db)
    assert "waiter" not in left(db)
