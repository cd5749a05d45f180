"""A turn whose reply is lost: the worker learns what was recorded, keeps what it holds, and doubles nothing."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from bench.chaos.proxy import AFTER, BEFORE, Proxy
from bench.chaos.torment import torment
from pyhotmesh import Client, Worker, looks, sealing
from tests.reliability.engine import Hand, start
from tests.reliability.flows import listen, shout
from tests.reliability.kit import Database, serve, until

MIXED = {n: (BEFORE, AFTER)[n // 3 % 2] for n in range(4, 100, 3)}


@pytest.mark.limit(100)
@pytest.mark.parametrize(
    "plan",
    [{3: AFTER}, {3: BEFORE}, {5: AFTER, 6: AFTER, 7: BEFORE}, MIXED],
    ids=["one answer lost", "one turn lost", "three in a row", "every third"],
)
async def test_nothing_is_doubled_and_no_lease_leaks(dsn: str, tmp_path: Path, plan: dict[int, str]) -> None:
    """The lease is a minute and the limit much less: what leaked would not come back in time."""
    async with Proxy(dsn, plan.get) as proxy:
        report = await torment(dsn, tmp_path, workflows=40, worker_dsn=proxy.dsn, processes=1, lease=60.0, limit=40.0)
    assert report.good, report
    assert report.closed == 40
    assert report.extra_effects == 0
    reached = [side for turn, side in plan.items() if turn <= proxy.turns]
    assert proxy.cuts == {BEFORE: reached.count(BEFORE), AFTER: reached.count(AFTER)}
    assert sum(proxy.cuts.values()) >= min(len(plan), 4)
    with psycopg.connect(dsn) as conn:
        left = "select (select count(*) from hotmesh_engine.live), (select count(*) from hotmesh_engine.activity_task)"
        assert conn.execute(left).fetchone() == (0, 0)


def test_adoption_releases_what_the_memory_of_the_worker_is_ahead_of(db: Database) -> None:
    """A crash of the server has taken turns that were answered, but not flushed. What stands where the worker knows it
    to stand, before or after what is on its way, goes on."""
    before, after, lost, more = start(db, "before", "after", "lost", "more")
    worker = Hand(db, 1)
    assert worker.claim() == {before, after, lost, more}
    for run in (after, lost, lost, more, more, more):
        assert worker.step(run)
    fences = {run: fence for run, (fence, _) in worker.leases.items()}
    db.rows("delete from hotmesh_engine.journal where run_id = %s and seq = 2 returning 1", lost)
    params = [before, after, lost, more], [0, 0, 2, 0], [1, 1, 3, 2]
    for _ in range(2):
        rows = db.rows(
            "select * from hotmesh_engine.adopt(1, 2, 'hand 1', %s::bigint[], '{}', '{}', '{}', %s::int[], %s::int[])", *params
        )
        assert sorted(rows) == [(before, None, 0, fences[before]), (after, None, 1, fences[after])]
    free = db.rows("select run_id, fence from hotmesh_engine.live where holder is null order by 1")
    assert free == [(lost, fences[lost] + 1), (more, fences[more] + 1)]
    heir = Hand(db, 3)
    assert heir.claim() == {lost, more}
    assert [heir.leases[run][1] for run in (lost, more)] == [1, 3], "it begins from the journal"


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for nothing, and park nothing."""
    monkeypatch.setattr(looks, "POLL", 60.0)
    monkeypatch.setattr(looks, "LOOKS", ())
    monkeypatch.setattr(sealing, "WARM", 60.0)


def cut(db: Database) -> None:
    """The worker's connection for turns is gone."""
    turns = "pid <> pg_backend_pid() and query ~ 'hotmesh_engine.(turn|given)\\('"
    assert db.rows(f"select pg_terminate_backend(pid) from pg_stat_activity where {turns}")


@pytest.mark.usefixtures("at_rest")
async def test_whoever_meets_the_broken_connection_first_the_worker_adopts(dsn: str, db: Database) -> None:
    """What the server has lost with it, here by hand, does not stay with a worker that thinks to know better."""
    async with Client(dsn) as client, serve(client) as worker:
        handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
        await until(lambda: db.waits("w"), "it waits")
        await until(lambda: db.value("select asleep from hotmesh_engine.sleeper"), "and the worker sleeps")
        cut(db)
        for table in ("journal", "waiting"):
            db.rows(f"delete from hotmesh_engine.{table} where run_id = %s returning 1", handle.run_id)
        assert worker is not None and worker._turns is not None
        await worker._turns.feeder.ask_for_given()  # as it does once a second
        assert await client.workflow.execute(shout, args=["on"], timeout=10) == "on!"
        await client.signal("k", 1)
        assert await handle.result(timeout=10) == [1]


@pytest.mark.usefixtures("at_rest")
async def test_what_a_worker_gives_up_while_it_adopts_does_not_stay_with_it(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed, adoptions = Worker._renamed, []

    async def fails_meanwhile(self: Worker, old: int, new: int) -> None:
        await renamed(self, old, new)
        adoptions.append(new)
        assert self._turns is not None
        if len(adoptions) == 1:
            self._turns.held.drop(self._turns.held.runs[handle.run_id])

    monkeypatch.setattr(Worker, "_renamed", fails_meanwhile)
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(listen, args=["k"], workflow_id="w")
        await until(lambda: db.waits("w"), "it waits")
        cut(db)
        assert await client.workflow.execute(shout, args=["on"], timeout=10) == "on!"
        await client.signal("k", 1)
        assert await handle.result(timeout=10) == [1]
        assert len(adoptions) == 2
