"""What a person reads who got a search wrong: what it is, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pyhotmesh import HotMeshError, InvalidQuery, MeshData, Numeric, PayloadError, Schema, Tag, Text, Timestamp
from pyhotmesh.documents import Entity, Search
from tests.data.plain import leaf

FIELDS = {"active": Tag(), "first": Text(), "created": Numeric(sortable=True), "at": Timestamp()}


async def never() -> None:
    """Serves as a workflow."""


CALLS: list[tuple[Callable[[MeshData], Awaitable[Any]], str]] = [
    (
        lambda d: d.find_where("user", [leaf("activ", "=", 1)]),
        "no field 'activ' to search (Declared: active, first, created, at.",
    ),
    (lambda d: d.find_where("user", [leaf("active", "==", 1)]), "active is TAG, which has no operator '==' (Known: = != in;"),
    (
        lambda d: d.find_where("user", [leaf("created", ">", "soon")]),
        'NUMERIC, which cannot be "soon" (A number, or a text such as',
    ),
    (lambda d: d.find_where("user", [leaf("at", ">", "soon")]), 'TIMESTAMP, which cannot be "soon" (ISO 8601'),
    (lambda d: d.find_where("user", [leaf("active", "=", ["a", "b"])]), "(A list goes with `in`, or with a range"),
    (lambda d: d.find_where("user", [leaf("created", ">", None)]), "field created: > needs a value"),
    (lambda d: d.find_where("user", [{"field": "active", "value": 1}]), '({"field", "is", "value"}, {"and": [...]}'),
    (lambda d: d.find_where("user", "@active:{yes}"), "(find takes the FT.SEARCH language)"),
    (lambda d: d.find_where("user", fields="first"), "fields: must be a list of names, not 'first'"),
    (lambda d: d.find_where("user", sort="first"), "not sortable (Declare it with sortable=True.)"),
    (lambda d: d.find_where("usr"), "no entity 'usr' in namespace 'default' (There are: plain, user."),
    (lambda d: d.find_where("plain", [leaf("a", "=", 1)]), "no field 'a' to search (Declared: none. See create_search_index.)"),
    (lambda d: d.find("user", [leaf("active", "=", 1)]), "(find_where takes lists of conditions)"),
    (lambda d: d.find("user", "@active:yes"), "'active' is TAG (@active:{value})"),
    (lambda d: d.find("user", "@created:yes"), "'created' is NUMERIC (@created:[from to])"),
    (lambda d: d.get("user", "jim", fields="first"), "fields: must be a list of names, not 'first'"),
    (lambda d: d.delete("user", "jim", "first"), "fields: must be a list of names, not 'first'"),
    (
        lambda d: d.aggregate("user", figures={"s": ("sum", "active")}),
        "no 'sum' of active, which is TAG (count and distinct of any",
    ),
    (lambda d: d.find("user", f"@created:[{'4' * 4400} +inf]"), "NUMERIC, which cannot be"),
    (lambda d: d.find("user", "@created:[+inf 1]"), "inf has no JSON form"),
    (lambda d: d.find_where("user", [leaf("created", ">", float("inf"))]), "inf has no JSON form"),
    (lambda d: d.find_where("user", [leaf("active", "=", float("inf"))]), "inf has no JSON form"),
    (
        lambda d: d.find_where("user", [{"field": "active", "is": "="}]),
        "the value None: has none)",
    ),
    (lambda d: d.find_where("user", {"all": False}), "not a condition: {'all': False}"),
    (lambda d: d.sql("""select hotmesh.find('user', '[{"field": "active", "is": "="}]')"""), "not a condition"),
    (lambda d: d.sql("""select hotmesh.find('user', '{"all": false}')"""), "not a condition"),
    (lambda d: d.sql("""select hotmesh.find('user', '{"all": []}')"""), "not a condition"),
    (lambda d: d.find_where("user", [leaf("active", "=", Decimal("1.5"))]), "a value of type Decimal (use text)"),
    (lambda d: d.find_where("user", [leaf("active", "=", 2**70)]), "an integer of more than 64 bits (pass it as text)"),
    (lambda d: d.sql("select 1", "ab"), "params must be a list of values or a mapping of them by name, not 'ab'"),
    (lambda d: d.set("user", "jim", [1]), "fields: must be {name: value, ...}, not [1]"),
    (lambda d: d.hook("user", "jim", 5), "hook: must be a function with a name, or its name, not 5"),
    (lambda d: d.hook("user", "jim", partial(never)), "hook: must be a function with a name, or its name, not functools.partial"),
    (lambda d: d.connect("user", never, hooks=[partial(never)]), "hook: must be a function with a name"),
    (lambda d: d.connect("user", never, hooks=never), "hooks: must be a list of functions, not <function never"),
    (lambda d: d.connect("user", never, hooks=[never, never]), "hooks: two are called 'never'"),
    (lambda d: d.aggregate("user", figures={"c": 5}), "figure 'c' must be a function, or (function, field), not 5"),
    (lambda d: d.aggregate("user", figures=["c"]), "figures must be {name: \"count\" or (function, field)}, not ['c']"),
    (lambda d: d.aggregate("user", figures={"s": ("sum",)}), "figure 's': sum needs a field"),
    (lambda d: d.aggregate("user", figures={"s": "avg"}), "figure 's': avg needs a field"),
    (lambda d: d.sql("select %s", {"a": 1}), "positional placeholders (%s) require a sequence of parameters"),
    (lambda d: d.sql("select %(a)s", [1]), "named placeholders require a mapping of parameters"),
    (lambda d: d.sql("select * from hotmesh_data.usr"), "(create_search_index makes the view of an entity)"),
    (lambda d: d.sql("select 1 where 'a' like 'a%'"), "%% for a percent sign)"),
    (lambda d: d.sql("selec 1"), 'the query was refused: syntax error at or near "selec"'),
    (lambda d: MeshData(d.client).create_search_index("user"), "no schema to make indexes of (MeshData(connection, schema))"),
]


async def test_messages_say_what_to_write_instead(dsn: str) -> None:
    async with MeshData(dsn, Schema("user", fields=FIELDS)) as data:
        await data.create_search_index("user")
        await data.set("user", "jim", {"active": "yes"})
        await data.set("plain", "jim", {"a": 1})
        for number, (call, message) in enumerate(CALLS):
            with pytest.raises(HotMeshError, match=re.escape(message)):
                pytest.fail(f"number {number} of CALLS gave {await call(data)!r}")


def test_a_document_that_is_none_is_refused_in_workflow_code_too() -> None:
    instance: Any = SimpleNamespace(change_record=None)  # refused before it is asked
    for call in (lambda: Entity(instance).merge([1]), lambda: Search(instance).set([1])):  # type: ignore[arg-type]
        with pytest.raises(PayloadError, match=re.escape("must be {name: value, ...}, not [1]")):
            call()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"index": "u", "fields": {"a": {"type": "TAGG"}}}, "field 'a' is of no known type"),
        ({"index": "u", "fields": {"a": Tag}}, "(Tag(), Text(), Numeric(), Boolean(), Timestamp(),"),
        ({"index": "u", "fields": {"a": {"type": "TAG", "nostem": True}}}, "Tag has no such options: nostem"),
        ({"index": "u", "fields": ["a"]}, "fields must be {name: Tag(), ...}"),
        ({"index": "u", "prefix": "u"}, "prefix must be a list of names"),
        ({"index": "u", "fields": {5: Tag()}}, "the name of a field must be text, not 5"),
        ({"index": "u", "prefix": 5}, "prefix must be a list of names"),
        ({"index": "u", "prefix": None}, "prefix must be a list of names"),
        ({"index": "u", "together": 5}, "together must be a list of tuples of fields, not 5"),
        ({"index": "u", "fields": {}, "schema": {"a": Tag()}}, "a schema has fields, or `schema` for them, and this has both"),
        ({"index": 5}, "index must be a name, not 5"),
        (5, "a schema is a Schema, or a dict with an index and fields, not 5"),
        (
            {"index": "u", "fields": {"a": {"type": "TAG", "sortable": "maybe"}}},
            "Tag: sortable must be True or False, not 'maybe'",
        ),
        ({"index": "u", "fields": {"a": {"type": "TEXT", "nostem": 1}}}, "Text: nostem must be True or False, not 1"),
        ({"index": "u", "fields": {"a": {"type": "TEXT", "language": None}}}, "Text: language must be a name, not None"),
        ({"fields": {}}, "a schema has an index, and may have prefix, fields and together; this has fields"),
    ],
)
def test_a_schema_that_is_none_is_refused_when_it_is_made(schema: Any, message: str) -> None:
    with pytest.raises(InvalidQuery, match=re.escape(message)):
        Schema.of(schema)
