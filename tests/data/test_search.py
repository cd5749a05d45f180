"""Searches find what a plain filter finds, through indexes, and nothing gets in through any of their words."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyhotmesh import MeshData, Schema

SCHEMA = Schema.of(
    {
        "index": "thing",
        "fields": {
            "tag": {"type": "TAG"},
            "words": {"type": "TEXT", "nostem": True, "sortable": True},
            "n": {"type": "NUMERIC", "sortable": True},
            "yes": {"type": "BOOLEAN"},
            "at": {"type": "TIMESTAMP"},
        },
    }
)
WORDS = ["jo", "john", "joan", "ann", "x"]
NUMBERS = st.one_of(st.integers(-5, 5), st.sampled_from([0.5, -0.0, 1.0, 1e20, 1e-7, 2**53 + 1, 2**53, "2.50"]))
MOMENTS = st.sampled_from(
    ["2026-01-01", "2026-01-01T00:00:00+00:00", "2026-01-01T02:00:00+01:00", "1999-12-31T23:59:59.5Z", 0, 1e9]
)
# What is there but cannot be converted is no value, and no reason to refuse the record.
JUNK: dict[str, list[Any]] = {
    "n": ["1e", "twelve", [], True, "9" * 700],
    "at": ["2026-02-30", "soon", {}, 1e300],
    "yes": ["maybe", 1],
    "tag": [[1], "x" * 2000],
}
VALUES: dict[str, Any] = {
    "tag": st.sampled_from(["a", "ab", "b c", "é", "", True, 1]),
    "words": st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join),
    "n": NUMBERS,
    "yes": st.booleans(),
    "at": MOMENTS,
}
OPTIONAL = {k: st.one_of(v, st.none(), st.sampled_from(JUNK.get(k, ["x"]))) for k, v in VALUES.items()}
RECORDS = st.lists(st.fixed_dictionaries({}, optional=OPTIONAL), min_size=1, max_size=8)


def key(field: str, value: Any) -> Any:
    """What a value is compared by; None: nothing."""
    if value is None or any(type(j) is type(value) and j == value for j in JUNK.get(field, [])):
        return None
    if field in ("tag", "words"):
        return value if isinstance(value, str) else json.dumps(value)
    if field == "n":
        return Fraction(str(value))
    if field == "yes":
        return value
    if isinstance(value, int | float):
        return float(value)
    found = datetime.fromisoformat(value.replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def fits(record: dict[str, Any], query: Any) -> bool:
    if isinstance(query, list):
        return all(fits(record, q) for q in query)
    if "and" in query:
        return all(fits(record, q) for q in query["and"])
    if "or" in query:
        return any(fits(record, q) for q in query["or"])
    if "not" in query:
        return not fits(record, query["not"])
    field, operator, value = query["field"], query["is"], query["value"]
    mine = key(field, record.get(field))
    if operator == "!=":
        return not fits(record, {**query, "is": "="})
    if operator == "in":
        return any(fits(record, {**query, "is": "=", "value": v}) for v in value)
    if mine is None:
        return False
    if operator == "match":
        return f" {value} " in f" {mine} "
    if operator == "prefix" and field == "words":
        return any(word.startswith(value) for word in mine.split())
    if operator == "prefix":
        return bool(mine.startswith(value))
    if operator in ("[]", "[)", "(]", "()"):
        low, high = (key(field, v) for v in value)
        above = low is None or mine > low or (operator[0] == "[" and mine == low)
        return above and (high is None or mine < high or (operator[1] == "]" and mine == high))
    other = key(field, value)
    return {"=": mine == other, "<": mine < other, "<=": mine <= other, ">": mine > other, ">=": mine >= other}[operator]


@st.composite
def leaves(draw: st.DrawFn) -> dict[str, Any]:
    field = draw(st.sampled_from(list(VALUES)))
    operators = ["=", "!=", "in"]
    if field != "yes":
        operators += ["<", "<=", ">", ">=", "[]", "[)", "(]", "()"]
    if field == "words":
        operators += ["match", "prefix"]
    if field == "tag":
        operators += ["prefix"]
    operator = draw(st.sampled_from(operators))
    value = VALUES[field]
    if operator == "in":
        value = st.lists(value, max_size=3)
    elif len(operator) == 2 and operator[0] in "[(":
        value = st.tuples(st.one_of(st.none(), value), st.one_of(st.none(), value)).map(list)
    elif operator == "prefix":
        value = st.sampled_from(["jo", "a", "an"])
    return {"field": field, "is": operator, "value": draw(value)}


QUERIES = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda q: {"and": q}), st.lists(inner, max_size=3).map(lambda q: {"or": q}),
        inner.map(lambda q: {"not": q}),
    ),
    max_leaves=5,
)  # fmt: skip


def put(conn: psycopg.Connection[Any], entity: int, records: list[dict[str, Any]]) -> None:
    conn.execute("delete from hotmesh_engine.record where entity_id = %s", (entity,))
    conn.cursor().executemany(
        "insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, id, data)"
        " values (%s, 1, now(), now(), %s, %s)",
        [(entity, f"r{i}", json.dumps(r)) for i, r in enumerate(records)],
    )


@pytest.mark.limit(120)
async def test_lists_find_what_a_plain_filter_finds(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        (entity,) = conn.execute("select entity_id from hotmesh_engine.entity where name = 'thing'").fetchone() or (0,)
        loop = asyncio.get_running_loop()

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(RECORDS, st.lists(QUERIES, min_size=1, max_size=6), st.sampled_from([None, "n", "-n", "words", "-at", "tag"]))
        def compare(records: list[dict[str, Any]], queries: list[Any], sort: str | None) -> None:
            put(conn, entity, records)

            async def ask() -> None:
                for query in queries:
                    wanted = [f"r{i}" for i, record in enumerate(records) if fits(record, query)]
                    if sort is not None:
                        field = sort.removeprefix("-")
                        keyed = [(key(field, records[int(r[1:])].get(field)), r) for r in wanted]
                        having = sorted(((k, r) for k, r in keyed if k is not None), reverse=sort.startswith("-"))
                        lacking = sorted((r for k, r in keyed if k is None), reverse=sort.startswith("-"))
                        wanted = [r for _, r in having] + lacking
                    whole = await data.find_where("thing", query, sort=sort)
                    assert [r.id for r in whole] == wanted, (query, records)
                    assert all(dict(r) == records[int(r.id[1:])] for r in whole)
                    assert await data.count("thing", query) == len(wanted)
                    paged: list[str] = []
                    after = None
                    while True:
                        page = await data.find_where("thing", query, sort=sort, size=2, after=after)
                        paged += [r.id for r in page]
                        after = page.next
                        if after is None:
                            break
                    assert paged == wanted
                    assert [r.id for r in await data.find_where("thing", query, sort=sort, start=1, size=2)] == wanted[1:3]

            asyncio.run_coroutine_threadsafe(ask(), loop).result(30)

        await asyncio.to_thread(compare)


async def test_figures_are_those_of_plain_python(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        for i in range(30):
            await data.set("thing", f"{i}", {"tag": "ab"[i % 2], "n": i})
        rows = await data.aggregate(
            "thing", [{"field": "n", "is": ">=", "value": 10}], by=["tag"],
            figures={"c": "count", "s": ("sum", "n"), "a": ("avg", "n"), "lo": ("min", "n"), "hi": ("max", "n"),
                     "d": ("distinct", "n"), "m": ("quantile", "n", 0.5)},
        )  # fmt: skip
        assert rows == [
            {"tag": "a", "c": 10, "s": 190, "a": 19, "lo": 10, "hi": 28, "d": 10, "m": 19},
            {"tag": "b", "c": 10, "s": 200, "a": 20, "lo": 11, "hi": 29, "d": 10, "m": 20},
        ]


@pytest.mark.limit(90)
async def test_typical_queries_use_their_index_and_twenty_callers_make_it_once(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        reports = await asyncio.gather(*[data.create_search_index("thing") for _ in range(20)])
        assert sum(len(r.created) for r in reports) == 6
        (entity,) = conn.execute("select entity_id from hotmesh_engine.entity where name = 'thing'").fetchone() or (0,)
        conn.execute(
            "insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, id, data)"
            " select %s, 1, now(), now(), 'r' || i, jsonb_build_object('tag', 't' || i %% 2000, 'n', i, 'words', 'w' || i,"
            " 'yes', i %% 10 > 0, 'at', timestamptz '2026-01-01' + i * interval '20 minutes')"
            " from generate_series(1, 20000) i",
            (entity,),
        )
        conn.execute("analyze hotmesh_engine.record")
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

        conn.execute(
            "update pg_index set indisvalid = false where indexrelid = %s::regclass", (f"hotmesh_engine.search_{entity}_n_num",)
        )
        assert (await data.create_search_index("thing")).repaired == (f"search_{entity}_n_num",)
        again = await MeshData(dsn, Schema("thing", fields={"n": {"type": "NUMERIC"}})).create_search_index("thing")
        assert not again.created and len(again.kept) == 1
        dropped = [statement.split()[1] for statement in again.would_drop]
        assert dropped == ["index"] * 5 + ["statistics"] * 5


async def test_moments_are_those_of_plain_python(conn: psycopg.Connection[Any]) -> None:
    zones = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=zones)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(moments, st.sampled_from(["T", " "]), st.sampled_from(["auto", "seconds", "minutes", "milliseconds"]), st.booleans())
    def compare(moment: datetime, between: str, precision: str, colon: bool) -> None:
        text = moment.isoformat(between, precision)
        wanted = datetime.fromisoformat(text).astimezone(UTC)
        written = text if colon else text[:-3] + text[-2:]
        query = "select hotmesh_engine.instant(to_jsonb(%s::text)) = %s, hotmesh_engine.instant(to_jsonb(%s::text)) is null"
        assert conn.execute(query, (written, wanted, f"{written}0")).fetchone() == (True, True), written

    compare()
    for text in ("2026-02-29", "2026-13-01", "2026-00-10", "0000-01-01", "2026-01-01T24:00", "2026-01-01T00:60", "2026-1-1",
                 "9999-12-31T23:59:59-01:00", "0001-01-01T00:00+01:00", "2026-01-01T00:00+16:00", "x" * 70):  # fmt: skip
        assert conn.execute("select hotmesh_engine.instant(to_jsonb(%s::text))", (text,)).fetchone() == (None,), text
