"""Routing meets a lock of somebody else: nothing overtakes, nothing is forgotten, nobody waits."""

from __future__ import annotations

import psycopg
import pytest

from pyhotmesh import Client
from tests.reliability.flows import listen
from tests.reliability.kit import Database, serve, until

SLOT = (
    "select pg_try_advisory_xact_lock(1212370259, hotmesh_engine.slot(namespace_id, 'k'))"
    " from hotmesh_engine.namespace where name = 'default'"
)
ROW = "select true from hotmesh_engine.live for update"


@pytest.mark.parametrize("lock", [SLOT, ROW], ids=["of the key's slot", "of the run"])
@pytest.mark.parametrize("sent", ["on its own", "in a caller's transaction"])
async def test_what_meets_a_lock_stays_and_keeps_its_order(dsn: str, db: Database, lock: str, sent: str) -> None:
    caller = sent != "on its own"
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            handle = await client.workflow.start(listen, args=["k", 3], workflow_id="w")
            await until(lambda: db.parked("w"), "it waits")
        with psycopg.connect(dsn) as other:
            assert other.execute(lock.encode()).fetchall() == [(True,)]
            for number in (1, 2):
                signal = "select hotmesh_engine.signal('default', 'k', %s::text::json, p_caller => %s)"
                assert db.value(signal, number, caller) == int(number == 1 or lock == SLOT or caller)
                assert db.status("w") == "waiting", "it meets the lock, also if the first is in the way"
            assert db.value("select hotmesh.route()") > 0, "it stays"
            assert db.status("w") == "waiting"
            other.rollback()
        await client.signal("k", 3)
        assert db.value("select hotmesh.route()") == 0
        assert db.status("w") == "ready"
        db.check()
        async with serve(client):
            assert await handle.result(timeout=20) == [1, 2, 3]
