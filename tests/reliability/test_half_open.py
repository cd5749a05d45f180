"""A connection that is there at both ends, and carries nothing: no error, no end, no answer."""

from __future__ import annotations

import asyncio

import pytest

from pyhotmesh import Client, TimeoutError, connection, direct, heartbeat, looks, pool
from pyhotmesh import client as client_module
from tests.reliability.flows import listen, shout
from tests.reliability.hole import Hole
from tests.reliability.kit import Database, serve, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait for an answer wait for a moment."""
    for module in direct, heartbeat:
        monkeypatch.setattr(module, "ANSWER", 0.3)
    monkeypatch.setattr(connection, "PROBE_EVERY", 0.3)
    for module in connection, pool:
        monkeypatch.setattr(module, "PROBE", 0.3)


@pytest.mark.limit(20)
async def test_a_worker_goes_on_where_others_have_not(dsn: str, db: Database) -> None:
    """Its lease has ended, as nobody has heard of it: its run is with another, and it begins anew."""
    async with Client(dsn) as client, Hole(dsn) as hole, serve(hole.dsn, lease=0.6):
        first = db.value("select worker_id from hotmesh.workers")
        handle = await client.workflow.start(listen, args=["k", 2], workflow_id="w")
        await client.signal("k", 1, idempotency_key="1")
        await until(lambda: "signal" in "".join(db.events("w")), "it has seen the first")
        hole.swallow()
        async with serve(client, lease=0.6):
            await until(lambda: db.value("select status from hotmesh.workers where worker_id = %s", first) == "dead")
            await client.signal("k", 2, idempotency_key="2")
            assert await handle.result(timeout=10) == [1, 2]
        assert await client.workflow.execute(shout, args=["hey"], timeout=10) == "hey!"


@pytest.mark.limit(20)
async def test_a_worker_whose_connections_are_all_silent_is_woken_and_does_its_duties(
    dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has taken over what it holds: it does, by another connection for each."""
    monkeypatch.setattr(looks, "POLL", 60.0)
    async with Client(dsn) as client, Hole(dsn) as hole, serve(hole.dsn, lease=60.0):
        handle = await client.workflow.start(listen, args=["k", 2], workflow_id="w")
        await client.signal("k", 1, idempotency_key="1")
        await until(lambda: "signal" in "".join(db.events("w")), "it has seen the first")
        hole.swallow()
        await client.signal("k", 2, idempotency_key="2")
        assert await handle.result(timeout=10) == [1, 2]
        with pytest.raises(TimeoutError, match="execution timeout"):
            await client.workflow.execute(listen, args=["never"], execution_timeout=0.05, timeout=10)


@pytest.mark.limit(20)
async def test_a_client_asks_again(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it has waited for longer than it tries to reach a database."""
    monkeypatch.setattr(client_module, "RETRY_FOR", 0.1)
    async with Hole(dsn) as hole, Client(hole.dsn, pool_size=3) as client, serve(dsn):
        assert await asyncio.gather(*[client.workflow.execute(shout, args=[f"{n}"], timeout=10) for n in range(6)])
        waiting = asyncio.create_task(client.workflow.execute(listen, args=["k"], workflow_id="w"))
        await until(lambda: db.waits("w"), "it waits")
        hole.swallow()
        assert await client.workflow.execute(shout, args=["hey"], workflow_id="once") == "hey!"
        await client.signal("k", 1, idempotency_key="1")
        assert await waiting == [1]
        assert db.value("select count(*) from hotmesh.workflows where workflow_id = 'once'") == 1
