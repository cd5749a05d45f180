"""Entities: one run an id, a record that is kept with it, hooks, history."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Json

from pyhotmesh import (
    Client,
    HotMeshError,
    MeshData,
    PayloadError,
    RecordError,
    Schema,
    SyncClient,
    SyncMeshData,
    Tag,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowFailed,
    WorkflowInterrupted,
    WorkflowNotFound,
    workflow,
)

SCHEMA = Schema("user", fields={"active": Tag(), "plan": Tag()})


async def user(name: str) -> str:
    search = workflow.search()
    await search.set(active="yes")
    await search.incr("runs")
    if name == "wait":
        await workflow.wait_for("go")
    if name == "fail":
        raise ValueError("no")
    return f"Welcome, {name}."


async def upgrade(plan: str) -> str:
    await workflow.search().set(plan=plan)
    if plan == "slow":
        await workflow.wait_for("never")
    return plan


async def idle(name: str) -> str:
    return name


async def late() -> list[Any]:
    await workflow.wait_for("late")
    search = workflow.search()
    found = await search.get("late")
    try:
        await search.incr("late")
    except RecordError as error:
        return [found, error.message]
    return [found, "counted"]


def serving(dsn: str) -> MeshData:
    return MeshData(dsn, SCHEMA, namespace="meshdata")


async def until(condition: Any) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


async def test_exec_runs_joins_and_returns_what_is_there(dsn: str) -> None:
    async with serving(dsn) as data, serving(dsn) as other:
        await data.connect("user", user)
        begin = {"data": {"active": "no", "name": "Jim"}}
        callers = [d.exec("user", ["wait"], id="jim", search=begin, ttl="infinity") for d in (data, other) for _ in range(5)]
        waiting = asyncio.gather(*callers)

        async def is_active() -> bool:
            return (await data.get("user", "jim") or {}).get("active") == "yes"

        await until(is_active)
        await data.signal("go")
        assert await waiting == ["Welcome, wait."] * 10
        assert await data.exec("user", ["James"], id="jim") == "Welcome, wait."
        assert await data.get("user", "jim") == {"active": "yes", "name": "Jim", "runs": 1}
        assert await data.flush("user", "jim") and await data.get("user", "jim") is None
        assert await data.exec("user", ["James"], id="jim") == "Welcome, James."
        for runs in (1, 2):
            with pytest.raises(WorkflowFailed):
                await data.exec("user", ["fail"], id="bad")
            assert await data.get("user", "bad", ["runs"]) == {"runs": runs}, "what failed is not kept"


async def test_a_record_is_kept_with_its_workflow_and_no_longer(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with serving(dsn) as data:
        await data.create_search_index("user")
        await data.connect("user", user, hooks=[upgrade])
        with pytest.raises(TypeError, match="must be an async function"):
            await data.connect("other", lambda name: name)
        await data.exec("user", ["a"], id="short", ttl="1 hour")
        await data.exec("user", ["b"], id="long", ttl="infinity")
        await data.set("user", "alone", {"active": "no"}, ttl="1 hour")
        conn.execute("select hotmesh_engine.skip('2 hours')")
        assert await data.get("user", "short") is None and await data.get("user", "alone") is None
        assert [r.id for r in await data.find_where("user")] == ["long"] and await data.count("user") == 1
        for view in ("hotmesh.records", 'hotmesh_data."user"'):
            assert conn.execute(f"select count(*) from {view}".encode()).fetchone() == (1,), view
        with pytest.raises(RecordError, match="there is no record 'short'"):
            await data.hook("user", "short", upgrade, ["gold"])
        with pytest.raises(RecordError, match="there is no record 'short'"):
            await data.incr("user", "short", "runs")
        assert await data.get("user", "short", as_of=datetime.now(UTC)) is None, "its history goes with it"
        assert await data.exec("user", ["again"], id="short", ttl="1 hour") == "Welcome, again."
        assert await data.get("user", "short") == {"active": "yes", "runs": 1}, "begun anew, though nobody has pruned"
        await data.set("user", "alone", {"active": "no"})
        await data.set("user", "alone", {}, ttl="1 hour")
        await data.set("user", "ages", {"active": "no"}, ttl="1000 years")
        assert await data.exec("user", ["a"], id="ages", ttl="1000 years") == "Welcome, a."
        await data.flush("user", "ages")
        conn.execute("select hotmesh_engine.skip('2 hours')")
        assert await data.get("user", "alone") is None, "a ttl counts without fields too"
        conn.execute("select hotmesh.prune()")
        assert conn.execute("select id from hotmesh_engine.record").fetchall() == [("long",)]
        assert conn.execute("select distinct id from hotmesh_engine.record_change").fetchall() == [("long",)]


async def test_what_a_record_cannot_hold_is_no_start(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with serving(dsn) as data:
        await data.connect("user", user)
        much = {"data": {"active": "no", "points": [1] * 200_000}}  # 0.4 MB of JSON, more than 2 as jsonb
        with pytest.raises(RecordError, match="more than 2 MB, as PostgreSQL stores it"):
            await data.exec("user", ["a"], id="a", search=much, ttl="infinity")
        assert await data.get("user", "a") is None
        assert conn.execute("select count(*) from hotmesh.workflows").fetchone() == (0,)
        assert await data.exec("user", ["b"], id="a") == "Welcome, b."


async def test_a_workflow_is_started_with_its_record(dsn: str, conn: psycopg.Connection[Any]) -> None:
    """As any other: its type and its id say which record, and nothing is written without a start."""

    @workflow.defn(name="order")
    async def order() -> Any:
        search = workflow.search()
        await search.incr("paid", 5)
        return [await search.get("state"), await search.get("paid")]

    async with Client(dsn) as client, MeshData(dsn) as data:
        start = client.workflow.start
        options: dict[str, Any] = {"workflow_id": "o1", "task_queue": "orders"}
        handle = await start(order, search={"data": {"state": "new", "paid": 1}}, priority=2, memo={"by": "me"}, **options)
        assert await data.get("order", "o1") == {"state": "new", "paid": 1}
        with pytest.raises(WorkflowAlreadyStarted):
            await start(order, search={"data": {"state": "again"}}, **options)
        joined = await start(order, search={"data": {"state": "joined"}}, id_conflict_policy="use_existing", **options)
        assert joined.run_id == handle.run_id and await data.get("order", "o1", fields=["state"]) == {"state": "new"}
        for wrong, error in (({"state": "x"}, PayloadError), ({"data": {"text": "x" * 2**21}}, HotMeshError)):
            with pytest.raises(error):
                await start(order, workflow_id="o2", search=wrong)
        async with await psycopg.AsyncConnection.connect(dsn) as mine:
            with pytest.raises(PayloadError, match="within a transaction"):
                await start(order, workflow_id="o2", search={"data": {}}, conn=mine)
        with SyncClient(dsn) as blocking, pytest.raises(PayloadError, match="within a transaction"):
            blocking.workflow.start(order, workflow_id="o2", search={"data": {}}, conn=conn)
        assert conn.execute("select workflow_id, priority, memo from hotmesh.workflows").fetchall() == [("o1", 2, {"by": "me"})]
        async with Worker(client, workflows=[order], task_queue="orders"):
            assert await handle.result(timeout=20) == ["new", 6]
            again = await client.workflow.execute(order, search={"data": {"state": "anew"}}, **options, timeout=20)
            assert again == ["anew", 11] and await data.get("order", "o1") == {"state": "anew", "paid": 11}
        assert conn.execute("select * from hotmesh.check_invariants()").fetchall() == []


async def test_a_record_is_its_workflows_once_that_is_executed(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with serving(dsn) as data:
        await data.connect("user", user)
        await data.connect("idle", idle)
        for entity, search in (("user", None), ("user", {"data": {"a": 1}}), ("idle", None)):
            await data.set(entity, "x", {"active": "no"}, ttl="1 hour")
            await data.exec(entity, ["x"], id="x", search=search, ttl="infinity")
            conn.execute("select hotmesh_engine.skip('2 hours')")
            conn.execute("select hotmesh.prune()")
            assert await data.get(entity, "x") is not None, "its own time was over, its workflow's is not"
            await data.flush(entity, "x")
        await data.set("idle", "gone", {"n": 1}, ttl="1 hour")
        conn.execute("select hotmesh_engine.skip('2 hours')")
        await data.exec("idle", ["x"], id="gone", ttl="infinity")
        assert await data.get("idle", "gone") is None, "what has lapsed does not come back"


@pytest.mark.parametrize("how", ["lapsed", "pruned", "flushed"])
async def test_a_hook_whose_record_is_gone_begins_none(dsn: str, conn: psycopg.Connection[Any], how: str) -> None:
    async with serving(dsn) as data:
        await data.connect("user", user, hooks=[late])
        await data.exec("user", ["a"], id="h", ttl="1 hour")
        hook = await data.hook("user", "h", late)
        if how == "flushed":
            await data.flush("user", "h")
        else:
            conn.execute("select hotmesh_engine.skip('2 hours')")
            if how == "pruned":
                conn.execute("select hotmesh.prune()")
        await data.signal("late")
        assert await data.client.get_handle(hook).result() == [None, "the record is gone: it was flushed, or its time is over"]
        assert await data.get("user", "h") is None
        assert conn.execute("select count(*) from hotmesh_engine.record where data ? 'late'").fetchone() == (0,)
        await data.exec("user", ["b"], id="h")
        assert await data.get("user", "h") == {"active": "yes", "runs": 1}


async def test_hooks_work_on_the_record_and_end_with_it(dsn: str) -> None:
    async with serving(dsn) as data:
        await data.create_search_index("user")
        await data.connect("user", user, hooks=[upgrade])
        run = asyncio.create_task(data.exec("user", ["wait"], id="h"))

        async def has(field: str, value: Any) -> bool:
            return (await data.get("user", "h") or {}).get(field) == value

        await until(lambda: has("active", "yes"))
        await data.hook("user", "h", upgrade, ["gold"])
        await until(lambda: has("plan", "gold"))
        assert [r.id for r in await data.find("user", "@plan:{gold}")] == ["h"]
        await data.hook("user", "h", "upgrade", ["slow"])
        await until(lambda: has("plan", "slow"))
        with pytest.raises(RecordError, match="there is no record 'nobody'"):
            await data.hook("user", "nobody", upgrade, ["gold"])
        await data.interrupt("user", "h")
        with pytest.raises(WorkflowInterrupted):
            await run
        with pytest.raises(WorkflowNotFound):
            await data.interrupt("user", "h")


async def test_changes_from_outside_and_what_a_record_was(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with serving(dsn) as data:
        await data.connect("user", user)
        await data.exec("user", ["a"], id="x", search={"data": {"active": "no"}})
        ended = datetime.now(UTC)
        assert await data.incr("user", "x", "runs", 0.5) == 1.5
        assert [await data.incr("user", "x", "runs", 1, idempotency_key="once") for _ in range(2)] == [2.5, 2.5]
        assert await data.delete("user", "x", ["active", "nothing"]) == 1
        await asyncio.gather(*[data.incr("user", "x", "many") for _ in range(40)])
        assert await data.get("user", "x") == {"runs": 2.5, "many": 40}
        assert await data.get("user", "x", as_of=ended) == {"active": "yes", "runs": 1}
        assert await data.get("user", "x", as_of=0) == {"active": "no"}
        assert await data.get("user", "x", as_of=2) == {"active": "yes"}
        assert await data.get("user", "x", as_of=datetime(2000, 1, 1, tzinfo=UTC)) is None
        await data.set("user", "x", {"many": "text"})
        with pytest.raises(RecordError, match="no number"):
            await data.incr("user", "x", "many")
        with pytest.raises(RecordError, match="no record"):
            await data.incr("user", "nobody", "runs")
        query = """select record_id, plan from hotmesh_data."user" u join mine on mine.id = u.record_id"""
        conn.execute("create table mine (id text)")
        conn.execute("insert into mine values ('x')")
        await data.create_search_index("user")
        assert await data.sql(query) == [{"record_id": "x", "plan": None}]
        plan = [{"not": {"field": "plan", "is": "=", "value": "y"}}]
        search = "select id from hotmesh.find('user', %s, namespace => 'meshdata')"
        found = conn.execute(search, (Json(plan),)).fetchall()
        assert found == [("x",)]


async def test_a_key_of_one_call_keeps_no_other_from_counting(dsn: str) -> None:
    async with serving(dsn) as data:
        key = "order 7 " + "x" * 992
        await data.signal("paid", 1, idempotency_key=key)
        for entity, id in (("user", "a"), ("user", "b"), ("shop", "a")):
            await data.set(entity, id, {"orders": 1})
            assert [await data.incr(entity, id, "orders", idempotency_key=key) for _ in range(2)] == [2, 2], (entity, id)


async def test_a_record_that_was_there_before_its_run_is_there_at_the_first_rows_of_its_journal(dsn: str) -> None:
    async with serving(dsn) as data:
        await data.connect("user", user)
        with pytest.raises(WorkflowFailed):
            await data.exec("user", ["fail"], id="twice", search={"data": {"plan": "gold"}})
        await data.set("user", "made", {"plan": "gold"})
        for id, before in (("twice", {"plan": "gold", "active": "yes", "runs": 1}), ("made", {"plan": "gold"})):
            await data.exec("user", ["a"], id=id)
            await data.set("user", id, {"plan": "none"})
            assert [await data.get("user", id, as_of=seq) for seq in (-1, 0, 1)] == [None, before, before], id
            after = {"plan": "gold", "active": "yes", "runs": before.get("runs", 0) + 1}  # type: ignore[operator]
            assert await data.get("user", id, as_of=100) == after, "what came from outside after its last row has none"
        await data.connect("idle", idle)
        await data.set("idle", "x", {"plan": "gold"})
        await data.exec("idle", ["x"], id="x")
        assert await data.get("idle", "x", as_of=1) == {"plan": "gold"}, "nor need it change it itself"


async def welcome(name: str) -> str:
    await workflow.search().set(active="yes")
    return f"Welcome, {name}."


async def test_a_user_is_executed_and_found_by_lists_by_text_and_by_sql(dsn: str, conn: psycopg.Connection[Any]) -> None:
    schema = {
        "index": "user",
        "prefix": ["user"],
        "fields": {
            "id": {"type": "TAG", "sortable": False},
            "first": {"type": "TEXT", "nostem": True},
            "active": {"type": "TAG"},
            "created": {"type": "NUMERIC", "sortable": True},
        },
    }
    conn.execute("create table orders (customer text, total int)")
    conn.execute("insert into orders values ('jim123', 5), ('jim123', 7), ('ann', 1)")
    async with MeshData(dsn, schema, namespace="meshdata") as data:
        await data.create_search_index("user")
        await data.connect("user", welcome)
        begin = {"data": {"id": "jim123", "first": "James", "name": "James T", "created": 1700000000}}
        assert await data.exec("user", args=["James"], id="jim123", search=begin, ttl="infinity") == "Welcome, James."
        four = {"id": "jim123", "first": "James", "active": "yes", "created": 1700000000}
        assert await data.get("user", "jim123", fields=["id", "first", "active", "created"]) == four
        page = await data.find_where(
            "user", [{"field": "active", "is": "=", "value": "yes"}], start=0, size=100, fields=list(four), sort="created"
        )
        assert page == [four] and page[0].id == "jim123" and page.next is None
        assert await data.find("user", '@active:{yes} @created:[(100 +inf] @first:"ja*" -@id:{y}', fields=list(four)) == [four]
        assert await data.find("user", "@active:{no} | (@id:{jim123} @first:james)", fields=["id"]) == [{"id": "jim123"}]
        assert await data.count("user", "@active:{yes}") == 1
        join = """
            select u.first, u.created, sum(o.total)::int as total
              from hotmesh_data."user" u join orders o on o.customer = u.record_id
             where u.active = %s and u.record_namespace = 'meshdata' group by 1, 2"""
        assert await data.sql(join, ("yes",)) == [{"first": "James", "created": 1700000000, "total": 12}]
        conn.execute("select hotmesh_engine.skip('400 days')")
        conn.execute("select hotmesh.prune()")
        assert await data.exec("user", args=["Jim"], id="jim123", ttl="infinity") == "Welcome, James.", "kept for ever"
        begun = "select count(distinct xmin::text) from (select xmin from hotmesh_engine.run union all"
        begun += " select xmin from hotmesh_engine.record_change where version = 1) x"
        assert conn.execute(begun.encode()).fetchone() == (1,), "the record began in the transaction that started the run"


def test_a_blocking_program_has_the_same_calls(dsn: str) -> None:
    with SyncMeshData(dsn, SCHEMA) as data:
        assert len(data.create_search_index("user").created) == 2
        data.connect("user", user, hooks=[upgrade])
        assert data.exec("user", ["James"], id="jim", ttl="infinity") == "Welcome, James."
        assert data.hook("user", "jim", upgrade, ["gold"]).startswith("user:jim:")
        while data.get("user", "jim", ["plan"]) != {"plan": "gold"}:
            time.sleep(0.01)
        assert [r.id for r in data.find_where("user", [{"field": "plan", "is": "=", "value": "gold"}])] == ["jim"]
        assert [r.id for r in data.find("user", "@active:{yes}")] == ["jim"] and data.count("user", "@plan:{gold}") == 1
        data.set("user", "ann", {"active": "no", "n": 1})
        assert data.incr("user", "ann", "n", 2) == 3 and data.delete("user", "ann", ["n"]) == 1
        assert data.aggregate("user", by=["active"]) == [{"active": "no", "count": 1}, {"active": "yes", "count": 1}]
        assert data.sql('select record_id from hotmesh_data."user" where active = %s', ("no",)) == [{"record_id": "ann"}]
        assert "Index Name" in str(data.explain("user", "@active:{no}"))
        waiting = threading.Thread(target=lambda: data.exec("user", ["wait"], id="w"))
        waiting.start()
        while data.get("user", "w") is None:
            time.sleep(0.01)
        data.signal("go")
        waiting.join()
        with pytest.raises(WorkflowNotFound):
            data.interrupt("user", "w")
        assert data.flush("user", "ann") and data.get("user", "ann") is None
