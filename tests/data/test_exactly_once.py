"""What workflow code does to its record is done once, however often the code is replayed."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, PayloadError, RecordError, StartRequest, Worker, workflow


@workflow.defn
async def counter(start: int) -> list[Any]:
    search = workflow.search()
    await search.set(n=start, active="yes", tenth=0)
    seen = [await search.incr("n"), await search.incr("n", 2), await search.mult("n", 3)]
    for _ in range(3):
        seen.append(await search.incr("tenth", 0.1))
    for word in ("a", "b"):
        seen.append(await workflow.entity().append("log.words", f"{word}{start}"))
    return seen


@workflow.defn
async def everything() -> list[Any]:
    search, entity = workflow.search(), workflow.entity()
    seen: list[Any] = [await search.get("nothing")]
    await search.set({"a text": "x", "float": 1e20, "one": 1.0, "int": 2**53 + 1, "none": None, "list": [1, "2"]})
    seen.append(await search.mget("float", "one", "int", "none", "list", "missing"))
    seen.append(await search.delete("list", "missing"))
    seen.append(await search.mult("fresh", 2.5))
    await entity.merge({"a": {"b": {"c": 1}, "x": [1]}})
    seen.append(await entity.merge({"a": {"b": {"d": 2}, "x": [2]}}))
    seen += await asyncio.gather(entity.append("a.log", "first"), entity.append("a.log", "second"), entity.get("a.log.1"))
    seen.append(await entity.get("a.b"))
    for refused in (search.incr("a text"), entity.append("a.b", 1), entity.append("a.b.c.d", 1), search.mult("float", 1e300)):
        try:
            await refused
        except RecordError as error:
            seen.append(error.message)
    return seen


@workflow.defn
async def hasty() -> str:
    workflow.search().set(left="behind")
    return "done"


@workflow.defn
async def poisonous(text: str) -> str:
    try:
        await workflow.search().set(text=text)
    except PayloadError:
        return "refused"
    return "kept"


WORKFLOWS = [counter, everything, hasty, poisonous]


@pytest.fixture(params=[None, 0], ids=["live", "replay"])
def cache(request: pytest.FixtureRequest) -> int | None:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.limit(90)
async def test_five_hundred_counters_are_exact_though_every_step_is_replayed(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with Client(dsn) as client, Worker(client, workflows=WORKFLOWS, cache_size=0):
        handles = await client.workflow.start_many([StartRequest(counter, [i]) for i in range(500)])
        results = await asyncio.gather(*[h.result(timeout=80) for h in handles])
    assert results == [[i + 1, i + 3, 3 * (i + 3), 0.1, 0.2, 0.3, 1, 2] for i in range(500)]
    totals = "select count(*), sum((data ->> 'n')::numeric), sum((data ->> 'tenth')::numeric), sum(version) from hotmesh.records"
    assert conn.execute(totals).fetchone() == (500, sum(3 * (i + 3) for i in range(500)), 150, 500 * 9)
    words = "select data #> '{log,words}', (data ->> 'n')::int / 3 - 3 from hotmesh.records"
    assert all(found == [f"a{i}", f"b{i}"] for found, i in conn.execute(words))
    assert conn.execute("select * from hotmesh.check_invariants()").fetchall() == []


async def test_every_operation_tells_what_it_found(dsn: str, cache: int | None) -> None:
    async with Client(dsn) as client, Worker(client, workflows=WORKFLOWS, cache_size=cache):
        seen = await client.workflow.execute(everything, timeout=30)
    whole = seen.pop(4)
    assert whole["a"] == {"b": {"c": 1, "d": 2}, "x": [2]}
    assert seen == [
        None, [1e20, 1.0, 2**53 + 1, None, [1, "2"], None], 1, 2.5, 1, 2, "second", {"c": 1, "d": 2},
        "field 'a text' is no number: it is string", "'a.b' is no array: it is object", "'a.b.c' is no object: it is number",
        "field 'float' would become a number that no double can hold",
    ]  # fmt: skip
    assert [type(v) for v in seen[1][:3]] == [float, float, int]


async def test_a_change_that_nobody_awaits_is_made_with_the_close(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with Client(dsn) as client, Worker(client, workflows=WORKFLOWS):
        assert await client.workflow.execute(hasty, workflow_id="h", timeout=30) == "done"
    assert conn.execute("select entity, id, data from hotmesh.records").fetchall() == [("hasty", "h", {"left": "behind"})]
    assert conn.execute("select count(*) from hotmesh_engine.inbox").fetchone() == (0,)


async def test_a_poisoned_value_is_its_own_workflows_fault(dsn: str) -> None:
    async with Client(dsn) as client, Worker(client, workflows=WORKFLOWS):
        texts = [f"text {i}" for i in range(50)]
        handles = await client.workflow.start_many([StartRequest(poisonous, [text]) for text in texts])
        bad = await client.workflow.start(call_with_nul)  # type: ignore[arg-type]
        assert await asyncio.gather(*[h.result(timeout=30) for h in handles]) == ["kept"] * 50
        assert await bad.result(timeout=30) == "refused"


@workflow.defn
async def call_with_nul() -> str:
    return await poisonous("a\0b")


WORKFLOWS.append(call_with_nul)
