"""The view of an entity: what it shows loads in Python, and what is built upon it and granted on it outlives new fields."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pyhotmesh import InvalidQuery, MeshData, Schema, workflow
from pyhotmesh.errors import TimeoutError

ROLES = ("hotmesh_owning", "hotmesh_reading", "hotmesh_passing")
RECORD = ["record_namespace", "record_id", "record_data", "record_created_at", "record_updated_at", "record_expires_at"]


def server(dsn: str, namespace: str = "default", **fields: str) -> MeshData:
    """A process whose schema has these fields."""
    schema = Schema("thing", fields={name: {"type": kind} for name, kind in fields.items()})
    return MeshData(dsn, schema, namespace=namespace)


async def declare(dsn: str, namespace: str = "default", **fields: str) -> None:
    async with server(dsn, namespace, **fields) as data:
        await data.create_search_index("thing")


@pytest.fixture
def roles(conn: psycopg.Connection[Any]) -> Iterator[tuple[str, ...]]:
    """Roles belong to the server: they go with the test."""
    for role in ROLES:
        conn.execute(f"create role {role}".encode())
    yield ROLES
    conn.execute("reset role")
    for role in ROLES:
        conn.execute(f"drop owned by {role}; drop role {role}".encode())


def columns(conn: psycopg.Connection[Any]) -> list[str]:
    query = "select attname from pg_attribute where attrelid = 'hotmesh_data.thing'::regclass order by attnum"
    return [name for (name,) in conn.execute(query).fetchall()]


def kind(conn: psycopg.Connection[Any], column: str) -> str:
    query = "select pg_typeof(%s)::text from (select) x left join hotmesh_data.thing on true limit 1"
    (found,) = conn.execute((query % column).encode()).fetchone() or (None,)
    return str(found)


async def brief(wait: bool = False) -> None:
    if wait:
        await workflow.wait_for("never")


async def test_all_that_views_show_loads_also_of_what_is_kept_for_good(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with server(dsn, n="NUMERIC") as data:
        await data.create_search_index("thing")
        await data.set("thing", "ever", {"n": 1})
        await data.set("thing", "year", {"n": 2}, ttl="1 year")
        ever, year = await data.sql("select * from hotmesh_data.thing order by record_id")
        assert ever["record_expires_at"] is None and ever["record_created_at"] <= datetime.now(UTC)
        assert year["record_expires_at"] > datetime.now(UTC) + timedelta(days=364)
        forever: dict[str, Any] = {"retention": "infinity", "execution_timeout": "infinity"}
        for ended in (True, False):
            run = await data.client.workflow.start("nobody", workflow_id=f"ended {ended}", **forever)
            if ended:
                await run.interrupt()
        await data.client.signal("ever", 1)
        await data.client.schedule.create("ever", "nobody", interval="1 day", catchup="infinity", **forever)
        await data.client.schedule.get("ever").pause()
        views = conn.execute(
            "select oid::regclass::text from pg_class where relkind = 'v' and relnamespace = 'hotmesh'::regnamespace"
        )
        for (view,) in views.fetchall():
            assert isinstance(await data.sql(f"select * from {view}"), list), view
    (comment,) = conn.execute("select obj_description('hotmesh_data.thing'::regclass)").fetchone() or ("",)
    assert "record_expires_at: null if it is kept for good, or its workflow is open" in comment


async def test_views_tell_when_a_record_goes_that_goes_with_its_workflow(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with server(dsn, n="NUMERIC") as data:
        await data.create_search_index("thing")
        await data.connect("thing", brief)
        hour = timedelta(hours=1)
        for id, ttl in (("hour", "1 hour"), ("ever", "infinity"), ("own", "1 hour")):
            await data.exec("thing", id=id, search={"data": {"n": 1}}, ttl=ttl)
        await data.set("thing", "own", {}, ttl="1 minute")
        with pytest.raises(TimeoutError):
            await data.exec("thing", [True], id="open", search={"data": {"n": 1}}, ttl="1 hour", timeout=0.1)
        for query in (
            "select record_id as id, record_expires_at as at from hotmesh_data.thing",
            "select id, expires_at as at from hotmesh.records",
        ):
            at = {row["id"]: row["at"] for row in await data.sql(query)}
            now = datetime.now(UTC)
            assert at["ever"] is None and at["open"] is None, "nobody knows yet when it ends"
            assert now + hour - timedelta(minutes=1) < at["hour"] <= now + hour
            assert at["own"] <= now + timedelta(minutes=1), "whichever comes first"


async def test_a_role_that_was_granted_a_view_alone_can_read_it(
    dsn: str, conn: psycopg.Connection[Any], roles: tuple[str, ...]
) -> None:
    async with server(dsn, n="NUMERIC", tag="TAG", at="TIMESTAMP") as data:
        await data.create_search_index("thing")
        await data.set("thing", "one", {"n": 10**16, "tag": "a", "at": "2026-01-31"}, ttl="1 hour")
    reading = roles[1]
    conn.execute(f"grant usage on schema hotmesh_data, hotmesh to {reading}".encode())
    conn.execute(f"grant select on hotmesh_data.thing, hotmesh.records, hotmesh.workflows to {reading}".encode())
    conn.execute(f"set role {reading}".encode())
    assert conn.execute("select record_id, n, tag, extract(day from at) from hotmesh_data.thing").fetchall() == [
        ("one", 10**16, "a", 31),
    ]  # fmt: skip
    assert conn.execute("select id from hotmesh.records").fetchall() == [("one",)]
    assert conn.execute("select count(*) from hotmesh.workflows").fetchone() == (0,)
    for forbidden in ("select from hotmesh_engine.record", "delete from hotmesh_data.thing", "select from hotmesh.history"):
        with pytest.raises(psycopg.Error):
            conn.execute(forbidden.encode())


async def test_fields_are_added_beneath_what_is_built_upon_it(
    dsn: str, conn: psycopg.Connection[Any], roles: tuple[str, ...]
) -> None:
    await declare(dsn, b="TAG", a="NUMERIC")
    assert columns(conn) == [*RECORD, "b", "a"]
    conn.execute("create view mine as select * from hotmesh_data.thing")
    conn.execute(f"grant select on hotmesh_data.thing to {roles[0]}".encode())
    conn.execute("comment on view hotmesh_data.thing is 'ours'")
    conn.execute("alter view hotmesh_data.thing set (security_barrier = true)")
    kept = "select relacl, reloptions, obj_description(oid) from pg_class where oid = 'hotmesh_data.thing'::regclass"
    before = conn.execute(kept).fetchall()
    await declare(dsn, "other", c="TAG", a="NUMERIC")
    await declare(dsn, "default", d="BOOLEAN", b="TAG")
    await declare(dsn, "other", e="TIMESTAMP", a="NUMERIC")
    assert columns(conn) == [*RECORD, "b", "a", "c", "d", "e"]
    assert conn.execute(kept).fetchall() == before
    assert conn.execute("select count(*) from mine").fetchone() == (0,)


async def test_a_type_that_changes_makes_it_anew_with_what_was_granted(
    dsn: str, conn: psycopg.Connection[Any], roles: tuple[str, ...]
) -> None:
    owning, reading, passing = roles
    await declare(dsn, n="TAG", tag="TAG")
    for statement in (
        f"grant usage, create on schema hotmesh_data to {owning}",
        f"alter view hotmesh_data.thing owner to {owning}",
        f"grant select on hotmesh_data.thing to {reading}, public",
        f"grant select on hotmesh_data.thing to {passing} with grant option",
        f"grant select (tag) on hotmesh_data.thing to {passing}",
        "comment on view hotmesh_data.thing is 'it''s ours'",
        "comment on column hotmesh_data.thing.n is 'how many'",
        "alter view hotmesh_data.thing set (security_barrier = true, security_invoker = true)",
    ):
        conn.execute(statement.encode())
    kept = """
        select relowner::regrole::text, (select array_agg(a order by a) from unnest(relacl::text[]) a), reloptions,
               obj_description(oid),
               (select col_description(attrelid, attnum) from pg_attribute where attrelid = c.oid and attname = 'n'),
               (select attacl::text from pg_attribute where attrelid = c.oid and attname = 'tag')
          from pg_class c where oid = 'hotmesh_data.thing'::regclass"""
    before = conn.execute(kept).fetchall()
    assert len(before[0][1]) == 4 and before[0][0] == owning and all(before[0])
    await declare(dsn, n="NUMERIC", tag="TEXT")  # a tag is text of another collation
    assert kind(conn, "n") == "numeric" and columns(conn) == [*RECORD, "n", "tag"]
    assert conn.execute(kept).fetchall() == before


async def test_a_view_that_is_in_the_way_of_a_new_type_is_named(dsn: str, conn: psycopg.Connection[Any]) -> None:
    await declare(dsn, n="TAG")
    conn.execute("create view mine as select n from hotmesh_data.thing")
    with pytest.raises(
        InvalidQuery, match=r'hotmesh_data\.thing stays.*"n" from text to numeric, and view public.mine depends.*Drop.*anew'
    ):
        await declare(dsn, n="NUMERIC", more="TAG")
    assert kind(conn, "n") == "text"
    async with server(dsn, n="NUMERIC") as data:
        await data.set("thing", "one", {"n": "10"})
        assert await data.count("thing", [{"field": "n", "is": ">", "value": 9}]) == 1, "all but the view is there"
        conn.execute("drop view mine")
        await data.create_search_index("thing")
    assert kind(conn, "n") == "numeric"


async def test_a_column_keeps_its_type_while_a_namespace_declares_it_so(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with server(dsn, "staging", n="TAG") as staging, server(dsn, "live", n="NUMERIC") as live:
        await live.create_search_index("thing")
        await live.set("thing", "one", {"n": "10"})
        await staging.set("thing", "two", {"n": "9"})
        await staging.set("thing", "three", {"n": "many"})
        await asyncio.gather(staging.create_search_index("thing"), staging.create_search_index("thing"))
        shown = "select record_namespace, n from hotmesh_data.thing order by record_id"
        assert [tuple(row.values()) for row in await live.sql(shown)] == [("live", 10), ("staging", None), ("staging", 9)]
        assert await staging.count("thing", "@n:{many}") == 1, "each namespace is searched by its own types"
        await declare(dsn, "live", n="TAG")
        assert [row["n"] for row in await live.sql(shown)] == ["10", "many", "9"], "nobody declares a number any more"
        await declare(dsn, "staging", n="NUMERIC")
        assert kind(conn, "n") == "text"
