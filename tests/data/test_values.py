"""A value that is written is found by that value, as a number and as a tag, and comes back with its type."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyhotmesh import Client, MeshData, Numeric, Schema, Tag, Timestamp, Worker, workflow
from tests.data.plain import leaf

SCHEMA = Schema("v", fields={"n": Numeric(), "t": Tag(), "at": Timestamp()})
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
LARGEST = 1.797e308  # the engine's for numbers
VALUES = st.one_of(
    st.floats(-LARGEST, LARGEST), st.integers(-(2**63), 2**64 - 1), st.booleans(), TEXTS,
    st.floats(1e15, 1e30).map(float.__round__).map(float),
)  # fmt: skip
BESIDE = st.one_of(st.sampled_from(["a3e4", "1e5", '"1e5"', "\\1e5", '\\"2e+7,', "e", "\n3e-1"]), TEXTS)


@pytest.mark.limit(120)
async def test_what_is_written_is_found_and_comes_back(dsn: str) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("v")
        loop = asyncio.get_running_loop()

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(VALUES, BESIDE)
        @example(1e23, "x")
        @example(1e308, "x")
        @example(1e16, "x")
        @example(-1e300, "x")
        @example(5e-324, "x")
        @example(5.0, "a3e4")
        @example(1.5e16, '"1e5"')
        @example("1e5", "2e7")
        def compare(value: Any, beside: str) -> None:
            async def ask() -> None:
                await data.set("v", "one", {"n": value, "t": value, "beside": beside, beside[:9] or "x": [beside, value]})
                found = await data.get("v", "one") or {}
                for held in (found["n"], found["t"], found[beside[:9] or "x"][1]):
                    assert (type(held), held) == (type(value), value)
                assert found["beside"] == beside
                assert await data.count("v", [leaf("t", "=", value)]) == 1
                assert await data.count("v", [leaf("t", "in", ["x", value])]) == 1
                if isinstance(value, int | float) and not isinstance(value, bool):
                    for operator in ("=", ">=", "<="):
                        assert await data.count("v", [leaf("n", operator, value)]) == 1
                    assert await data.count("v", f"@n:[{value} {value}]") == 1
                    await data.delete("v", "one", ["n", "t"])
                    assert await data.incr("v", "one", "t", value) == value
                    assert await data.count("v", [leaf("t", "=", value)]) == 1

            asyncio.run_coroutine_threadsafe(ask(), loop).result(30)

        await asyncio.to_thread(compare)


@workflow.defn
async def counts() -> list[Any]:
    search = workflow.search()
    await search.set(price=1.5, large=1e23)
    return [
        await search.mult("price", 2.0),
        await search.mult("large", 1e10),
        await search.incr("exact", 0.1),
        await search.mget(),
    ]


async def test_what_is_counted_is_written_as_that_value_would_be(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with Client(dsn) as client, Worker(client, workflows=[counts]):
        assert await client.workflow.execute(counts, timeout=30) == [3.0, 1e33, 0.1, []]
    row = conn.execute("select data ->> 'price', data ->> 'large', data ->> 'exact' from hotmesh.records").fetchone()
    assert row == ("3.0", f"1{'0' * 33}.0", "0.1")


async def test_a_moment_is_written_as_that_moment(dsn: str) -> None:
    berlin = datetime(1890, 1, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))  # +00:53:28, for which ISO 8601 has no form
    moments = [
        berlin, datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=timezone(-timedelta(minutes=210))),
    ]  # fmt: skip
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("v")
        for moment in moments:
            await data.set("v", "one", {"at": moment, "days": [moment.date(), moment.time()]})
            found = await data.get("v", "one") or {}
            assert datetime.fromisoformat(found["at"]) == moment
            assert found["days"] == [moment.date().isoformat(), moment.time().isoformat()]
            assert await data.count("v", [leaf("at", "=", moment)]) == 1
            assert found["at"] == (moment if moment is not berlin else berlin.astimezone(UTC)).isoformat()
