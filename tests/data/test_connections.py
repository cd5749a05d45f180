"""Namespaces and queries of one MeshData share the connections of its client; queries in SQL leave nothing behind in them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, InvalidQuery, MeshData, NotConnected, Schema, Tag
from tests.reliability.kit import until

SCHEMA = Schema("user", fields={"active": Tag()})


def connected(conn: psycopg.Connection[Any]) -> int:
    """How many connections there are besides the test's."""
    row = conn.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend'"
    ).fetchone()
    assert row is not None
    return int(row[0])


async def test_all_namespaces_and_queries_share_one_pool(dsn: str, conn: psycopg.Connection[Any]) -> None:
    client = Client(dsn, pool_size=2)
    async with MeshData(client, SCHEMA) as data, MeshData(client, SCHEMA, namespace="other") as other:
        spaces = ["default", "a", "b", "c", "d"]
        await asyncio.gather(*[data.set("user", "jim", {"active": space}, namespace=space) for space in spaces * 4])
        found = await asyncio.gather(
            *[data.get("user", "jim", namespace=space) for space in spaces],
            *[data.sql("select 1 as one, pg_sleep(0.02)::text as two") for _ in range(5)],
            other.get("user", "jim"),
        )
        assert found[:5] == [{"active": space} for space in spaces] and all(row[0]["one"] == 1 for row in found[5:10])
        assert connected(conn) == 2
        await data.close()
        assert await other.get("user", "jim") is None, "who shares with it goes on"
        with pytest.raises(NotConnected, match="has been closed"):
            await data.get("user", "jim")
    assert await client.workflow.count() == 0, "the client is whose it was"
    await client.close()
    await until(lambda: connected(conn) == 0)


async def test_a_pool_ends_with_the_last_that_used_it(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(Client(dsn), SCHEMA) as data:  # nobody else has, or closes, that client
        await data.set("user", "jim", {"active": "yes"})
        assert connected(conn) > 0
    await until(lambda: connected(conn) == 0)


async def test_what_a_query_in_sql_sets_is_gone_after_it(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(Client(dsn, pool_size=1), SCHEMA) as data:
        await data.set("user", "jim", {"active": "yes"})
        for trick in (
            "select set_config('default_transaction_read_only', 'off', false), set_config('transaction_read_only', 'off', false)",
            "set session characteristics as transaction read write",
            "set transaction read write",
            "commit",
            "rollback",
            "deallocate all",
            "set search_path = nowhere",
            "set timezone = 'Asia/Tokyo'",
            "set statement_timeout = 1",
        ):
            try:
                await data.sql(trick)
            except InvalidQuery:
                continue
            finally:
                with pytest.raises(InvalidQuery, match="read-only transaction"):
                    await data.sql("delete from hotmesh_engine.record")
                await data.set("user", "jim", {"active": trick})
        settings = (
            "select current_setting('plan_cache_mode'), current_setting('enable_seqscan'), current_setting('statement_timeout')"
        )
        rows = await data.client._rows(settings, ())
        assert rows == [("force_generic_plan", "off", "30s")], "the engine's calls have what they had"
        assert await data.sql("select %(a)s::int + 1 as next, '100%%' as all", {"a": 1}) == [{"next": 2, "all": "100%"}]


async def test_columns_of_one_name_are_refused_as_a_row_would_have_but_one(dsn: str) -> None:
    async with MeshData(Client(dsn, pool_size=1), SCHEMA) as data:
        for query in ("select 1 a, 2 b, 3 a", "select u.*, o.* from (select 1 a) u, (select 2 a, 3 c) o"):
            with pytest.raises(InvalidQuery, match=r"two columns named 'a'.*as \.\.\."):
                await data.sql(query)
        assert await data.sql("select 1 a, 2 b") == [{"a": 1, "b": 2}]


async def test_locks_that_a_query_in_sql_takes_are_released(dsn: str, conn: psycopg.Connection[Any]) -> None:
    held = "select count(*) from pg_locks where locktype = 'advisory' and objid = 77"
    async with MeshData(Client(dsn, pool_size=1), SCHEMA) as data:
        for query in (
            "select pg_advisory_lock(77)", "select pg_advisory_lock(77), pg_try_advisory_lock_shared(77)",
            "select pg_advisory_lock(77), 1 / (0 * random()::int)", "select 1 a, pg_advisory_lock(77)::text a",
        ):  # fmt: skip
            with contextlib.suppress(InvalidQuery):
                await data.sql(query)
            assert conn.execute(held.encode()).fetchone() == (0,), query
        with pytest.raises(InvalidQuery, match="COPY"):
            await data.sql("copy (select 1) to stdout")
        assert await data.sql("select 1 one") == [{"one": 1}]
        assert connected(conn) == 1


async def test_a_query_that_somebody_cancels_says_so_and_is_not_sent_again(dsn: str, conn: psycopg.Connection[Any]) -> None:
    running = "select pid from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
    async with MeshData(dsn, SCHEMA) as data:
        query = asyncio.create_task(data.sql("select pg_sleep(60)"))
        await until(lambda: conn.execute(running.encode()).fetchone())
        conn.execute(f"select pg_cancel_backend(({running}))".encode())
        with pytest.raises(InvalidQuery, match="canceling statement"):
            await query
        assert await data.sql("select 1 as one") == [{"one": 1}]


async def test_a_query_in_sql_waits_for_a_server_that_ends_its_connection(dsn: str, conn: psycopg.Connection[Any]) -> None:
    running = "select pid from pg_stat_activity where query = 'select pg_sleep(1)' and state = 'active'"
    async with MeshData(dsn, SCHEMA) as data:
        query = asyncio.create_task(data.sql("select pg_sleep(1)"))
        await until(lambda: conn.execute(running.encode()).fetchone())
        conn.execute(f"select pg_terminate_backend(({running}))".encode())
        assert await query == [{"pg_sleep": ""}], "it reads only: asked again"
