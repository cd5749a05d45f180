"""Several processes serve a topic: they share its calls, end cleanly, and die."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from pyhotmesh import CallFailed, MeshCall
from tests.calls.kit import Counted, server
from tests.reliability.kit import Database, until


@pytest.mark.limit(90)
async def test_processes_share_a_topic(dsn: str, db: Database, tmp_path: Path) -> None:
    """Ten at a time in each process, 20 ms each: what one has no place for, the other gets."""
    with server(dsn, tmp_path) as one, server(dsn, tmp_path) as two:
        async with MeshCall(dsn) as caller:
            handles = await caller.start_many("who", [[n] for n in range(400)])
            found = await asyncio.gather(*(h.result(timeout=60) for h in handles))
        share = Counter(pid for _, pid in found)
    assert [n for n, _ in found] == list(range(400))
    assert min(share[one.pid], share[two.pid]) >= 10
    assert sorted((tmp_path / "calls").read_text().split("\n")[:-1]) == sorted(f"who {n}" for n in range(400))


async def test_slow_calls_are_not_hoarded(dsn: str, db: Database) -> None:
    """One process has all its places taken for as long as it likes; the others' calls go elsewhere."""
    held, free = Counted(), Counted()
    held.go.clear()
    async with MeshCall(dsn, max_concurrent_calls=2) as hoarder, MeshCall(dsn) as caller:
        await hoarder.connect("slow", held)
        handles = await caller.start_many("slow", [[n] for n in range(50)])
        await until(lambda: held.runs == 2, "its places are taken")
        async with MeshCall(dsn) as helper:
            await helper.connect("slow", free)
            await until(lambda: free.runs == 48, "the other has taken the rest")
        held.go.set()
        assert len(await asyncio.gather(*(h.result() for h in handles))) == 50
    assert (held.runs, free.runs) == (2, 48)


async def test_a_clean_end_lets_calls_end(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    mesh = MeshCall(dsn)
    await mesh.connect("ends", counted)
    async with MeshCall(dsn) as caller:
        call = asyncio.create_task(caller.exec("ends"))
        await until(lambda: counted.runs == 1, "it runs")
        closing = asyncio.create_task(mesh.close())
        await asyncio.sleep(0.05)
        counted.go.set()
        await closing
        assert await call == [1]


@pytest.mark.limit(90)
async def test_a_process_that_dies_is_replaced(dsn: str, db: Database, tmp_path: Path) -> None:
    async with MeshCall(dsn) as caller:
        call = asyncio.create_task(caller.exec("deadly", args=[1]))
        bounded = asyncio.create_task(caller.exec("deadly twice at most", args=[2]))
        for _ in range(8):
            if call.done() and bounded.done():
                break
            with server(dsn, tmp_path) as process:
                while process.poll() is None and not (call.done() and bounded.done()):
                    await asyncio.sleep(0.02)
        assert await call in (2, 3)  # its neighbour may take the process with it once more
        with pytest.raises(CallFailed, match="the worker that ran it was lost"):
            await bounded
