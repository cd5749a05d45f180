"""Queries in the FT.SEARCH language find what a plain filter finds, and one that cannot be read says where."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyhotmesh import InvalidQuery, MeshData, Numeric, Schema, Tag, Text
from pyhotmesh.search import parse
from tests.data.plain import MOMENTS, NUMBERS, RECORDS, SCHEMA, WORDS, fits, leaf, put

Tree = dict[str, Any]
Written = tuple[str, Tree, str]  # a query, the same as a tree, and by what it is joined
TAGS = ["a", "ab", "b c", "é", "true", "1", "-a", "2026-01-01", "x|y", 'say "}"', "back\\slash", "*"]


@st.composite
def written(draw: st.DrawFn, text: str, end: str = "") -> str:
    """A text in quotes, or with backslashes before all that means something; ``end`` means something."""
    if draw(st.booleans()):
        return '"' + re.sub(r'([\\"*])', r"\\\1", text) + end + '"'
    return "".join(sign if sign.isalnum() else f"\\{sign}" for sign in text) + end


@st.composite
def tags(draw: st.DrawFn) -> tuple[str, Tree]:
    if draw(st.booleans()):
        start = draw(st.sampled_from(["a", "b ", "tr", "back\\"]))
        return f"@tag:{{{draw(written(start, '*'))}}}", leaf("tag", "prefix", start)
    found = draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=3))
    return f"@tag:{{{draw(st.sampled_from(['|', ' | '])).join(draw(written(tag)) for tag in found)}}}", leaf("tag", "in", found)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, Tree]:
    field = draw(st.sampled_from(["n", "at"]))
    low, high = (draw(st.one_of(st.none(), NUMBERS if field == "n" else MOMENTS)) for _ in range(2))
    opens, closes = draw(st.booleans()), draw(st.booleans())
    left = ("(" if opens else "") + ("-inf" if low is None else str(low))
    right = ("(" if closes else "") + (draw(st.sampled_from(["inf", "+inf"])) if high is None else str(high))
    operator = ("(" if opens else "[") + (")" if closes else "]")
    return f"@{field}:[{left}{draw(st.sampled_from([' ', ',', ' , ']))}{right}]", leaf(field, operator, [low, high])


@st.composite
def words(draw: st.DrawFn) -> tuple[str, Tree]:
    def one() -> tuple[str, Tree]:
        many = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2))
        begins = draw(st.booleans())
        text = " ".join(many) + "*" * begins
        return f'"{text}"' if len(many) > 1 else text, leaf("words", "prefix" if begins else "match", " ".join(many))

    if draw(st.booleans()):  # in every text field, of which there is one
        text, tree = one()
        return draw(st.sampled_from(["", "@words:"])) + text, tree
    found = [[one() for _ in range(draw(st.integers(1, 2)))] for _ in range(draw(st.integers(1, 2)))]
    text = " | ".join(" ".join(text for text, _ in both) for both in found)
    return f"@words:({text})", {"or": [{"and": [tree for _, tree in both]} for both in found]}


@st.composite
def joined(draw: st.DrawFn, inner: st.SearchStrategy[Written]) -> Written:
    """Parts joined as the language binds them, in parentheses where it would bind them otherwise (or for nothing)."""

    def part(one: Written, *looser: str) -> str:
        return f"({one[0]})" if one[2] in looser or draw(st.integers(0, 5)) == 0 else one[0]

    kind = draw(st.sampled_from(["and", "or", "not"]))
    if kind == "not":
        one = draw(inner)
        return draw(st.sampled_from(["-", "- "])) + part(one, "and", "or"), {"not": one[1]}, ""
    many = draw(st.lists(inner, min_size=2, max_size=3))
    between = " " if kind == "and" else draw(st.sampled_from(["|", " | "]))
    return between.join(part(one, *(["or"] if kind == "and" else [])) for one in many), {kind: [one[1] for one in many]}, kind


YES = st.sampled_from([(f"@yes:{{{word}}}", leaf("yes", "=", word == "true")) for word in ("true", "false")])
LEAVES = st.one_of(tags(), ranges(), words(), YES).map(lambda one: (*one, ""))
TEXTS = st.recursive(LEAVES, lambda inner: joined(inner), max_leaves=6)


@pytest.mark.limit(120)
async def test_texts_find_what_a_plain_filter_finds(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        (entity,) = conn.execute("select entity_id from hotmesh_engine.entity where name = 'thing'").fetchone() or (0,)
        loop = asyncio.get_running_loop()
        records = st.tuples(RECORDS, st.lists(st.sampled_from(TAGS), max_size=4)).map(
            lambda both: [*both[0], *({"tag": tag, "words": "x"} for tag in both[1])]
        )

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(records, st.lists(TEXTS, min_size=1, max_size=6))
        def compare(records: list[dict[str, Any]], texts: list[Written]) -> None:
            put(conn, entity, records)

            async def ask() -> None:
                for text, tree, _ in texts:
                    wanted = [f"r{i}" for i, record in enumerate(records) if fits(record, tree)]
                    assert [r.id for r in await data.find("thing", text)] == sorted(wanted), (text, tree, records)
                    assert await data.count("thing", text) == len(wanted)

            asyncio.run_coroutine_threadsafe(ask(), loop).result(30)

        await asyncio.to_thread(compare)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the query is empty"),
        ("@n:[1 2", "the query ends where something is missing: '@n:[1 2'"),
        ("@a:{x} @n:[1 2 3]", "the query cannot be read at character 16: '@a:{x} @n:[1 2 3]'"),
        ("@a:{x} @b:~y", "the query cannot be read at character 11"),
        ("@a:{o'neil}", "the query cannot be read at character 6"),
        ("@a:{a*b}", "a * goes last, after the beginning of a word"),
        ("@b:ja*es", r"""character 6: '@b:ja*es' (a * goes last, after the beginning of a word; \* is the sign itself)"""),
        ("james*bond", "a * goes last, after the beginning of a word"),
        ("jo\\", "the query cannot be read at character 3"),
        ("@a:{x}\\", "the query cannot be read at character 7"),
        ("ja**", "a * goes last, after the beginning of a word"),
        ("@a:{x* y}", "in a tag, * may stand at the end only"),
        ("(" * 2500, "the query ends where something is missing"),
        ("(" * 2400 + "a" + ")" * 2400, None),
        ("-" * 4000 + "a", "the query is nested too deeply"),
        ("x" * 5001, "the query has 5001 characters, at most 5000"),
    ],
)
def test_a_text_that_cannot_be_read_says_where(text: str, message: str | None) -> None:
    schema = Schema("thing", fields={"a": Tag(), "n": Numeric(), "b": Text()})
    if message is None:
        assert parse(text, schema) == leaf("b", "match", "a")
        return
    with pytest.raises(InvalidQuery, match=re.escape(message)):
        parse(text, schema)


def test_numbers_are_read_as_people_write_them() -> None:
    schema = Schema("thing", fields={"n": Numeric(), "t": Tag()})
    for text, low, high in (
        ("[.1 1]", 0.1, 1), ("[1. 2]", 1.0, 2), ("[-.5 +.5]", -0.5, 0.5), ("[1.5e3 1E+23]", 1500.0, 1e23),
        ("[.12345678901234567891 1]", "0.12345678901234567891", 1), ("[007 99999999999999999999]", 7, "99999999999999999999"),
        ("[-inf inf]", None, None), ("[-inf (+inf]", None, None), (f"[1 {'4' * 4400}]", 1, "4" * 4400),
    ):  # fmt: skip
        assert parse(f"@n:{text}", schema)["value"] == [low, high], text
    assert parse('@t:["-inf" "inf"]', schema)["value"] == ["-inf", "inf"], "in quotes these are texts"


def test_words_without_a_field_are_looked_for_in_every_text_field() -> None:
    two = Schema("thing", fields={"a": Text(), "n": Numeric(), "b": Text()})
    anywhere = {"or": [leaf("a", "match", "jo"), leaf("b", "match", "jo")]}
    assert parse("jo", two) == parse("(jo)", two) == anywhere
    assert parse("jo ann", two)["and"][0] == parse("(jo ann)", two)["and"][0] == anywhere
    with pytest.raises(InvalidQuery, match="words without a field need a Text field"):
        parse("jo", Schema("thing", fields={"a": Tag()}))
