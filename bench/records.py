"""What a record costs that is written, and what it takes to find some among a million.

Writing: workflows of five steps, drained by one worker in this process. A step is an activity that sets nothing,
or a `search.set` of five fields, without an index, beside the indexes of another entity, and with indexes of its own.

Finding: records put in with SQL, in random order, as workflows would leave them; then the calls that programs make,
each round with other values, timed in the process that calls. The plan that PostgreSQL chose must name the index.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from bench.role import percentiles, runner
from bench.server import Server

WORKFLOWS = 1000
STEPS = 5
RECORDS = 1_000_000
ROUNDS = 200
LONGEST = 60.0  # seconds that the rounds of one query may take
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = 365 * 86400

# A city has 1,000 records of a million, a name 200; nine of ten are active.
_FILL = """
insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, id, data)
select %(entity)s, 1, now(), now(), md5(i::text), jsonb_build_object(
         'active', case when i %% 10 = 0 then 'no' else 'yes' end,
         'city', 'city ' || abs(hashint4(i)::bigint) %% greatest(%(count)s / 1000, 10),
         'name', 'n' || abs(hashint4(i + 1)::bigint) %% 5000 || ' f' || abs(hashint4(i + 2)::bigint) %% 20000,
         'amount', abs(hashint4(i + 3)::bigint) %% 1000000 / 100.0,
         'created', to_char(timestamp '2026-01-01' + abs(hashint4(i + 4)::bigint) %% 31536000 * interval '1 second',
                            'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'))
  from generate_series(1, %(count)s) i
