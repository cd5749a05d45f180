"""A worker that is paused takes nothing new, and goes on with what it holds."""

from __future__ import annotations

import pytest

from pyhotmesh import Client, TimeoutError, Worker
from tests.engine.test_workflows import blocking, shout, steps, two_signals, upper


async def test_a_paused_worker_takes_nothing_new(dsn: str) -> None:
    worker = Worker(dsn, workflows=[shout, steps, two_signals], activities=[upper, blocking])
    worker.pause()
    async with Client(dsn) as client, worker:
        handle = await client.workflow.start(shout, args=["hello"])
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.5)
        worker.resume()
        assert await handle.result(timeout=20) == "HELLO"
        held = await client.workflow.start(two_signals)
        assert await client.workflow.execute(steps, args=[2], timeout=20) == 2
        worker.pause()
        await client.signal("first", 1)
        await client.signal("second", 2)
        assert await held.result(timeout=20) == [1, 2]
