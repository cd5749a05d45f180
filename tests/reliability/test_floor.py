"""From where on workers look for due runs: nothing that turns up below stays there, and a backlog is no dead index entry."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import psycopg
import pytest

from pyhotmesh import Client, StartRequest, Worker, looks
from tests.reliability.engine import Hand
from tests.reliability.flows import shout
from tests.reliability.kit import Database, serve, until


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor follows at once, a second behind; all that is due is looked at now and then."""
    monkeypatch.setattr(looks, "POLL", 0.05)
    monkeypatch.setattr(looks, "LATE", 0.0)
    monkeypatch.setattr(looks, "ALL", 0.4)


def floor(worker: Worker) -> datetime:
    assert worker._turns is not None
    return worker._turns._floor.at(time.monotonic()) or datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize("how", ["commits late", "is handed back", "is swept"])
async def test_what_turns_up_below_the_floor_is_found(dsn: str, db: Database, how: str) -> None:
    async with Client(dsn) as client:
        with psycopg.connect(dsn) as late:
            hand = Hand(db, 1)
            start = "select hotmesh.start_workflow('shout', '[\"hey\"]', 'w')"
            if how == "commits late":
                late.execute(start.encode())
            else:
                db.rows(start)
                assert hand.claim()
            due = db.value("select hotmesh.now()")
            db.skip("1 minute")
            async with serve(client, lease=0.5) as worker:
                await until(lambda: floor(worker) > due, "the floor has passed it")
                if how == "commits late":
                    late.commit()
                elif how == "is handed back":
                    db.rows("select hotmesh_engine.retire(%s)", hand.id)
                else:
                    hand.falls_silent()
                assert await client.get_handle("w").result(timeout=20) == "hey!"


async def test_a_backlog_is_worked_off_however_old_it_is(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look leaves some of it, which says nothing of what is below the last one that it took."""
    monkeypatch.setattr(looks, "ALL", 3600.0)
    async with Client(dsn) as client:
        handles = await client.workflow.start_many([StartRequest(shout, [str(n)]) for n in range(40)])
        db.skip("1 minute")
        async with serve(client, max_concurrent_runs=2):
            assert [await handle.result(timeout=20) for handle in handles] == [f"{n}!" for n in range(40)]