"""


def _fields(*, words: bool) -> dict[str, Any]:
    from pyhotmesh import Numeric, Tag, Text, Timestamp

    typed = {"active": Tag(), "city": Tag(), "amount": Numeric(sortable=True), "created": Timestamp(sortable=True)}
    return {**typed, "name": Text(nostem=True)} if words else typed


# ---------------------------------------------------------------------------------------- writing --


def writing(server: Server, scale: float) -> Iterator[tuple[str, dict[str, float]]]:
    """What a step costs that sets five fields of a record, beside one that sets nothing."""
    from pyhotmesh import migrate

    dsn = server.create("records_bench")
    try:
        migrate.upgrade(dsn)
        with runner() as loop:
            yield from loop.run(_writing(dsn, max(20, int(WORKFLOWS * scale))))
    finally:
        server.drop("records_bench")


async def _writing(dsn: str, count: int) -> list[tuple[str, dict[str, float]]]:
    from pyhotmesh import MeshData, Schema

    def schema(entity: str, words: bool) -> Schema:
        return Schema(entity, fields=_fields(words=words))

    found = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        await _drain(dsn, conn, "nothing", max(20, count // 5))  # caches, plans, pages
        for title, entity in (("an activity, nothing is set", "nothing"), ("`search.set`, no index anywhere", "plain")):
            found.append((title, await _drain(dsn, conn, entity, count)))
        for title, entity, other, words in (
            ("`search.set`, no index, another entity has 5", "plain", "elsewhere", True),
            ("`search.set`, 4 indexes", "typed", "typed", False),
            ("`search.set`, 4 indexes and one of words (GIN)", "worded", "worded", True),
        ):
            async with MeshData(dsn, schema(other, words)) as data:
                await data.create_search_index(other)
            found.append((title, await _drain(dsn, conn, entity, count)))
    return found


async def _drain(dsn: str, conn: psycopg.Connection[Any], entity: str, count: int) -> dict[str, float]:
    """Starts workflows while the worker takes none, then lets it; ends when none is open any more."""
    from pyhotmesh import Client, StartRequest, Worker, activity, workflow

    @activity.defn
    async def work(number: int) -> int:
        return number + 1

    @workflow.defn(name=entity)
    async def stepping(number: int) -> int:
        search = workflow.search()
        for step in range(STEPS):
            if entity == "nothing":
                await workflow.execute_activity(work, number)
                continue
            at = (BEGIN + timedelta(seconds=number * STEPS + step)).isoformat()
            await search.set(
                active="yes", city=f"city {number % 1000}", name=f"n{number} f{step}", amount=number + step / 8, created=at
            )
        return number

    async with Client(dsn) as client:
        worker = Worker(client, workflows=[stepping], activities=[work])
        worker.pause()
        async with worker:
            await client.workflow.start_many([StartRequest(stepping, [number]) for number in range(count)])
            conn.execute("vacuum analyze")
            conn.execute("checkpoint")
            before = _wal(conn)
            begin = time.perf_counter()
            worker.resume()
            while conn.execute("select 1 from hotmesh_engine.live limit 1").fetchone() is not None:
                await asyncio.sleep(0.005)
            took = time.perf_counter() - begin
            wal = _wal(conn) - before
    steps = count * STEPS
    return {"us_per_step": round(took / steps * 1e6, 1), "wal_bytes_per_step": round(wal / steps)}


def _wal(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


# ---------------------------------------------------------------------------------------- finding --

Call = Callable[[], Awaitable[Any]]


def finding(scale: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """How long typical searches take among many records, and by which index; on a server of their own, which has
    memory for them: a million with their indexes are 0.7 GB."""
    from pyhotmesh import migrate

    with Server(shared_buffers="1GB") as server:
        dsn = server.create("records_bench")
        migrate.upgrade(dsn)
        with runner() as loop:
            yield from loop.run(_all(_finding(dsn, max(1000, int(RECORDS * scale)))))


async def _all(found: AsyncIterator[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    return [one async for one in found]


async def _finding(dsn: str, count: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    from pyhotmesh import MeshData, Schema

    schema = Schema("account", fields=_fields(words=True), together=[("city", "created"), ("city", "amount")])
    async with MeshData(dsn, Schema("account", fields={})) as early:
        await early.create_search_index("account")  # before it has many records: they have a table of their own
    async with MeshData(dsn, schema) as data:
        with psycopg.connect(dsn, autocommit=True) as conn:
            row = conn.execute("select entity_id from hotmesh_engine.entity where name = 'account'").fetchone()
            assert row is not None
            conn.execute(_FILL, {"entity": row[0], "count": count})
            conn.execute("create table application (id text primary key, region text)")
            conn.execute("insert into application select md5(i::text), 'r' || i %% 50 from generate_series(1, %s) i", (count,))
            conn.execute("vacuum analyze application")
            begin = time.perf_counter()
            await data.create_search_index("account")
            yield f"all 7 indexes of {count:,} records built", {"seconds": round(time.perf_counter() - begin, 1)}
            conn.execute("checkpoint")
        for title, explained, call in _calls(data, count):
            index = await _index(explained)
            yield title, {**await _timed(call), "index": index}


def _calls(data: Any, count: int) -> Iterator[tuple[str, Call, Call]]:
    """What it is, how to ask for its plan, and the call; each time with other values."""
    draw = random.Random(7)

    def city() -> str:
        return f"city {draw.randrange(max(count // 1000, 10))}"

    def moment(days: float) -> tuple[str, str]:
        low = BEGIN + timedelta(seconds=draw.randrange(SPAN - int(days * 86400)))
        return low.isoformat(), (low + timedelta(days=days)).isoformat()

    def listed(sort: str | None, *conditions: Callable[[], tuple[str, str, Any]]) -> tuple[Call, Call]:
        def query() -> list[dict[str, Any]]:
            return [dict(zip(("field", "is", "value"), condition(), strict=True)) for condition in conditions]

        return (lambda: data.explain("account", query(), sort=sort), lambda: data.find_where("account", query(), sort=sort))

    def text(query: Callable[[], str]) -> tuple[Call, Call]:
        return lambda: data.explain("account", query()), lambda: data.find("account", query())

    yield "find: tag, 100 of 1,000", *listed(None, lambda: ("city", "=", city()))
    yield (
        "find: tag and range of a month, sorted by it",
        *listed("-created", lambda: ("city", "=", city()), lambda: ("created", "[]", moment(30))),
    )
    yield (
        "find: common tag and range of a day, sorted by it",
        *listed("created", lambda: ("active", "=", "yes"), lambda: ("created", "[)", moment(1))),
    )
    yield "find: number range, sorted by it downwards", *listed("-amount", lambda: ("amount", "<", draw.randrange(10_000)))
    yield "find: FT.SEARCH, a word", *text(lambda: f"@name:n{draw.randrange(5000)}")
    yield "find: FT.SEARCH, two words in order", *text(lambda: f'@name:"n{draw.randrange(5000)} f{draw.randrange(20_000)}"')
    yield "find: FT.SEARCH, a tag and a range", *text(lambda: f"@city:{{{city()}}} @amount:[{draw.randrange(9000)} +inf]")

    async def deep() -> Any:
        return (await data.find_where("account", [{"field": "created", "is": ">=", "value": moment(60)[0]}], sort="created")).next

    marks: list[str] = []

    async def page() -> Any:
        return await data.find_where("account", sort="created", after=draw.choice(marks))

    async def explain_page() -> Any:
        marks.extend([await deep() for _ in range(50)])
        return await data.explain("account", sort="created", after=draw.choice(marks))

    yield "find: a page of 100 deep in the list (after=)", explain_page, page
    by_city = [{"field": "city", "is": "="}]
    yield (
        "count of a tag, 1,000",
        lambda: data.explain("account", [{**by_city[0], "value": city()}], size=10_000),
        lambda: data.count("account", [{**by_city[0], "value": city()}]),
    )
    yield (
        "aggregate of a tag, 1,000: count and sum by another tag",
        lambda: data.explain("account", [{**by_city[0], "value": city()}], size=10_000),
        lambda: data.aggregate(
            "account", [{**by_city[0], "value": city()}], by=["active"], figures={"n": "count", "total": ("sum", "amount")}
        ),
    )
    join = (
        "select a.region, count(*) from hotmesh_data.account u"
        ' join application a on a.id = u.record_id collate "default"'
        " where u.city = %s and u.created >= %s group by 1"
    )
    yield (
        "SQL: the view joined with a table",
        lambda: data.sql(f"explain (format json) {join}", (city(), moment(30)[0])),
        lambda: data.sql(join, (city(), moment(30)[0])),
    )
    yield (
        "count of all that are active",
        *(
            lambda: data.explain("account", [{"field": "active", "is": "=", "value": "yes"}], size=10_000),
            lambda: data.count("account", [{"field": "active", "is": "=", "value": "yes"}]),
        ),
    )


async def _timed(call: Call) -> dict[str, float]:
    took = []
    ends = time.perf_counter() + LONGEST
    for _ in range(ROUNDS + 5):
        begin = time.perf_counter()
        await call()
        took.append(time.perf_counter() - begin)
        if begin > ends:
            break
    return {name: value for name, value in percentiles(took[5:] or took).items() if name in ("p50_ms", "p95_ms")}


async def _index(explained: Call) -> str:
    """The indexes that the plan names, without the prefix that all have."""
    names = re.findall(r'"Index Name": "(?:search_\d+_)?(\w+)"', json.dumps(await explained()))
    return " ".join(f"`{name}`" for name in dict.fromkeys(names)) or "none"
