"""Whatever stands in a name, an operator, a query, a limit: it is refused, or it is data and means nothing."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, HotMeshError, InvalidDuration, InvalidQuery, MeshData, Schema, Text, Worker, workflow

SCHEMA = Schema.of(
    {
        "index": "thing",
        "fields": {
            "tag": {"type": "TAG"},
            "words": {"type": "TEXT", "nostem": True, "sortable": True},
            "n": {"type": "NUMERIC"},
        },
    }
)
EVIL = [
    "'; drop table hotmesh_engine.record; --", '" or 1=1 --', "x' or 'x'='x", "$1", "%s", "%(a)s", "\\'; select 1", "a\0b",
    "n) or (true", "n desc; delete from hotmesh_engine.record", "\ud800", "{}", "]]", "hotmesh_engine.record", "", "n\"",
    "pg_sleep(10)", "*/ select 1 /*", "::regclass", "x" * 5000,
]  # fmt: skip


ORDERS = ["1=1", "drop table hotmesh_engine.record", "delete from hotmesh_engine.record", "pg_sleep(9)", "$2", "%s", "\\x27"]
AROUND = [("' or ", " --"), ("'; ", "; --"), ('" or ', ""), ("n'||", "||'"), ("(select ", ")"), ("/*", "*/")]
MORE_EVIL = [f"{opening}{order}{closing}" for order in ORDERS for opening, closing in AROUND]
TEXTS = list(dict.fromkeys([*EVIL, *MORE_EVIL, *(f"{a} {b}" for a in EVIL[:7] for b in MORE_EVIL)]))
LEAF = {"field": "n", "is": "=", "value": 1}
# Entry → what a caller passes there. All of these have to be refused, whatever the text is.
REFUSED: dict[str, Callable[[MeshData, Any], Awaitable[Any]]] = {
    "field": lambda data, evil: data.find_where("thing", [{**LEAF, "field": evil}]),
    "operator": lambda data, evil: data.find_where("thing", [{**LEAF, "is": evil}]),
    "number": lambda data, evil: data.find_where("thing", [{**LEAF, "value": evil}]),
    "range": lambda data, evil: data.find_where("thing", [{**LEAF, "is": "[]", "value": [evil, evil]}]),
    "condition": lambda data, evil: data.find_where("thing", [{evil: [LEAF]}]),
    "sort": lambda data, evil: data.find_where("thing", sort=evil or "?"),
    "size": lambda data, evil: data.find_where("thing", size=evil),
    "start": lambda data, evil: data.find_where("thing", start=evil),
    "after": lambda data, evil: data.find_where("thing", after=evil or "?"),
    "after, made by hand": lambda data, evil: data.find_where("thing", sort="n", after=forged(evil)),
    "entity": lambda data, evil: data.find_where("no " + evil),
    "language: field": lambda data, evil: data.find("thing", f"@{evil}:{{x}} ("),
    "language: range": lambda data, evil: data.find("thing", f"@n:[{evil} 5] ]"),
    "aggregate: by": lambda data, evil: data.aggregate("thing", by=[evil]),
    "aggregate: name": lambda data, evil: data.aggregate("thing", figures={evil: ("sum", "n")}),
    "aggregate: function": lambda data, evil: data.aggregate("thing", figures={"s": (evil, "n")}),
    "aggregate: field": lambda data, evil: data.aggregate("thing", figures={"s": ("sum", evil)}),
    "aggregate: quantile": lambda data, evil: data.aggregate("thing", figures={"s": ("quantile", "n", evil)}),  # type: ignore[dict-item]
    "entity's name": lambda data, evil: data.create_search_index(f"e{evil}!"),
    "schema: field": lambda data, evil: index(data, {evil: Text()}),
    "schema: language": lambda data, evil: index(data, {"t": Text(language=evil)}),
    "as_of": lambda data, evil: data.get("thing", "one", as_of=evil),
    "search=": lambda data, evil: data.exec("thing", [], id="x", search={evil: 1}),
    "ttl": lambda data, evil: data.set("thing", "one", {"n": 1}, ttl=evil),
    "number to add": lambda data, evil: data.incr("thing", "one", "n", evil),
}  # fmt: skip
# Here it is data like any other: it may be held, or refused for what it holds, and means nothing.
HARMLESS: dict[str, Callable[[MeshData, Any], Awaitable[Any]]] = {
    "tag": lambda data, evil: data.find_where("thing", [{"field": "tag", "is": "=", "value": evil}]),
    "words": lambda data, evil: data.find_where("thing", [{"field": "words", "is": "match", "value": evil}]),
    "beginning": lambda data, evil: data.find_where("thing", [{"field": "words", "is": "prefix", "value": evil}]),
    "language: tag": lambda data, evil: data.find("thing", f'@tag:{{"{evil}"}}'),
    "language: words": lambda data, evil: data.find("thing", f"@words:{evil}"),
    "language: anything": lambda data, evil: data.find("thing", evil),
    "chosen fields": lambda data, evil: data.find_where("thing", [{"field": "tag", "is": "=", "value": "none"}], fields=[evil]),
    "get: field": lambda data, evil: data.get("thing", "none", [evil]),
    "get: id": lambda data, evil: data.get("thing", evil),
    "flush": lambda data, evil: data.flush("thing", evil),
    "sql: parameter": lambda data, evil: data.sql("select * from hotmesh_data.thing where tag = %s", (evil,)),
    "hotmesh.find: query": lambda data, evil: data.sql("select * from hotmesh.find('thing', %s::text::json)", (evil,)),
    "hotmesh.find: field": lambda data, evil: data.sql(
        "select * from hotmesh.find('thing', json_build_array(json_build_object('field', %s::text, 'is', '=', 'value', 1)))",
        (evil,),
    ),
    "hotmesh.find: sort": lambda data, evil: data.sql("select * from hotmesh.find('thing', '[]', %s)", (evil,)),
    "hotmesh.find: entity": lambda data, evil: data.sql("select * from hotmesh.find(%s)", (evil,)),
    "hotmesh.record": lambda data, evil: data.sql("select hotmesh.record(%s, %s, %s, array[%s])", (evil,) * 4),
}  # fmt: skip


WRITES = (
    "delete from hotmesh_engine.record",
    "create table t (a int)",
    "select 1; drop schema hotmesh cascade",
    "set default_transaction_read_only = off; delete from hotmesh_engine.record",
    "select hotmesh.prune()",
    "with d as (delete from hotmesh_engine.record returning 1) select 1",
)


def index(data: MeshData, fields: dict[str, Any]) -> Awaitable[Any]:
    return MeshData(data.client, Schema("thing", fields=fields)).create_search_index()


def forged(key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"id": "a", "sort": "n", "key": [key]}).encode()).decode()


@pytest.mark.limit(240)
async def test_two_hundred_attempts_at_each_entry_fail_or_mean_nothing(dsn: str, conn: psycopg.Connection[Any]) -> None:
    texts = TEXTS[:200]
    assert len(texts) == 200
    state = (
        "select (select jsonb_agg(to_jsonb(r)) from hotmesh_engine.record r)::text, (select count(*) from pg_class),"
        " (select count(*) from pg_namespace), (select jsonb_agg(to_jsonb(f)) from hotmesh_engine.entity_field f)::text,"
        " (select count(*) from hotmesh_engine.run)"
    )
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        await data.set("thing", "one", {"n": 1, "tag": "a"})
        before = conn.execute(state).fetchone()
        for entry, attempt in REFUSED.items():
            for evil in texts:
                try:
                    found = await attempt(data, evil)
                except (HotMeshError, InvalidDuration):
                    continue
                pytest.fail(f"{entry}: {evil!r} was taken, and gave {found!r}")
        for entry, attempt in HARMLESS.items():
            for evil in texts:
                with contextlib.suppress(HotMeshError):
                    assert not any(row for row in await attempt(data, evil) or [] if row != {"record": None}), (entry, evil)
        for statement in WRITES:
            with pytest.raises(InvalidQuery):
                await data.sql(statement)
        assert conn.execute(state).fetchone() == before


@workflow.defn
async def keeps(texts: list[str]) -> list[Any]:
    """Every text as a field's name, a step of a path, a value; what comes back for each."""
    search, entity = workflow.search(), workflow.entity()
    seen: list[Any] = []
    for text in texts:
        try:
            await search.set({text: text})
            seen.append([await search.get(text), await search.incr(text + "n"), await search.delete(text, text + "n")])
        except HotMeshError:
            seen.append("refused")
        try:
            seen.append(await entity.get(text))
        except HotMeshError:
            seen.append("refused")
    return seen


@pytest.mark.limit(120)
async def test_in_workflow_code_such_texts_are_names_like_any_other(dsn: str, conn: psycopg.Connection[Any]) -> None:
    texts = [text for text in TEXTS if not set(text) & {"\ud800", "\0"}][:200]
    assert len(texts) == 200
    async with Client(dsn) as client, Worker(client, workflows=[keeps]):
        seen = await client.workflow.execute(keeps, args=[texts], timeout=100)
    for text, kept, path in zip(texts, seen[::2], seen[1::2], strict=True):
        assert kept == ("refused" if not 1 <= len(text.encode()) <= 999 else [text, 1, 2]), text
        assert path is None or path == "refused"
    assert conn.execute("select data from hotmesh.records").fetchall() == [({},)]
