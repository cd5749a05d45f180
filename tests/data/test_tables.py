"""An entity whose search is declared has its records in a table of its own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pyhotmesh import InvalidQuery, MeshData, Schema, Worker, migrate, workflow
from tests.data.plain import leaf

WHERE = "select tableoid::regclass::text, count(*)::int from hotmesh_engine.record group by 1 order by 1"


def schema(entity: str = "thing") -> Schema:
    return Schema(entity, fields={"n": {"type": "NUMERIC", "sortable": True}})


MANY = "update pg_class set reltuples = 2e6 where relname = 'record_rest'"
SAID = {
    "many of them": "more than 10,000 records",
    "many of others": "more than 1,000,000 records",
    "somebody reads": "the next declaration tries again",
}


def where(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """How many records each table has."""
    return {name.split(".")[1]: count for name, count in conn.execute(WHERE).fetchall()}


async def test_the_records_that_there_are_move_into_it(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, schema()) as data:
        for i in range(5):
            await data.set("thing", f"r{i}", {"n": i})
            await data.set("other", f"r{i}", {"n": i})
        before = conn.execute("select * from hotmesh.records order by entity, id").fetchall()
        assert where(conn) == {"record_rest": 10}
        await data.create_search_index("thing")
        assert where(conn) == {"record_1": 5, "record_rest": 5}
        assert conn.execute("select * from hotmesh.records order by entity, id").fetchall() == before
        await data.set("thing", "r5", {"n": 5})
        await data.incr("thing", "r0", "n", 10)
        assert where(conn) == {"record_1": 6, "record_rest": 5}
        found = await data.find_where("thing", [leaf("n", ">", 3)], sort="-n")
        assert [record["n"] for record in found] == [10, 5, 4]
        assert [row["n"] for row in await data.sql("select n from hotmesh_data.thing where n > 3 order by n")] == [4, 5, 10]
        history = [r for (r,) in conn.execute("select version from hotmesh.record_changes where entity = 'thing' and id = 'r0'")]
        assert history == [1, 2]
        assert await data.flush("thing", "r5") and where(conn) == {"record_1": 5, "record_rest": 5}


async def test_what_lapses_there_is_removed(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, schema()) as data:
        await data.create_search_index("thing")
        await data.set("thing", "short", {"n": 1}, ttl="1 hour")
        await data.set("thing", "long", {"n": 2})
        conn.execute("select hotmesh_engine.skip('2 hours')")
        assert [record.id for record in await data.find_where("thing")] == ["long"]
        conn.execute("select hotmesh.prune()")
        assert where(conn) == {"record_1": 1}


@pytest.mark.parametrize("why", ["many of them", "many of others", "somebody reads"])
async def test_records_stay_where_they_are_if_moving_them_kept_others_waiting(
    dsn: str, conn: psycopg.Connection[Any], why: str
) -> None:
    async with MeshData(dsn, schema()) as data:
        await data.set("thing", "one", {"n": 1})
        with psycopg.connect(dsn) as reader:
            if why == "many of them":
                conn.execute(
                    "insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, id, data)"
                    " select 1, 1, now(), now(), 'r' || i, '{\"n\": 0}' from generate_series(1, 10000) i"
                )
            elif why == "many of others":
                conn.execute(MANY.encode())
            else:
                reader.execute("select from hotmesh_engine.record")
            building = asyncio.create_task(data.create_search_index("thing"))
            writing = [data.incr("thing", "one", "n", 1) for _ in range(20)]
            await asyncio.gather(*writing)
            if why == "somebody reads":
                await asyncio.sleep(1.5)  # longer than it waits
            reader.rollback()
            report = await building
        assert len(report.created) == 1 and SAID[why] in (report.shared or "")
        assert list(where(conn)) == ["record_rest"]
        assert [(r.id, r["n"]) for r in await data.find_where("thing", [leaf("n", ">", 5)], sort="n")] == [("one", 21)]
        if why == "many of others":
            conn.execute(MANY.encode())  # as it was before the index was built
        later = await data.create_search_index("thing")
        assert later.would_drop == ()
        if why != "somebody reads":
            assert list(where(conn)) == ["record_rest"] and later.shared == report.shared and later.kept == report.created
            return
        assert where(conn) == {"record_1": 1} and later.shared is None and later.created == report.created
        assert [(r.id, r["n"]) for r in await data.find_where("thing", [leaf("n", ">", 5)], sort="n")] == [("one", 21)]
        left = "select (select count(*) from pg_statistic_ext), (select count(*) from pg_indexes where indexname like 'search%')"
        assert conn.execute(left.encode()).fetchone() == (0, 1), "what the shared table had of it is gone"
        assert (await data.create_search_index("thing")).kept == report.created


async def test_records_do_not_move_while_their_index_is_built(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, schema()) as data:
        await data.set("thing", "one", {"n": 1})
        conn.execute("select pg_advisory_lock(1212370261)")  # as who builds
        waiting = [asyncio.create_task(data.create_search_index("thing")) for _ in range(3)]
        with psycopg.connect(dsn) as other:
            (said,) = other.execute("select hotmesh_engine.own_table(1)").fetchone() or ("",)
        assert "are built" in said and where(conn) == {"record_rest": 1}
        await asyncio.sleep(0.3)
        conn.execute("select pg_advisory_unlock(1212370261)")
        reports = await asyncio.gather(*waiting)
        assert where(conn) == {"record_1": 1}
        assert sorted(len(report.created) for report in reports) == [0, 0, 1] and not any(report.shared for report in reports)


async def test_a_view_that_others_build_upon_and_that_must_change_keeps_records_where_they_are(
    dsn: str, conn: psycopg.Connection[Any]
) -> None:
    async with MeshData(dsn, schema()) as data:
        await data.set("thing", "one", {"n": 1})
        with psycopg.connect(dsn) as reader:
            reader.execute("select from hotmesh.records")
            await data.create_search_index("thing")
        conn.execute("create view mine as select n from hotmesh_data.thing")
    async with MeshData(dsn, Schema("thing", fields={"n": {"type": "TAG"}})) as data:
        with pytest.raises(InvalidQuery, match=r"stays as it was.*view public\.mine depends"):
            await data.create_search_index("thing")
        assert await data.count("thing", "@n:{1}") == 1 and where(conn) == {"record_rest": 1}
        conn.execute("drop view mine")
        await data.create_search_index("thing")
        assert where(conn) == {"record_1": 1}


async def test_a_view_that_is_there_follows_at_once(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, Schema("thing", fields={})) as data:
        await data.set("thing", "one", {"n": 1})
        with psycopg.connect(dsn) as reader:
            reader.execute("select from hotmesh.records")
            await data.create_search_index("thing")
            shown = "select record_id from hotmesh_data.thing"
            assert where(conn) == {"record_rest": 1} and conn.execute(shown).fetchall() == [("one",)]
            reader.rollback()
            reader.execute(shown.encode())
            conn.execute("select hotmesh_engine.own_table(1)")
            assert where(conn) == {"record_rest": 1}, "somebody reads the view"
        conn.execute("select hotmesh_engine.own_table(1)")
        assert where(conn) == {"record_1": 1} and conn.execute(shown).fetchall() == [("one",)]


async def test_who_reads_while_records_move_finds_them(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, schema()) as data:
        await data.set("thing", "one", {"n": 1})
        with psycopg.connect(dsn) as mover:
            mover.execute("select hotmesh_engine.own_table(1)")
            ahead = datetime.now(UTC) + timedelta(hours=1)
            reads = [data.get("thing", "one"), data.get("thing", "one", as_of=ahead), data.incr("thing", "one", "n", 0)]
            reading = asyncio.gather(*reads)
            waits = "select count(*) from pg_locks where not granted"
            while conn.execute(waits).fetchone() != (3,):
                await asyncio.sleep(0.01)
        assert await reading == [{"n": 1}, {"n": 1}, 1]
        assert where(conn) == {"record_1": 1}


@pytest.mark.limit(90)
async def test_nothing_is_lost_while_tables_are_made_under_those_who_write(dsn: str, conn: psycopg.Connection[Any]) -> None:
    """Writers from outside, and workflows, of entities that are declared meanwhile; and readers see each record once."""
    entities = [f"kind{i}" for i in range(6)]

    def counting(entity: str) -> Any:
        @workflow.defn(name=entity)
        async def count(times: int) -> int:
            for _ in range(times):
                await workflow.search().incr("n", 1)
            return times

        return count

    async with MeshData(dsn, schema()) as data:
        workflows = [counting(entity) for entity in entities]
        done = False

        async def write(number: int) -> int:
            times = 0
            while not done:
                for entity in entities:
                    await data.incr(entity, "shared", "n", 1)
                    await data.set(entity, f"w{number}-{times}", {"n": 0})
                times += 1
            return times

        async def read() -> None:
            while not done:
                for entity in entities:
                    ids = [row["id"] for row in await data.sql("select id from hotmesh.records where entity = %s", (entity,))]
                    assert len(ids) == len(set(ids)) >= 1, "no record is in two places, and none in neither"

        async with Worker(data.client, workflows=workflows):
            for entity in entities:
                await data.set(entity, "shared", {"n": 0})
            reading = asyncio.create_task(read())
            writers = [asyncio.create_task(write(number)) for number in range(3)]
            runs = [
                await data.client.workflow.start(entity, args=[20], workflow_id=f"{entity}-{i}")
                for entity in entities for i in range(5)
            ]  # fmt: skip
            for entity in entities:
                await asyncio.sleep(0.1)
                await asyncio.gather(data.create_search_index(entity), data.create_search_index(entity))
            await asyncio.gather(*[run.result(timeout=30) for run in runs])
            done = True
            times = await asyncio.gather(*writers)
            await reading
        for i, entity in enumerate(entities, 1):
            assert (await data.get(entity, "shared") or {})["n"] == sum(times)
            for run in range(5):
                assert (await data.get(entity, f"{entity}-{run}") or {})["n"] == 20
            assert where(conn)[f"record_{i}"] == 1 + sum(times) + 5
        assert "record_rest" not in where(conn)


async def test_the_schema_goes_with_its_tables(dsn: str) -> None:
    async with MeshData(dsn, schema()) as data:
        await data.create_search_index("thing")
        await data.set("thing", "one", {"n": 1})
    assert migrate.check(dsn) == []
    migrate.downgrade(dsn, "0004")
    migrate.upgrade(dsn)
    assert migrate.check(dsn) == []
