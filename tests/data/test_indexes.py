"""Schemas become real indexes: made once, repaired, added to, and used."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pyhotmesh import InvalidQuery, MeshData, Schema
from tests.data.plain import SCHEMA, leaf
from tests.reliability.kit import until


def indexes(conn: psycopg.Connection[Any]) -> dict[str, bool]:
    """The search indexes that the catalog has, and whether they can be used."""
    query = """
        select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid
         where i.indrelid::regclass::text like 'hotmesh_engine.record%' and c.relname like 'search%'"""
    return dict(conn.execute(query).fetchall())


def definition(conn: psycopg.Connection[Any], name: str) -> str:
    row = conn.execute("select pg_get_indexdef(('hotmesh_engine.' || %s)::regclass)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.limit(90)
async def test_twenty_servers_at_once_make_each_index_once(dsn: str, conn: psycopg.Connection[Any]) -> None:
    servers = [MeshData(dsn, SCHEMA) for _ in range(20)]
    reports = await asyncio.gather(*[data.create_search_index("thing") for data in servers])
    assert {report.shared for report in reports} == {None}
    made = [name for report in reports for name in report.created]
    assert sorted(made) == sorted(indexes(conn)) and len(made) == 6
    assert all(indexes(conn).values()), "all of them can be used"
    assert not any(report.repaired or report.would_drop for report in reports)
    assert all(len(report.created) + len(report.kept) == 6 for report in reports)
    (entity,) = conn.execute("select entity_id from hotmesh_engine.entity where name = 'thing'").fetchone() or (0,)
    assert "USING gin" in "".join(definition(conn, name) for name in made if "words" in name)
    assert entity == 1
    elsewhere = "select count(*) from pg_indexes where tablename <> 'record_1' and indexname like 'search%'"
    assert conn.execute(elsewhere).fetchone() == (0,)
    assert (await servers[0].create_search_index("thing")).created == (), "a later start finds all there"


async def test_servers_that_declare_slowly_do_not_keep_an_entity_from_its_own_table(
    dsn: str, conn: psycopg.Connection[Any]
) -> None:
    data = MeshData(dsn)
    await data.set("thing", "one", {"tag": "a"})
    with psycopg.connect(dsn) as declaring, psycopg.connect(dsn, autocommit=True) as moving:
        declaring.execute("select from hotmesh_engine.entity for update")  # as a queue of twenty on a slow disk
        moved = asyncio.create_task(
            asyncio.to_thread(lambda: moving.execute("select hotmesh_engine.own_table(1)").fetchone()))  # fmt: skip
        await until(lambda: conn.execute("select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'",
                                         (moving.info.backend_pid,)).fetchone())  # fmt: skip
        await asyncio.sleep(1.2)  # longer than it may keep records locked
        await asyncio.wait_for(data.set("thing", "two", {"tag": "b"}), 5)  # nobody else waits meanwhile
        assert not moved.done()
        declaring.commit()
        assert await moved == (None,), "it has one"
    assert conn.execute("select count(*) from hotmesh_engine.record_1").fetchone() == (2,)


@pytest.mark.parametrize("died", ["the connection", "the process"])
async def test_what_an_attempt_that_died_left_over_is_repaired(dsn: str, conn: psycopg.Connection[Any], died: str) -> None:
    data = MeshData(dsn, Schema("thing", fields={"tag": {"type": "TAG"}}))
    await data.set("thing", "one", {"tag": "a"})
    with psycopg.connect(dsn) as older:  # a transaction for which a concurrent build has to wait
        older.execute("set transaction isolation level repeatable read")
        older.execute("select 1")
        building = asyncio.create_task(data.create_search_index("thing"))
        waits = "select pid from pg_stat_activity where query like 'create index%' and wait_event_type = 'Lock'"
        await until(lambda: conn.execute(waits.encode()).fetchone())
        assert not any(indexes(conn).values()) and len(indexes(conn)) == 1
        await data.set("thing", "two", {"tag": "a"})
        if died == "the connection":
            conn.execute(f"select pg_terminate_backend(({waits}))".encode())
        else:
            building.cancel()
        await until(lambda: not conn.execute(waits.encode()).fetchall())
        (name,) = indexes(conn)
        assert indexes(conn) == {name: False}
    if died == "the process":
        building = asyncio.create_task(data.create_search_index("thing"))
    assert (await building).repaired == (name,)
    assert indexes(conn) == {name: True}
    assert [r.id for r in await data.find("thing", "@tag:{a}")] == ["one", "two"]
    await data.close()


async def test_a_build_that_somebody_cancels_is_not_begun_again(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, Schema("thing", fields={"tag": {"type": "TAG"}})) as data:
        await data.set("thing", "one", {"tag": "a"})
        with psycopg.connect(dsn) as older:  # a transaction for which a concurrent build has to wait
            older.execute("set transaction isolation level repeatable read")
            older.execute("select 1")
            building = asyncio.create_task(data.create_search_index("thing"))
            waits = "select pid from pg_stat_activity where query like 'create index%' and wait_event_type = 'Lock'"
            await until(lambda: conn.execute(waits.encode()).fetchone())
            conn.execute(f"select pg_cancel_backend(({waits}))".encode())
            with pytest.raises(psycopg.errors.QueryCanceled, match="user request"):
                await asyncio.wait_for(building, 10)
        assert list(indexes(conn).values()) == [False]
        assert len((await data.create_search_index("thing")).repaired) == 1


async def test_a_changed_schema_adds_what_is_new_and_says_what_it_would_drop(dsn: str, conn: psycopg.Connection[Any]) -> None:
    def server(**fields: str) -> MeshData:
        return MeshData(dsn, Schema("thing", fields={name: {"type": kind} for name, kind in fields.items()}))

    old = server(tag="TAG", n="TAG", words="TEXT")
    await old.set("thing", "one", {"tag": "a", "n": "7", "words": "two words", "at": "2026-01-01"})
    before = (await old.create_search_index("thing")).created
    assert len(before) == 3 and set(indexes(conn)) == set(before)
    columns = """
        select attname, format_type(atttypid, null) from pg_attribute
         where attrelid = 'hotmesh_data.thing'::regclass and attname !~ '^record' order by attnum"""
    assert conn.execute(columns).fetchall() == [("tag", "text"), ("n", "text"), ("words", "text")]

    new = server(tag="TAG", n="NUMERIC", at="TIMESTAMP")
    report = await new.create_search_index("thing")
    (entity,) = conn.execute("select entity_id from hotmesh_engine.entity where name = 'thing'").fetchone() or (0,)
    assert report.created == (f"search_{entity}_at_tim", f"search_{entity}_n_num")
    assert report.kept == (f"search_{entity}_tag_tag",)
    assert set(indexes(conn)) == {*before, *report.created}, "nothing is dropped"
    gone = {name for name in before if "_tag_" not in name}
    assert {s.split(".")[-1] for s in report.would_drop if " index " in s} == gone and len(gone) == 2
    assert (await new.create_search_index("thing")).would_drop == report.would_drop, "and it says so again"
    assert conn.execute(columns).fetchall() == [
        ("tag", "text"), ("n", "numeric"), ("words", "text"), ("at", "timestamp with time zone"),
    ]  # fmt: skip
    assert [r.id for r in await new.find_where("thing", [leaf("n", ">", 6), leaf("at", "<", "2026-02-01")], sort="n")] == ["one"]
    assert [r.id for r in await old.find("thing", "@words:words")] == ["one"], "a server with the old schema goes on"

    for statement in report.would_drop:
        conn.execute(statement.encode())
    assert set(indexes(conn)) == {*report.created, *report.kept}
    assert (await new.create_search_index("thing")).would_drop == ()
    await asyncio.gather(old.close(), new.close())


async def test_each_process_makes_and_keeps_what_its_own_schema_asks_for(dsn: str, conn: psycopg.Connection[Any]) -> None:
    new = MeshData(dsn, Schema("thing", fields={"n": {"type": "NUMERIC"}}))
    old = MeshData(dsn, Schema("thing", fields={"n": {"type": "TAG"}}))
    conn.execute("select pg_advisory_lock(1212370261)")  # as who builds
    reports = []
    for data, kind in ((new, "NUMERIC"), (old, "TAG")):
        reports.append(asyncio.create_task(data.create_search_index("thing")))
        declared = f"select from hotmesh_engine.entity_field where type = '{kind}'".encode()
        await until(functools.partial(lambda query: conn.execute(query).fetchall(), declared))
    conn.execute("select pg_advisory_unlock(1212370261)")
    first, second = await asyncio.gather(*reports)
    assert first.created == ("search_1_n_num",) and second.created == ("search_1_n_tag",)
    for report, others in ((first, "n_tag"), (second, "n_num")):
        assert all(others in statement for statement in report.would_drop)
    await asyncio.gather(old.close(), new.close())


async def test_fields_together_have_an_index_that_any_record_fits_into(dsn: str, conn: psycopg.Connection[Any]) -> None:
    schema = replace(SCHEMA, together=[("tag", "words", "n"), ["yes", "at"], ("tag", "n", "at")])
    async with MeshData(dsn, schema) as data:
        report = await data.create_search_index("thing")
        joined = sorted(name for name in report.created if re.search("_[0-9a-f]{6}$", name))
        assert [name.split("_", 2)[2][:-7] for name in joined] == ["tag_n_at", "tag_words_n", "yes_at"]
        texts = conn.execute("select string_agg(md5(i::text), '') from generate_series(1, 40) i").fetchone() or ("",)
        long = {"tag": texts[0][:1000], "words": texts[0][:200].replace("a", "é"), "n": "1" * 300 + "." + "7" * 340}
        long_id = texts[0][100:999]
        await data.set("thing", long_id, {**long, "at": "2026-01-01T00:00:00Z"})
        assert [r.id for r in await data.find_where("thing", [leaf("tag", "=", long["tag"])], sort="n")] == [long_id]
        without = await MeshData(dsn, SCHEMA).create_search_index("thing")
        assert {s.split(".")[-1] for s in without.would_drop} == set(joined)


@pytest.mark.parametrize(
    ("together", "message"),
    [
        ("tag", "must be a list of tuples of fields, not of 't'"),
        ([("tag", "nobody")], "names 'nobody', which is no field"),
        ([("tag",)], "two or three fields"),
        ([("tag", "tag")], "two or three fields"),
        ([("tag", "words", "word")], "at most two of them Tag or Text"),
        ([("tag", "plain")], "a Text that is not sortable"),
        ([(1, 2)], "must be a list of tuples of fields"),
    ],
)
def test_fields_that_cannot_be_together_are_refused(together: Any, message: str) -> None:
    fields = {**SCHEMA.fields, "word": {"type": "TAG"}, "plain": {"type": "TEXT"}}
    with pytest.raises(InvalidQuery, match=message):
        Schema.of({"index": "thing", "fields": fields, "together": together})


@pytest.mark.limit(90)
@pytest.mark.parametrize("table", ["own", "shared"])
async def test_typical_queries_use_their_index(dsn: str, conn: psycopg.Connection[Any], table: str) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        if table == "own":
            await data.create_search_index("thing")
        else:
            await data.set("thing", "the first", {})
        (entity,) = conn.execute("select entity_id from hotmesh_engine.entity where name = 'thing'").fetchone() or (0,)
        conn.execute(
            "insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, id, data)"
            " select %s, 1, now(), now(), 'r' || i, jsonb_build_object('tag', 't' || i %% 2000, 'n', i, 'words', 'w' || i,"
            " 'yes', i %% 10 > 0, 'at', timestamptz '2026-01-01' + i * interval '20 minutes')"
            " from generate_series(1, 20000) i",
            (entity,),
        )
        if table == "own":
            conn.execute(f"analyze hotmesh_engine.record_{entity}".encode())
        else:
            await data.create_search_index("thing")
            (created, *_) = indexes(conn)
            assert definition(conn, created).endswith(f"WHERE (entity_id = {entity})"), "there are too many to be moved"
        for query, sort, index in (
            ([{"field": "tag", "is": "=", "value": "t7"}], None, "tag_tag"),
            ([{"field": "tag", "is": "prefix", "value": "t199"}], "tag", "tag_tag"),
            ([{"field": "n", "is": "[]", "value": [100, 200]}], "n", "n_num"),
            ([], "-n", "n_num"),
            ([{"field": "tag", "is": "=", "value": "t7"}, {"field": "n", "is": "<", "value": 15000}], "n", "tag_tag"),
            ([{"field": "yes", "is": "=", "value": True}, {"field": "n", "is": "[]", "value": [7, 90]}], "n", "n_num"),
            ([{"field": "at", "is": ">=", "value": "2026-06-01"}], "-at", "at_tim"),
            ("@words:w77", None, r"words_[0-9a-f]{3}"),
            ([{"field": "words", "is": "=", "value": "w77"}], None, "words_tex"),
        ):
            plan = json.dumps(await data.explain("thing", query, sort=sort))
            assert re.search(rf'"Index Name": "search_{entity}_{index}"', plan), plan
        deep = (await data.find_where("thing", [{"field": "n", "is": ">", "value": 9000}], sort="n", size=5)).next
        plan = json.dumps(await data.explain("thing", sort="n", after=deep))
        assert re.search(rf'"Index Name": "search_{entity}_n_num"', plan) and '"Sort"' not in plan, plan
        assert [dict(r)["n"] for r in await data.find_where("thing", sort="n", after=deep, size=2)] == [9006, 9007]
        rows = await data.sql("""explain (format json) select * from hotmesh_data.thing where tag = 't7'""")
        assert f"search_{entity}_tag_tag" in json.dumps(rows)

    async with MeshData(dsn, replace(SCHEMA, together=[("yes", "n"), ("yes", "tag", "at")])) as data:
        await data.create_search_index("thing")
        for query, sort, index in (
            ([leaf("yes", "=", False)], "n", "yes_n"),
            ([leaf("yes", "=", False), leaf("n", "<", 9000)], "-n", "yes_n"),
            ([leaf("yes", "=", True), leaf("tag", "=", "t7"), leaf("at", ">", "2026-03-01")], "at", "yes_tag_at"),
        ):
            plan = json.dumps(await data.explain("thing", query, sort=sort))
            assert re.search(rf'"Index Name": "search_{entity}_{index}_[0-9a-f]{{6}}"', plan), plan
            assert "Sort" not in re.sub("Sort Key", "", plan), f"what is read stands in order there: {plan}"


async def test_a_schema_without_fields_has_a_view_of_its_documents(dsn: str) -> None:
    async with MeshData(dsn, Schema("thing", fields={})) as data:
        assert (await data.create_search_index("thing")).created == ()
        await data.set("thing", "one", {"n": 1})
        assert await data.sql("select record_id, record_data from hotmesh_data.thing") == [
            {"record_id": "one", "record_data": {"n": 1}}
        ]
        assert [record.id for record in await data.find_where("thing")] == ["one"]
