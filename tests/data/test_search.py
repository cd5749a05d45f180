"""Searches find what a plain filter finds, sort and page as it does, and their figures are its figures."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyhotmesh import InvalidQuery, MeshData, Numeric, Schema, Tag, Text
from tests.data.plain import RECORDS, SCHEMA, VALUES, figures, fits, key, leaf, put


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


@pytest.mark.limit(120)
async def test_figures_are_those_of_plain_python(dsn: str, conn: psycopg.Connection[Any]) -> None:
    aims: list[Any] = ["count", *[(of, f) for f in VALUES for of in ("count", "distinct")]]
    aims += [(of, f) for f in VALUES if f != "yes" for of in ("min", "max")]
    aims += [("sum", "n"), ("avg", "n"), *[("quantile", "n", at) for at in (0, 0.25, 0.5, 1)]]
    wanted = {f"f{i}": aim for i, aim in enumerate(aims)}
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        (entity,) = conn.execute("select entity_id from hotmesh_engine.entity where name = 'thing'").fetchone() or (0,)
        loop = asyncio.get_running_loop()

        @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(RECORDS, leaves(), st.lists(st.sampled_from(list(VALUES)), unique=True, max_size=2))
        def compare(records: list[dict[str, Any]], query: Any, by: list[str]) -> None:
            put(conn, entity, records)
            plain = figures([record for record in records if fits(record, query)], by, wanted)
            found = asyncio.run_coroutine_threadsafe(data.aggregate("thing", query, by=by, figures=wanted), loop).result(30)
            assert len(found) == len(plain) and not found.more
            for row, other in zip(found, plain, strict=True):
                for name, value in other.items():
                    if isinstance(value, Fraction):
                        assert row[name] == pytest.approx(float(value), rel=1e-12, abs=1e-300), (name, wanted.get(name), records)
                    else:
                        assert row[name] == value and type(row[name]) is type(value), (name, wanted.get(name), records)

        await asyncio.to_thread(compare)


async def test_groups_are_what_a_comparison_finds_and_those_left_out_are_said(dsn: str) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        long = "word " * 60
        for i, (tag, words, n, yes, at) in enumerate(
            [
                (True, long + "a", 1, True, "2026-01-01"),
                ("true", long + "b", "1.0", "true", "2026-01-01T01:00:00+01:00"),
                (None, None, "abc", 1, 1767225600),
            ]
        ):
            await data.set("thing", f"{i}", {"tag": tag, "words": words, "n": n, "yes": yes, "at": at})
        await data.set("thing", "3", {"n": [], "tag": "x" * 1001})
        assert await data.count("thing", [leaf("n", "=", None)]) == 0, "what is no number is there"
        assert [r.id for r in await data.find_where("thing", [leaf("tag", "=", None)])] == ["2"]
        counts: dict[str, Any] = {"c": "count", "d": ("distinct", "n"), "v": ("count", "n")}
        assert await data.aggregate("thing", by=["tag"], figures=counts) == [
            {"tag": "true", "c": 2, "d": 1, "v": 2}, {"tag": None, "c": 2, "d": 0, "v": 0},
        ]  # fmt: skip
        assert await data.aggregate("thing", by=["words"]) == [
            {"words": long + "a", "count": 1}, {"words": long + "b", "count": 1}, {"words": None, "count": 2},
        ]  # fmt: skip
        assert await data.aggregate("thing", by=["n"]) == [{"n": 1, "count": 2}, {"n": None, "count": 2}]
        assert await data.aggregate("thing", by=["yes"]) == [{"yes": True, "count": 2}, {"yes": None, "count": 2}]
        moments = await data.aggregate("thing", by=["at"], figures={"c": "count", "last": ("max", "at")})
        start = "2026-01-01T00:00:00+00:00"
        assert moments == [{"at": start, "c": 3, "last": start}, {"at": None, "c": 1, "last": None}] and not moments.more
        first = await data.aggregate("thing", by=["words"], size=2)
        assert [row["words"][-1] for row in first] == ["a", "b"] and first.more
        assert not (await data.aggregate("thing", by=["words"], size=3)).more
        assert (await data.aggregate("thing", by=["words"], size=0)).more


async def test_fields_and_figures_may_be_called_what_the_engine_calls_its_own(dsn: str) -> None:
    own = [
        "x",
        "data",
        "id",
        "entity_id",
        "expires_at",
        "follows",
        "run_id",
        "closed_at",
        "o",
        "f",
        "r",
        "select",
        "count",
        "key",
    ]
    async with MeshData(dsn, Schema("thing", fields={name: Numeric() for name in own})) as data:
        await data.create_search_index("thing")
        for i in range(3):
            await data.set("thing", f"{i}", dict.fromkeys(own, i))
        for name in own:
            found = await data.find_where("thing", [leaf(name, ">", 0)], sort=f"-{name}", fields=[name], size=1)
            found += await data.find_where("thing", [leaf(name, ">", 0)], sort=f"-{name}", fields=[name], after=found.next)
            assert [(r.id, r[name]) for r in found] == [("2", 2), ("1", 1)], name
            assert await data.aggregate("thing", by=[name], figures={"n": "count"}, size=1) == [{name: 0, "n": 1}], name
            assert await data.aggregate("thing", figures={name: ("sum", name)}) == [{name: 3}], name
            (row,) = await data.sql(
                f'select record_id, record_expires_at, "{name}" as value from hotmesh_data.thing where "{name}" = 2'
            )
            assert row == {"record_id": "2", "record_expires_at": None, "value": 2}, name


async def test_a_figure_that_no_number_can_hold_is_named(dsn: str) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        tiny = "0." + "0" * 330 + "1"
        for i, n in enumerate([tiny, "-" + tiny, "0.5"]):
            await data.set("thing", f"tiny{i}", {"n": n, "tag": "tiny"})
        for i in range(3):
            await data.set("thing", f"huge{i}", {"n": 1e308, "tag": "huge"})
        await data.set("thing", "least", {"n": -1e308, "tag": "both"})
        every: dict[str, Any] = {"s": ("sum", "n"), "a": ("avg", "n"), "q": ("quantile", "n", 0.5), "lo": ("min", "n")}
        (row,) = await data.aggregate("thing", "@tag:{tiny}", figures=every)
        assert row["s"] == 0.5 and row["q"] == row["lo"] == 0 and row["a"] == pytest.approx(0.5 / 3)
        assert (await data.aggregate("thing", figures={"a": ("avg", "n")}))[0]["a"] == pytest.approx(1e308 / 7 * 2)
        with pytest.raises(InvalidQuery, match=r"figure s, the sum of n, .*1\.797e308.*\(.*avg"):
            await data.aggregate("thing", "@tag:{huge}", figures=every)
        await data.set("thing", "both", {"n": 1e308, "tag": "both"})
        assert await data.aggregate("thing", "@tag:{both}", figures={"q": every["q"]}) == [{"q": 0}]


async def test_pages_go_on_exactly_where_they_ended(dsn: str, conn: psycopg.Connection[Any]) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        numbers = [f"0.1234567890123456789{digit}" for digit in range(5)]  # more digits than a float has
        for i, number in enumerate(numbers):
            await data.set("thing", f"r{i}", {"tag": "a"})
            change = "update hotmesh_engine.record set data = data || jsonb_build_object('n', %s::numeric) where id = %s"
            conn.execute(change, (number, f"r{i}"))
        for i, junk in enumerate(["soon", [], None]):
            await data.set("thing", f"without{i}", {"tag": "a", "n": junk})
        for sort, wanted in (("n", [0, 1, 2, 3, 4]), ("-n", [4, 3, 2, 1, 0])):
            lacking = [f"without{i}" for i in ([0, 1, 2] if sort == "n" else [2, 1, 0])]
            for size in (1, 2, 3, 5):
                found: list[str] = []
                after = None
                while len(found) <= 8:
                    page = await data.find_where(
                        "thing", [leaf("tag", "=", "a")], sort=sort, size=size, after=after, fields=["tag"]
                    )
                    assert all(dict(record) == {"tag": "a"} for record in page)
                    found += [record.id for record in page]
                    after = page.next
                    if after is None:
                        break
                assert found == [f"r{i}" for i in wanted] + lacking


async def test_words_are_found_by_their_stems_in_their_language_or_as_they_are(dsn: str, conn: psycopg.Connection[Any]) -> None:
    schema = Schema("text", fields={"en": Text(), "de": Text(language="german"), "plain": Text(nostem=True)})
    async with MeshData(dsn, schema) as data:
        await data.create_search_index("text")
        english, german = "The runners were running home", "Die Häuser der Straßen"
        await data.set("text", "one", {"en": english, "de": german, "plain": english})
        for query, found in (
            ("@en:run", True), ("@en:runs", True), ("@plain:run", False), ("@plain:running", True), ("@plain:RUNNING", True),
            ("@de:haus", True), ("@en:haus", False), ('@en:"running homes"', True), ('@plain:"home running"', False),
            ("@plain:runn*", True), ("run", True), ("-@plain:run", True),
        ):  # fmt: skip
            assert await data.count("text", query) == found, query
        made = conn.execute("select indexdef from pg_indexes where indexname like 'search%' order by 1").fetchall()
        assert [sorted(c for c in ("english", "german", "simple") if c in d) for (d,) in made] == [
            ["german"], ["english"], ["simple"],
        ]  # fmt: skip


async def test_words_that_a_language_leaves_out_say_nothing_beside_others(dsn: str) -> None:
    async with MeshData(dsn, Schema("text", fields={"en": Text(), "plain": Text(nostem=True), "tag": Tag()})) as data:
        await data.create_search_index("text")
        await data.set("text", "one", {"en": "The state of the art", "tag": "a"})
        await data.set("text", "two", {"plain": "rock roll", "tag": "a"})
        for query, found in (
            ("@en:(the art)", "one"), ("@en:the @en:art", "one"), ("@en:the @tag:{a}", "one two"),
            ("@en:(of the) @en:art", "one"), ("@en:(the | art)", "one"), ("-@en:(the art)", "two"),
            ("@plain:(rock & roll)", "two"), ("@plain:(rock of roll)", ""),
            ("@en:the", ""), ("@en:(of the)", ""), ("@en:(of | the)", ""), ("-@en:the", "one two"), ("@en:(the roll)", ""),
        ):  # fmt: skip
            assert [r.id for r in await data.find("text", query)] == found.split(), query
            assert await data.count("text", query) == len(found.split()), query
        assert await data.find_where("text", [leaf("en", "match", "the"), leaf("tag", "=", "b")]) == []


async def test_a_begun_word_is_no_stop_word_and_has_no_ending(dsn: str, conn: psycopg.Connection[Any]) -> None:
    schema = Schema("text", fields={"en": Text(), "de": Text(language="german"), "plain": Text(nostem=True)})
    async with MeshData(dsn, schema) as data:
        await data.create_search_index("text")
        english, name = "She likes running in Berlin, for a theory of O'Neil\\s", "Dr. Anne-Marie Müller-Lüdenscheidt"
        await data.set("text", "one", {"en": english, "plain": f"{english} {name}", "de": f"Die Häuser von {name}"})
        for words, en, plain, de in (
            ("be", 1, 1, 0), ("BERL", 1, 1, 0), ("th", 1, 1, 0), ("the", 1, 1, 0), ("run", 1, 1, 0), ("running", 1, 1, 0),
            ("runs", 1, 0, 0), ("runn", 0, 1, 0), ("running in be", 1, 1, 0), ("running be", 0, 0, 0),
            ("likes running in", 0, 1, 0), ("in be", 1, 1, 0), ("likes be", 0, 0, 0), ("berlin, for a theo", 1, 1, 0),
            ("o'ne", 1, 1, 0), ("'", 0, 0, 0),
            ("anne-m", 0, 1, 1), ("anne-marie", 0, 1, 1), ("dr anne-m", 0, 1, 1), ("anne-marie mü", 0, 1, 1), ("mar", 0, 1, 1),
            ("MÜLLER-LÜD", 0, 1, 1), ("häus", 0, 0, 1), ("häuser", 0, 0, 1), ("haus", 0, 0, 1), ("be:* | x", 0, 0, 0),
            ("be' | 'x", 0, 0, 0),
        ):  # fmt: skip
            found = [await data.count("text", [leaf(field, "prefix", words)]) for field in ("en", "plain", "de")]
            assert found == [en, plain, de], words
        for at in ("example.com/pa", "http://example.com/pa", "jim@example.co", "2.5", "a/b/c", "it's 5 o'cl", "\\x", "<b>bo"):
            await data.set("text", "two", {"plain": f"see {at}xyz now"})
            assert await data.count("text", [leaf("plain", "prefix", f"see {at}")]) == 1, at
        many = "insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, id, data)"
        many += " select entity_id, 1, now(), now(), i::text, jsonb_build_object('en', 'number ' || i)"
        conn.execute(f"{many} from hotmesh_engine.entity, generate_series(1, 3000) i".encode())
        conn.execute("analyze")
        assert "Bitmap Index Scan" in str(await data.explain("text", '@en:"in be*"'))


async def test_only_nothing_and_infinities_of_numbers_and_moments_leave_a_side_open(dsn: str) -> None:
    endless = float("inf")
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        for i, tag in enumerate(["+inf", "-inf", "a", "inf", "z"]):
            await data.set("thing", f"{i}", {"tag": tag, "words": tag, "n": i, "at": i})
        await data.set("thing", "without", {})
        for field in ("tag", "words", "n", "at"):
            for condition in (
                leaf(field, "[]", [None, None]), leaf(field, "()", [-endless, endless]), leaf(field, "<", endless),
                leaf(field, ">=", -endless), leaf(field, "[]", {"start": -endless, "end": None}),
            ):  # fmt: skip
                assert await data.count("thing", condition) == 5, condition
        for field in ("tag", "words"):
            for operator, value, found in (
                ("<", "inf", "012"), ("<", "+inf", ""), (">", "-inf", "234"), ("[]", ["-inf", "inf"], "123"),
                ("(]", ["-inf", None], "234"),
            ):  # fmt: skip
                assert "".join(r.id for r in await data.find_where("thing", leaf(field, operator, value))) == found
        assert [r.id for r in await data.find("thing", '@tag:[("-inf" "inf"]')] == ["2", "3"]
        for field in ("n", "at"):
            assert await data.count("thing", leaf(field, "[]", ["-inf", "+inf"])) == 5
            assert await data.count("thing", [leaf(field, ">", "-inf"), leaf(field, "<", "+inf")]) == 5


async def test_the_mark_of_a_page_belongs_to_its_order(dsn: str) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        for i in range(3):
            await data.set("thing", f"r{i}", {"tag": f"t{i}", "n": i})
        orders = [None, "n", "-n", "tag", "-tag"]
        marks = {sort: (await data.find_where("thing", sort=sort, size=1)).next for sort in orders}
        for made, mark in marks.items():
            for sort in orders:
                if sort == made:
                    assert len(await data.find_where("thing", sort=sort, after=mark)) == 2
                    continue
                with pytest.raises(
                    InvalidQuery, match=f"this page ended in another order: by {made or 'id'}, not by {sort or 'id'}"
                ):
                    await data.find_where("thing", sort=sort, after=mark)
                with pytest.raises(InvalidQuery, match="in another order"):
                    await data.explain("thing", sort=sort, after=mark)


async def test_records_of_another_namespace_or_entity_are_not_found(dsn: str, conn: psycopg.Connection[Any]) -> None:
    schema = Schema("one", fields={"tag": Tag()})
    async with MeshData(dsn, schema) as data:
        for entity, space in (("one", "default"), ("two", "default"), ("one", "other")):
            await data.create_search_index(entity, namespace=space)
            await data.set(entity, f"{entity} of {space}", {"tag": "a"}, namespace=space)
        for entity, space in (("one", "default"), ("two", "default"), ("one", "other")):
            own = [f"{entity} of {space}"]
            assert [r.id for r in await data.find(entity, "@tag:{a}", namespace=space)] == own
            assert [r.id for r in await data.find_where(entity, sort="tag", namespace=space)] == own
            assert await data.count(entity, namespace=space) == 1
            assert await data.aggregate(entity, by=["tag"], namespace=space) == [{"tag": "a", "count": 1}]
        rows = await data.sql("select record_namespace, record_id from hotmesh_data.one order by 1")
        assert [tuple(row.values()) for row in rows] == [("default", "one of default"), ("other", "one of other")]


async def test_moments_are_those_of_plain_python(conn: psycopg.Connection[Any]) -> None:
    zones = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    zones = st.one_of(zones, st.just(UTC))
    moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=zones)
    moments = st.one_of(moments, st.datetimes(datetime(1999, 12, 1), datetime(2100, 2, 1), timezones=st.just(UTC)))

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        moments,
        st.sampled_from(["T", " "]),
        st.sampled_from(["auto", "seconds", "minutes", "milliseconds", "microseconds"]),
        st.booleans(),
    )
    def compare(moment: datetime, between: str, precision: str, colon: bool) -> None:
        text = moment.isoformat(between, precision)
        wanted = datetime.fromisoformat(text).astimezone(UTC)
        written = text if colon else text[:-3] + text[-2:]
        query = "select hotmesh_engine.instant(to_jsonb(%s::text)) = %s, hotmesh_engine.instant(to_jsonb(%s::text)) is null"
        assert conn.execute(query, (written, wanted, f"{written}0")).fetchone() == (True, True), written

    compare()
    for text in ("2026-02-29", "2026-13-01", "2026-00-10", "0000-01-01", "2026-01-01T24:00", "2026-01-01T00:60", "2026-1-1",
                 "9999-12-31T23:59:59-01:00", "0001-01-01T00:00+01:00", "2026-01-01T00:00+16:00", "x" * 70,
                 "2026-02-29T00:00:00+00:00", "2026-02-30T00:00:00.000Z", "2026-04-31T00:00:00Z", "2026-13-01T00:00:00Z",
                 "2026-00-01T00:00:00+00:00", "2026-01-00T00:00:00Z", "0000-01-01T00:00:00+00:00", "2026-01-01T24:00:00Z",
                 "2026-01-01T00:60:00.000000+00:00", "2026-01-01T00:00:60+00:00"):  # fmt: skip
        assert conn.execute("select hotmesh_engine.instant(to_jsonb(%s::text))", (text,)).fetchone() == (None,), text
    good = "2026-01-28T23:59:09+00:00"
    for at in range(len(good)):
        for other in "-T:+Z. 09x²_%":
            text = good[:at] + other + good[at + 1 :]
            try:
                moment = datetime.fromisoformat(text).astimezone(UTC)
            except ValueError:
                moment = None
            (found,) = conn.execute("select hotmesh_engine.instant(to_jsonb(%s::text))", (text,)).fetchone() or (0,)
            assert found in (None, moment), text
            assert found == moment or at >= 19 or not (good[at] + other).isdigit(), text


def test_moments_that_are_read_at_once_are_those_of_the_pattern(conn: psycopg.Connection[Any]) -> None:
    """Every day that there is or is not, and every form with each of its signs replaced by others."""
    texts = [f"{y}-{m:02}-{d:02}T10:00:00Z" for y in (2023, 2024) for m in range(14) for d in range(34)]
    for good in ("2026-01-28T23:59:09+00:00", "2026-10-31T19:05:59.123456+00:00", "2024-02-20T00:00:00Z"):
        texts += [good[:at] + sign + good[at + 1 :] for at in range(len(good)) for sign in "0123456789/:;-T.,+Z x²é_%\t\\"]
        texts += [good[:at] + good[at + 1 :] for at in range(len(good))] + [good + sign for sign in "0Z ²"]
    query = """select t, hotmesh_engine.instant(to_jsonb(t)), hotmesh_engine.odd_instant(to_jsonb(t)) from unnest(%s::text[]) t
                where hotmesh_engine.instant(to_jsonb(t)) is distinct from hotmesh_engine.odd_instant(to_jsonb(t))"""
    assert conn.execute(query, (texts,)).fetchall() == []
    query = "select count(hotmesh_engine.instant(to_jsonb(t))) from unnest(%s::text[]) t"
    assert conn.execute(query, (texts[: 14 * 34 * 2],)).fetchone() == (365 + 366,)


async def test_a_query_of_many_values_is_answered_and_one_of_too_many_refused(dsn: str) -> None:
    async with MeshData(dsn, SCHEMA) as data:
        await data.create_search_index("thing")
        for i in range(3):
            await data.set("thing", f"r{i}", {"tag": f"t{i}", "n": i})
        await data.set("thing", "without", {"n": 3})
        tags = [f"other {i}" for i in range(1998)] + ["t2", "t0"]
        assert [r.id for r in await data.find_where("thing", [leaf("tag", "in", tags)])] == ["r0", "r2"]
        nested: dict[str, Any] = {"or": [leaf("tag", "in", tags[-900:]), leaf("n", "[]", [1, 1])]}
        for _ in range(15):
            nested = {"not": {"not": {"and": [nested]}}}
        assert [r.id for r in await data.find_where("thing", nested, sort="-n")] == ["r2", "r1", "r0"]
        for missing in (leaf("tag", "=", None), leaf("tag", "in", [None])):
            assert [r.id for r in await data.find_where("thing", [missing])] == ["without"]
        for much in (leaf("tag", "in", [*tags, "t1"]), {"or": [leaf("n", "[]", [i, i + 1]) for i in range(1001)]}):
            with pytest.raises(InvalidQuery, match="too many values"):
                await data.find_where("thing", [much])
