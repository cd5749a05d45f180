"""One workflow with a payload that cannot be read, put in with SQL, among good ones."""

from __future__ import annotations

import time

import pytest

from pyhotmesh import Client, StartRequest
from tests.reliability.flows import chain, listen, shout
from tests.reliability.kit import Database, serve, until

# JSON to PostgreSQL, which does not look behind the escape; no text to Python.
POISON = '["\\ud800"]'
TROUBLE = "select workflow_id, code, message from hotmesh_engine.trouble join hotmesh_engine.run using (run_id)"


@pytest.mark.limit(90)
async def test_a_poisoned_input_parks_its_workflow_alone(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        requests = [StartRequest(shout, [str(i)], workflow_id=f"g{i}") for i in range(500)]
        requests.insert(250, StartRequest(shout, ["x"], workflow_id="bad"))
        handles = await client.workflow.start_many(requests)
        db.rows("update hotmesh_engine.run set input = %s where workflow_id = 'bad' returning 1", POISON)
        bad = handles.pop(250)
        begin = time.monotonic()
        async with serve(client):
            results = [await handle.result(timeout=60) for handle in handles]
            assert results == [f"{i}!" for i in range(500)]
            assert time.monotonic() - begin < 30
            await until(lambda: db.rows(TROUBLE), "it is parked")
            ((workflow_id, code, message),) = db.rows(TROUBLE)
            assert (workflow_id, code) == ("bad", "HM003")
            assert "cannot be read back" in message
            assert db.value("select trouble is not null from hotmesh.workflows where workflow_id = 'bad'")
            db.rows("update hotmesh_engine.run set input = '[\"mended\"]' where workflow_id = 'bad' returning 1")
            assert db.value("select hotmesh.resume('bad')")
            assert await bad.result(timeout=20) == "mended!"


@pytest.mark.limit(90)
@pytest.mark.parametrize("cache_size", [None, 0])
async def test_a_poisoned_message_parks_its_workflow_alone(dsn: str, db: Database, cache_size: int | None) -> None:
    """It waits in the inbox of a workflow, until somebody mends or removes it."""
    async with Client(dsn) as client:
        async with serve(client):
            waiting = await client.workflow.start(listen, args=["key"], workflow_id="bad")
            await until(lambda: db.waits("bad"), "it waits")
        await client.signal("key", "poisoned below")
        db.rows("select hotmesh.route()")
        found = db.rows("update hotmesh_engine.inbox set payload = %s where kind = 5 returning 1", POISON)
        assert len(found) == 1
        async with serve(client, cache_size=cache_size):
            handles = await client.workflow.start_many([StartRequest(chain, [2]) for _ in range(200)])
            for handle in handles:
                assert await handle.result(timeout=60) == [0, 2]
            await until(lambda: db.rows(TROUBLE), "it is parked")
            ((workflow_id, code, _),) = db.rows(TROUBLE)
            assert (workflow_id, code) == ("bad", "HM003")
            db.rows("update hotmesh_engine.inbox set payload = '\"mended\"' where kind = 5 returning 1")
            db.rows("select hotmesh.resume('bad')")
            assert await waiting.result(timeout=20) == ["mended"]


@pytest.mark.limit(90)
async def test_a_poisoned_journal_parks_its_workflow_alone(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            waiting = await client.workflow.start(listen, args=["key", 2], workflow_id="bad")
            await client.signal("key", "one")
            await until(lambda: "signal_received" in db.events("bad") and db.parked("bad"), "it has one signal, and is parked")
        db.rows("update hotmesh_engine.journal set payload = %s where kind = 5 returning 1", POISON)
        await client.signal("key", "two")
        async with serve(client):
            assert await client.workflow.execute(chain, args=[3], timeout=20) == [0, 2, 4]
            await until(lambda: db.rows(TROUBLE), "it is parked")
            db.rows("update hotmesh_engine.journal set payload = '\"one\"' where kind = 5 returning 1")
            db.rows("select hotmesh.resume('bad')")
            assert await waiting.result(timeout=20) == ["one", "two"]
