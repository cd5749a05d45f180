"""Queries as lists and dicts, made into the tree that the engine takes (sql/searching.sql).

    [{"field": "active", "is": "=", "value": "yes"}, {"or": [...]}, {"not": {...}}]

A list is an ``and``. The engine knows the fields and judges names, operators and values; here only the
shape is looked at, and marks are made that say where a page of results ended.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from .. import documents, payloads
from ..errors import InvalidQuery, PayloadError

Tree = dict[str, Any]
_SHAPES = ({"field", "is", "value"}, {"and"}, {"or"}, {"not"}, {"all"})
_ENDLESS = float("inf")
_DEPTH = 50


def conditions(query: Any, depth: int = 0) -> Tree:
    """The tree of a query in its list or dict form; nothing (or an empty list) is everything."""
    if depth > _DEPTH:
        raise InvalidQuery(f"the query is nested more than {_DEPTH} levels deep")
    if query is None:
        return {"all": True}
    if isinstance(query, Mapping):
        keys = set(query)
        if keys not in _SHAPES or query.get("all", True) is not True:
            raise InvalidQuery(
                f"not a condition: {query!r:.200}",
                hint='{"field", "is", "value"}, {"and": [...]}, {"or": [...]} or {"not": ...}; the value None: has none',
            )
        if "not" in keys:
            return {"not": conditions(query["not"], depth + 1)}
        for word in ("and", "or"):
            if word in keys:
                return {word: _many(query[word], depth)}
        return {"all": True} if "all" in keys else _compared(query["field"], query["is"], _value(query["value"]))
    return {"and": _many(query, depth)}


def _many(parts: Any, depth: int) -> list[Tree]:
    if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
        hint = "find takes the FT.SEARCH language" if isinstance(parts, str) else None
        raise InvalidQuery(f"conditions must be a list, this is {parts!r:.100}", hint=hint)
    return [conditions(part, depth + 1) for part in parts]


def _compared(field: Any, operator: Any, value: Any) -> Tree:
    """A comparison. Below infinity is all that has a value: as text, it would be a tag like any other."""
    if (operator in ("<", "<=") and value == _ENDLESS) or (operator in (">", ">=") and value == -_ENDLESS):
        return {"field": field, "is": "[]", "value": [None, None]}
    if operator in ("[]", "[)", "(]", "()") and isinstance(value, list) and len(value) == 2:
        value = open_ends(value)
    return {"field": field, "is": operator, "value": value}


def open_ends(bounds: list[Any]) -> list[Any]:
    """The bounds of a range, without those that are infinite."""
    low, high = bounds
    return [None if low == -_ENDLESS else low, None if high == _ENDLESS else high]


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"start", "end"}:
        return [_value(value["start"]), _value(value["end"])]
    if isinstance(value, date):
        return payloads.moment(value)
    if isinstance(value, list | tuple):
        return [_value(v) for v in value]
    return value


def encode(tree: Any) -> str:
    """For the engine."""
    try:
        return documents.encode(tree).decode()
    except PayloadError as error:
        raise InvalidQuery(f"the query holds what no record can: {error.message}", hint=error.hint) from error


def sorting(sort: Any) -> tuple[str | None, bool]:
    """``"field"``, ``"-field"`` (downwards) or ``("field", "asc" | "desc")`` as field and whether downwards."""
    if sort is None:
        return None, False
    if isinstance(sort, str):
        return _name(sort.removeprefix("-")), sort.startswith("-")
    if isinstance(sort, Sequence) and len(sort) == 2 and str(sort[1]).lower() in ("asc", "desc"):
        return _name(sort[0]), str(sort[1]).lower() == "desc"
    raise InvalidQuery(f"cannot be sorted by {sort!r:.100}", hint='"field", "-field" or ("field", "desc")')


def _name(name: Any) -> str:
    try:
        return payloads.check_name(name, "field")
    except PayloadError as error:
        raise InvalidQuery(str(error)) from error


def page(start: Any, size: Any) -> None:
    """Refuses what is no page."""
    for what, value, most in (("start", start, 100_000), ("size", size, 10_000)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise InvalidQuery(f"{what} must be a whole number from 0 to {most}, not {value!r:.100}")


def mark(id: str, key: str | None, sort: str | None, downwards: bool) -> str:
    """Where a page ended, as text: its order, and its last record's id and sort key (JSON, unread: a float would lose digits)."""
    order = payloads.encode(_order(sort, downwards))
    return base64.urlsafe_b64encode(
        b'{"sort":%b,"id":%b,"key":%b}' % (order, payloads.encode(id), (key or "null").encode())
    ).decode()


def unmark(text: Any, sort: str | None, downwards: bool) -> str | None:
    """The mark as the engine takes it; refuses that of another order."""
    if text is None:
        return None
    try:
        data = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
        held = payloads.decode(data)
        payloads.encode(held)
        order = held["sort"]
    except (AttributeError, UnicodeEncodeError, binascii.Error, PayloadError, TypeError, LookupError):
        raise InvalidQuery(f"this is not where a page ended: {text!r:.100}", hint="pass the page's .next, unchanged") from None
    if order != _order(sort, downwards):
        raise InvalidQuery(
            f"this page ended in another order: by {order or 'id'!s:.100}, not by {_order(sort, downwards) or 'id'}",
            hint="search on with the sort that it came from, or begin anew without after",
        )
    return data.decode()


def _order(sort: str | None, downwards: bool) -> str | None:
    return None if sort is None else f"-{sort}" if downwards else sort
