"""A workflow's own record, as its code sees it: ``workflow.search()`` and ``workflow.entity()``.

Each call is a command: listed in the journal, carried out by the engine in the turn that records it, and
answered by an event. It applies once, however often the code is replayed. Calls take effect in the order
in which they are made; await them, or ``gather`` several.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from . import payloads
from .errors import PayloadError
from .replay import Instance


def field_name(name: Any) -> str:
    """A field's name, as documents hold it."""
    return payloads.check_name(name, "field")


def field_names(names: Any, what: str = "fields") -> list[str]:
    """Names of fields, as they are asked for."""
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise PayloadError(what, f"must be a list of names, not {names!r:.100}")
    return [field_name(name) for name in names]


def number(value: Any) -> int | float:
    """An amount to count by."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PayloadError("value", f"must be a number, this is {value!r:.100}")
    return value


def fields_of(given: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ``set``, given as a mapping, by name, or both."""
    fields = {**_mapping(given if given is not None else {}, "fields"), **named}
    for name in fields:
        field_name(name)
    return fields


def beginning(search: Mapping[str, Any] | None) -> str | None:
    """The document of ``search={"data": {...}}``, with which a start begins its record."""
    if search is None:
        return None
    if not isinstance(search, Mapping) or set(search) != {"data"} or not isinstance(search["data"], Mapping):
        raise PayloadError("search", 'must be {"data": {field: value, ...}}')
    return encode(fields_of(search["data"], {})).decode()


def _mapping(given: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise PayloadError(what, f"must be {{name: value, ...}}, not {given!r:.100}")
    return given


def encode(value: Any) -> bytes:
    """A value as JSON that ``jsonb`` keeps as it is: a float has its point there, also beyond 1e16, and the same text as
    any other that is equal to it. For what is written and for what is asked for."""
    data = payloads.encode(value, payloads.EXACT)
    return _NUMBER.sub(_written_out, data) if _EXPONENT.search(data) else data


_EXPONENT = re.compile(rb"\de[-+\d]")  # in a number, or in a text
_NUMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|([-\d.]+e[-+]?\d+)', re.DOTALL)  # all texts, and numbers with an exponent


def _written_out(found: re.Match[bytes]) -> bytes:
    if found[1] is None:
        return found[0]
    digits = format(Decimal(found[1].decode()), "f")
    return (digits if "." in digits else f"{digits}.0").encode()


def path_of(path: str) -> list[str]:
    """The steps of a path such as ``a.b``; numbers are places in arrays."""
    return [field_name(step) for step in path.split(".")]


class Search:
    """The fields of the record of the workflow that this code is."""

    __slots__ = ("_instance",)

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def set(self, fields: Mapping[str, Any] | None = None, /, **named: Any) -> Awaitable[None]:
        """Sets fields to values: ``set(active="yes")`` or ``set({"active": "yes"})``; others stay."""
        return self._instance.change_record("set", encode(fields_of(fields, named)))

    def get(self, field: str) -> Awaitable[Any]:
        """A field's value; None if it has none."""
        return self._instance.change_record("get", payloads.encode([field_name(field)]))

    def mget(self, *fields: str) -> Awaitable[list[Any]]:
        """The values of several fields, in order."""
        return self._instance.change_record("mget", payloads.encode([field_name(f) for f in fields]))

    def incr(self, field: str, by: float = 1) -> Awaitable[Any]:
        """Adds to a number, in exact decimals; the new value, beyond 64 bits as a float (in SQL it is exact). A missing
        field counts as 0. ``RecordError`` if it is no number."""
        return self._instance.change_record("incr", encode([field_name(field), number(by)]))

    def mult(self, field: str, by: float) -> Awaitable[Any]:
        """Multiplies a number, in exact decimals; the new value, beyond 64 bits as a float (in SQL it is exact). A missing
        field counts as 1. ``RecordError`` if it is no number."""
        return self._instance.change_record("mult", encode([field_name(field), number(by)]))

    def delete(self, *fields: str) -> Awaitable[int]:
        """Removes fields; how many of them there were."""
        return self._instance.change_record("delete", payloads.encode([field_name(f) for f in fields]))


class Entity:
    """The same record as a nested document."""

    __slots__ = ("_instance",)

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def merge(self, document: Mapping[str, Any]) -> Awaitable[dict[str, Any]]:
        """Merges a document in: objects member by member, anything else replaced. The whole document."""
        return self._instance.change_record("merge", encode(dict(_mapping(document, "document"))))

    def append(self, path: str, value: Any) -> Awaitable[int]:
        """Appends to the array at a path (``"a.b"``), which is made if need be; its new length.
        ``RecordError`` if something else is there. The history keeps the whole outermost field with each change, so a
        list that grows by one each time takes space by the square of its length (200 times 2 KB: 42 MB): give what
        grows long records of its own, or the record a ttl; ``flush`` forgets its history with it."""
        return self._instance.change_record("append", encode([path_of(path), value]))

    def get(self, path: str | None = None) -> Awaitable[Any]:
        """The value at a path (``"a.b"``, ``"items.0"``); without one the whole document. None if there is none."""
        return self._instance.change_record("get", payloads.encode(path_of(path) if path is not None else []))
