"""What a client that has been closed does."""

from __future__ import annotations

import asyncio

import pytest

from pyhotmesh import Client, workflow
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
