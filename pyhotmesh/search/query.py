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
_SHAPES = ({"field", "is", "value"}, {"field", "is"}, {"and"}, {"or"}, {"not"}, {"all"})
_DEPTH = 50


def conditions(query: Any, depth: int = 0) -> Tree:
    """The tree of a query in its list or dict form; nothing (or an empty list) is everything."""
    if depth > _DEPTH:
        raise InvalidQuery(f"the query is nested more than {_DEPTH} levels deep")
    if query is None:
        return {"all": True}
    if isinstance(query, Mapping):
        keys = set(query)
        if keys not in _SHAPES:
            raise InvalidQuery(
                f"not a condition: {query!r:.200}", hint='{"field", "is", "value"}, {"and": [...]}, {"or": [...]} or {"not": ...}'
            )
        if "not" in keys:
            return {"not": conditions(query["not"], depth + 1)}
        for word in ("and", "or"):
            if word in keys:
                return {word: _many(query[word], depth)}
        return {str(k): _value(v) for k, v in query.items()}
    return {"and": _many(query, depth)}


def _many(parts: Any, depth: int) -> list[Tree]:
    if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
        hint = "find takes the FT.SEARCH language" if isinstance(parts, str) else None
        raise InvalidQuery(f"conditions must be a list, this is {parts!r:.100}", hint=hint)
    return [conditions(part, depth + 1) for part in parts]


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"start", "end"}:
        return [_value(value["start"]), _value(value["end"])]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "+inf" if value > 0 else "-inf"
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
        raise InvalidQuery(f"the query holds what no record can: {error.message}") from error


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


def mark(id: str, key: str | None) -> str:
    """Where a page ended, as text: its last record's id and sort key (JSON, unread: a float would lose digits)."""
    return base64.urlsafe_b64encode(b'{"id":%b,"key":%b}' % (payloads.encode(id), (key or "null").encode())).decode()


def unmark(text: Any) -> str | None:
    """The mark as the engine takes it."""
    if text is None:
        return None
    try:
        data = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
        payloads.encode(payloads.decode(data))
        return data.decode()
    except (AttributeError, UnicodeEncodeError, binascii.Error, PayloadError):
        raise InvalidQuery(f"this is not where a page ended: {text!r:.100}", hint="pass the page's .next, unchanged") from None
