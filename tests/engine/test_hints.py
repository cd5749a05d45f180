"""A client that asks for results is registered for them by its starts, and told without asking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyhotmesh import Client, NotConnected, Worker, direct, engine, workflow
from tests.reliability.kit import Database, until

CREDIT = 10  # starts that register a client that has asked for one result


@workflow.defn
async def go(text: str) -> str:
    return str(await workflow.wait_for("go")) + text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this process asks the server."""
    queries: list[str] = []
    fetch = direct.fetch

    async def noted(conn: Any, query: str, params: Any) -> Any:
        queries.append(query)
        return await fetch(conn, query, params)

    monkeypatch.setattr(direct, "fetch", noted)
    return queries


async def listening(client: Client) -> None:
    """It has asked for a result once."""
    handle = await client.workflow.start(go, args=[""])
    await client.signal("go", "first")
    assert await handle.result(20) == "first"


async def test_who_asks_later_has_been_told(dsn: str, db: Database, asked: list[str]) -> None:
    async with Client(dsn) as client, Worker(dsn, workflows=[go]):
        await listening(client)
        for text in ("!", "?" * 9000):  # the second is too long to come with the notification
            handle = await client.workflow.start(go, args=[text])
            assert db.value("select count(*) from hotmesh_engine.waiter") == 1
            asked.clear()
            await client.signal("go", "now")
            assert await handle.result(20) == "now" + text
            assert await handle.result(20) == "now" + text, "once more"
            if text == "!":
                assert engine.AWAIT not in asked and engine.OUTCOMES not in asked
        waiting = asyncio.create_task((handle := await client.workflow.start(go, args=["."])).result())
        also = asyncio.create_task(handle.result())
        other = asyncio.create_task(client.get_handle(handle.workflow_id).result())
        await until(lambda: engine.AWAIT in asked)
        await client.signal("go", "all")
        assert await asyncio.gather(waiting, also, other) == ["all."] * 3


async def test_who_never_asks_is_not_registered_for_long(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with Worker(dsn, workflows=[go]):
            await listening(client)
        for _ in range(30):
            await client.workflow.start(go, args=[""])
        assert 0 < db.value("select count(*) from hotmesh_engine.waiter") <= CREDIT
        assert client._results is not None and not client._results._hinted, "nobody has the handles"
        async with Worker(dsn, workflows=[go]):
            for _ in range(31):
                await client.signal("go", "")
            late = await client.workflow.start(go, args=["late"])
            await client.signal("go", "")
            assert await late.result(20) == "late"


@pytest.mark.parametrize("asks", ["before", "after"])
async def test_a_client_that_was_deaf_meanwhile_asks(dsn: str, db: Database, asked: list[str], asks: str) -> None:
    async with Client(dsn) as client, Worker(dsn, workflows=[go]):
        await listening(client)
        handle = await client.workflow.start(go, args=["!"])
        results = client._results
        assert results is not None
        waiting = asyncio.create_task(handle.result(20)) if asks == "before" else None
        await asyncio.sleep(0)
        lives = results._listener.lives
        assert results._listener._conn is not None
        db.rows("select pg_terminate_backend(%s)", results._listener._conn.info.backend_pid)
        await client.signal("go", "heard")
        await until(lambda: db.value("select count(*) from hotmesh.workflows where status = 'completed'") == 2)
        await until(lambda: results._listener.lives > lives)
        asked.clear()
        assert await (waiting or handle.result(20)) == "heard!"
        if asks == "after":
            assert engine.AWAIT in asked


async def test_what_comes_before_the_start_is_acknowledged(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has closed, and the client been told, while the answer to its start is still on its way."""
    fetch = direct.fetch
    async with Client(dsn) as client, Worker(dsn, workflows=[go]):
        await listening(client)
        results = client._results
        assert results is not None

        async def slow(conn: Any, query: str, params: Any) -> Any:
            rows = await fetch(conn, query, params)
            if query == engine.START_EARLY:
                async with Client(dsn) as other:
                    await other.signal("go", "soon")
                await until(lambda: results._early)
            return rows

        monkeypatch.setattr(direct, "fetch", slow)
        handle = await client.workflow.start(go, args=["!"])
        assert await handle.result(0.5) == "soon!" and not results._early


async def test_a_hint_is_of_no_use_to_a_client_that_is_closed(dsn: str) -> None:
    async with Client(dsn) as client, Worker(dsn, workflows=[go]):
        await listening(client)
        handle = await client.workflow.start(go, args=[""])
        await client.close()
        with pytest.raises(NotConnected, match="closed"):
            await handle.result()
        async with Client(dsn) as other:
            await other.signal("go", "")
