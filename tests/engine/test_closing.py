"""Clients that cannot do what they are asked: closed, or in an event loop that is not theirs."""

from __future__ import annotations

import asyncio

import pytest

from pyhotmesh import Client, SyncClient, WrongLoop, workflow
from pyhotmesh.errors import NotConnected


@workflow.defn
async def idle() -> None:
    await workflow.sleep_for("1 day")


async def test_calls_after_close_are_refused(dsn: str) -> None:
    client = Client(dsn)
    handle = await client.workflow.start(idle)
    await client.close()
    for call in (lambda: client.signal("s"), handle.result, handle.status, lambda: client.workflow.execute(idle)):
        with pytest.raises(NotConnected, match="closed"):
            await call()
    others = [t for t in asyncio.all_tasks() if t.get_name().startswith("hotmesh")]
    assert not others, "nothing was opened again"


async def test_who_awaits_a_result_is_told(dsn: str) -> None:
    client = Client(dsn)
    handle = await client.workflow.start(idle)
    waiting = asyncio.create_task(handle.result())
    while not (client._results and client._results._waiting):
        await asyncio.sleep(0.001)
    await client.close()
    with pytest.raises(NotConnected, match="closed"):
        await waiting


def test_a_client_belongs_to_one_event_loop(dsn: str) -> None:
    client = Client(dsn)

    async def send() -> None:
        await client.signal("s")

    with asyncio.Runner() as first:
        first.run(send())
        with asyncio.Runner() as second:
            for call in (send, client.get_handle("w").result, lambda: client.workflow.execute(idle)):
                with pytest.raises(WrongLoop, match="another event loop"):
                    second.run(call())
        first.run(client.close())


async def test_a_blocking_client_does_not_block_a_loop(dsn: str) -> None:
    with SyncClient(dsn) as client:
        for call in (lambda: client.signal("s"), lambda: client.workflow.start(idle), lambda: client.workflow.list()):
            with pytest.raises(WrongLoop, match="would block the event loop"):
                call()
        assert await asyncio.to_thread(client.workflow.list) == []
