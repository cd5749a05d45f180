"""Records, and what a plain filter finds among them: what searches are compared with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import psycopg
from hypothesis import strategies as st

from pyhotmesh import Schema

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
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([0.5, -0.0, 1.0, 1e20, 1e-7, 2**53 + 1, 2**53, "2.50", "0.12345678901234567891", "0.12345678901234567892"]),
)
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
        return f" {value}" in f" {mine}"
    if operator == "prefix":
        return bool(mine.startswith(value))
    if operator in ("[]", "[)", "(]", "()"):
        low, high = (key(field, v) for v in value)
        above = low is None or mine > low or (operator[0] == "[" and mine == low)
        return above and (high is None or mine < high or (operator[1] == "]" and mine == high))
    other = key(field, value)
    return {"=": mine == other, "<": mine < other, "<=": mine <= other, ">": mine > other, ">=": mine >= other}[operator]


def shown(field: str, found: Any) -> Any:
    """What figures give for what a value is compared by."""
    if field != "at" or found is None:
        return found
    text = datetime.fromtimestamp(found, UTC).isoformat().removesuffix("+00:00")
    return (text.rstrip("0") if "." in text else text) + "+00:00"


def figures(records: list[dict[str, Any]], by: list[str], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Groups and their figures; what has no value comes last."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(key(f, record.get(f)) for f in by), []).append(record)
    if not by:
        groups.setdefault((), [])
    rows = []
    for group in sorted(groups, key=lambda g: [(k is None, 0 if k is None else k) for k in g]):
        row = {f: shown(f, k) for f, k in zip(by, group, strict=True)}
        for name, aim in wanted.items():
            of, field, at = (*((aim,) if isinstance(aim, str) else aim), None, None)[:3]
            values = [k for k in (key(field, r.get(field)) for r in groups[group]) if k is not None] if field else groups[group]
            found = _figure(of, values, at)
            row[name] = shown(field, found) if of in ("min", "max") else found
        rows.append(row)
    return rows


def _figure(of: str, values: list[Any], at: float | None) -> Any:
    if of in ("count", "distinct"):
        return len(values if of == "count" else set(values))
    if not values:
        return None
    if of == "quantile":
        place = Fraction(at or 0) * (len(values) - 1)
        low, high = (sorted(values)[min(int(place) + step, len(values) - 1)] for step in (0, 1))
        return low + (place - int(place)) * (high - low)
    if of in ("min", "max"):
        return min(values) if of == "min" else max(values)
    return sum(values) if of == "sum" else sum(values) / len(values)


def leaf(field: str, operator: str, value: Any) -> dict[str, Any]:
    """A condition on one field."""
    return {"field": field, "is": operator, "value": value}


def put(conn: psycopg.Connection[Any], entity: int, records: list[dict[str, Any]]) -> None:
    conn.execute("delete from hotmesh_engine.record where entity_id = %s", (entity,))
    conn.cursor().executemany(
        "insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, id, data)"
        " values (%s, 1, now(), now(), %s, %s)",
        [(entity, f"r{i}", json.dumps(r)) for i, r in enumerate(records)],
    )
