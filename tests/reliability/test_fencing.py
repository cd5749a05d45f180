"""A worker that was away for longer than its lease can record nothing of what it held."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import psycopg
import pytest

from pyhotmesh import Client
from tests.reliability.engine import REJECTED, Hand, start
from tests.reliability.flows import pids
from tests.reliability.kit import Database, serve, spawn, until


@pytest.mark.parametrize("with_row", [False, True], ids=["held in memory", "with a task row"])
async def test_a_stopped_worker_records_nothing_when_it_goes_on(dsn: str, db: Database, tmp_path: Path, with_row: bool) -> None:
    async with Client(dsn) as client:
        with spawn(dsn) as zombie:
            options = {"schedule_to_close_timeout": 3600} if with_row else {}
            handle = await client.workflow.start("call", args=["held", [str(tmp_path)], options], workflow_id="w")
            begun = tmp_path / "begun"
            # To the end of its line: if stopped between making the file and writing, it would never have said so.
            await until(lambda: begun.exists() and begun.read_text().endswith("\n"), "it has begun")
            if with_row:
                await until(
                    lambda: db.value("select count(*) = 1 from hotmesh.activities where status = 'running'"), "a task row"
                )
            zombie.send(signal.SIGSTOP)
            async with serve(client, lease=1.0) as heir:
                await until(lambda: begun.read_text().count("\n") == 2, "the heir has taken over")
                assert zombie.released(db.conn)
                zombie.send(signal.SIGCONT)
                await until(lambda: "lost its lease" in zombie.log or zombie.registered(db.conn), "the zombie has noticed")
                (tmp_path / "go").touch()
                pid, attempt = await handle.result(timeout=20)
            assert pid != zombie.pid and attempt == (2 if with_row else 1)
            assert heir is not None
            assert db.events("w").count("activity_completed") == 1
            # It is a worker like any other again, under another id.
            assert await client.workflow.execute(pids, args=[1], timeout=20) == [zombie.pid]


async def test_its_neighbours_go_on_while_it_is_stopped(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, lease=1.0):
        with spawn(dsn) as zombie:
            await until(lambda: zombie.registered(db.conn), "it serves")
            zombie.send(signal.SIGSTOP)
            assert await client.workflow.execute("chain", args=[20], timeout=20) == [2 * i for i in range(20)]
            await until(lambda: zombie.released(db.conn), "it is swept")
            zombie.send(signal.SIGCONT)
            await until(lambda: zombie.registered(db.conn), "it registers anew")


TURN = "select * from hotmesh_engine.turn(1, %s, 10, 0, 0, null, 0, null, '{}'"


@pytest.mark.parametrize("does", ["records", "claims"])
def test_adoption_waits_for_a_turn_of_the_old_incarnation(db: Database, does: str) -> None:
    """A turn whose reply was lost may still run: what it records must be known before anything is sent again,
    and what it claims must not stay with a worker that does not know of it."""
    db.rows("select hotmesh.start_workflow('t', '[]', 'w')")
    db.rows("select hotmesh_engine.register(1, 'w', 'default', '{default}', 10, '0')")
    queue = db.value("select queue_id from hotmesh_engine.queue")
    call, params, held = f"{TURN})", [[queue]], []
    if does == "records":
        ((_, run, _, _, fence, *_),) = [r for r in db.rows(call, *params) if r[0] == 1]
        call = f"""{TURN}, p_run => %s, p_fence => %s, p_base => '{{0}}', p_end => '{{0}}', p_due => '{{null}}',
            p_outcome => '{{null}}', j_run => %s, j_seq => '{{1}}', j_kind => '{{1}}', j_command => '{{null}}',
            j_at => array[now()], j_payload => '{{null}}', j_commands => '{{null}}')"""
        params, held = [[queue], [run], [fence], [run]], [run]
    adopted: list[tuple[object, ...]] = []
    with psycopg.connect(db.dsn) as old, psycopg.connect(db.dsn, autocommit=True) as new:
        old.execute(call.encode(), params)

        def adopt() -> None:
            adopted.extend(new.execute("select * from hotmesh_engine.adopt(1, 2, 'w', %s::bigint[], '{}', '{}', '{}')", (held,)))

        adopting = threading.Thread(target=adopt)
        adopting.start()
        while not db.waits_for_a_lock(new):
            assert adopting.is_alive(), "it has not waited"
        old.commit()
        adopting.join()
        if does == "records":
            assert adopted == [(run, None, 1, fence)]
        else:
            assert adopted == [] and db.status("w") == "ready"
        with pytest.raises(psycopg.Error) as refused:
            old.execute(call.encode(), params)
        assert refused.value.sqlstate == "HM004"


def test_who_does_not_hold_a_run_cannot_park_it(db: Database) -> None:
    """Its turn was refused, it says; but the lease has moved on meanwhile."""
    (run,) = start(db, "w")
    holder, other = Hand(db, 1), Hand(db, 2)
    assert holder.claim() == {run}
    fence = holder.leases[run][0]
    failed = "select hotmesh_engine.turn_failed(%s, %s, %s, '22003', 'not yours')"
    db.rows(failed, other.id, run, fence)
    db.rows(failed, holder.id, run, fence - 1)
    assert db.status("w") == "running"
    assert holder.step(run)
    db.rows(failed, holder.id, run, fence)
    assert db.status("w") == "troubled"
    assert not holder.step(run), "it has given it up"


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside another"])
@pytest.mark.parametrize("moved", ["holder", "fence", "journal"])
def test_a_turn_counts_only_if_holder_fence_and_journal_are_as_it_says(db: Database, moved: str, alone: bool) -> None:
    """A crash of the server may have taken a lease of which its worker knows, and given its number to another."""
    run, neighbour = start(db, "w", "n")
    worker = Hand(db, 1)
    assert worker.claim() == {run, neighbour}
    db.rows(
        {
            "holder": "update hotmesh_engine.live set holder = 2 where run_id = %s",
            "fence": "update hotmesh_engine.live set fence = fence + 1 where run_id = %s",
            "journal": "insert into hotmesh_engine.journal (run_id, at, seq, kind) values (%s, hotmesh.now(), 1, 1)",
        }[moved], run,
    )  # fmt: skip
    rows_of = "select count(*) from hotmesh_engine.journal j where j.run_id = l.run_id"
    known = f"select l, ({rows_of}) from hotmesh_engine.live l where run_id = %s"
    before = db.rows(known, run)
    runs = [run] if alone else [run, neighbour]
    n, now = len(runs), db.value("select hotmesh.now()")
    rows = worker.turn(
        p_run=runs, p_fence=[worker.leases[r][0] for r in runs], p_base=[0] * n, p_end=[1] * n, p_due=[None] * n,
        p_outcome=["1"] * n, j_run=runs, j_seq=[1] * n, j_kind=[1] * n, j_command=[None] * n, j_at=[now] * n,
        j_payload=[None] * n, j_commands=[None] * n, s_run=runs, s_key=["k"] * n, s_payload=[str(r) for r in runs],
    )  # fmt: skip
    assert [row[1] for row in rows if row[0] == REJECTED] == [run]
    assert db.rows(known, run) == before
    assert db.rows("select payload from hotmesh.signals") == ([] if alone else [(neighbour,)])
    assert db.status("n") == ("running" if alone else "completed")
    if moved == "holder":
        db.rows("update hotmesh_engine.live set holder = null where run_id = %s", run)
