"""What gathers for more than one turn goes in an order that the engine can follow."""

from __future__ import annotations

import asyncio

import pytest

from pyhotmesh import Client, StartRequest, Worker, sealing, work, workflow
from tests.reliability.kit import Database


async def moment(number: int) -> int:
    await asyncio.sleep(0.1)
    return number


@workflow.defn
async def momentary(number: int) -> int:
    return await workflow.execute_activity(moment, number, start_to_close_timeout=30)


@pytest.mark.parametrize("cuts", [0, 8], ids=["", "the connection is cut"])
@pytest.mark.parametrize("size", [1, 7])
async def test_an_activity_that_ends_while_its_row_waits_for_a_turn_is_recorded(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch, size: int, cuts: int
) -> None:
    """Else the row would come after the outcome: leased for ever, to somebody who has forgotten it."""
    monkeypatch.setattr(sealing, "MAX_BATCH_RUNS", size)
    monkeypatch.setattr(work, "MOMENT", 0.05)  # what runs for longer gets a row
    turns = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ~ 'engine.turn'"
    async with Client(dsn) as client, Worker(client, workflows=[momentary], activities=[moment]):
        handles = await client.workflow.start_many([StartRequest(momentary, [n]) for n in range(100)])
        for _ in range(cuts):
            await asyncio.sleep(0.05)
            db.rows(f"{turns} and pid <> pg_backend_pid()")
        assert await asyncio.gather(*(h.result(timeout=15) for h in handles)) == list(range(100))
    assert db.value("select count(*) from hotmesh_engine.activity_task") == 0
