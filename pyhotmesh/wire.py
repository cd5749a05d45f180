"""Arrays for the engine's functions, in PostgreSQL's binary format.

A turn carries some forty arrays with up to thousands of elements. psycopg adapts each element of a
list by itself (about 1 µs each); packing a whole array at once costs a tenth of that. Each class here
is a list of one SQL type, known to a connection after ``register(conn)``. The format: number of
dimensions, null flag, element type, length, lower bound; then each element's length and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct
from typing import Any, ClassVar

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct(">iiiii")
_EMPTY = Struct(">iii")
_ONE = Struct(">iiiiii").pack
_LENGTH = Struct(">i").pack
_NULL = b"\xff\xff\xff\xff"
_PG_EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds since 1970
INFINITY = 0x7FFF_FFFF_FFFF_FFFF  # a time that never comes


@lru_cache(maxsize=512)
def _packer(code: str, n: int) -> Struct:
    return Struct(">" + ("i" + code) * n)


class _FixedDumper(Dumper):
    """Elements of one fixed size."""

    format = Format.BINARY
    code: ClassVar[str]
    size: ClassVar[int]
    element: ClassVar[int]
    none: ClassVar[bytes]
    one: ClassVar[Callable[..., bytes]]

    def __init_subclass__(cls) -> None:
        cls.none = _EMPTY.pack(0, 0, cls.element)
        cls.one = staticmethod(Struct(">iiiiii" + cls.code).pack)

    def dump(self, obj: Any) -> Buffer:
        n = len(obj)
        if not n:
            return self.none
        if n == 1 and obj[0] is not None:  # of each turn of an idle worker: half the time
            return self.one(1, 0, self.element, 1, 1, self.size, obj[0])
        nulls: int = obj.count(None)
        if nulls == n:
            return _HEADER.pack(1, 1, self.element, n, 1) + _NULL * n
        if nulls:
            one = Struct(">i" + self.code).pack
            size = self.size
            body = b"".join([_NULL if v is None else one(size, v) for v in obj])
            return _HEADER.pack(1, 1, self.element, n, 1) + body
        flat = [self.size] * (2 * n)
        flat[1::2] = obj
        return _HEADER.pack(1, 0, self.element, n, 1) + _packer(self.code, n).pack(*flat)


class _VariableDumper(Dumper):
    """Elements that are bytes."""

    format = Format.BINARY
    element: ClassVar[int]
    none: ClassVar[bytes]

    def __init_subclass__(cls) -> None:
        cls.none = _EMPTY.pack(0, 0, cls.element)

    def dump(self, obj: Any) -> Buffer:
        if not obj:
            return self.none
        if len(obj) == 1 and obj[0] is not None:
            value: bytes = obj[0]
            return _ONE(1, 0, self.element, 1, 1, len(value)) + value
        nulls: int = obj.count(None)
        if nulls == len(obj):
            return _HEADER.pack(1, 1, self.element, nulls, 1) + _NULL * nulls
        header = _HEADER.pack(1, bool(nulls), self.element, len(obj), 1)
        if nulls:
            return header + b"".join([_NULL if v is None else _LENGTH(len(v)) + v for v in obj])
        parts = [header] * (2 * len(obj) + 1)
        parts[1::2] = map(_LENGTH, map(len, obj))
        parts[2::2] = obj
        return b"".join(parts)


class Int8s(list[int | None]):
    """bigint[]"""


class Int4s(list[int | None]):
    """int[]"""


class Int2s(list[int | None]):
    """smallint[]"""


class Floats(list[float | None]):
    """double precision[]"""


class Bools(list[bool | None]):
    """boolean[]"""


class Times(list[int | None]):
    """timestamptz[]; elements are microseconds since the Unix epoch, or INFINITY"""


class Texts(list[str | None]):
    """text[]"""


class Jsons(list[bytes | None]):
    """json[]; elements are encoded JSON"""


class Uuids(list[bytes | None]):
    """uuid[]; elements are the 16 bytes"""


class _Int8Dumper(_FixedDumper):
    oid, element, code, size = 1016, 20, "q", 8


class _Int4Dumper(_FixedDumper):
    oid, element, code, size = 1007, 23, "i", 4


class _Int2Dumper(_FixedDumper):
    oid, element, code, size = 1005, 21, "h", 2


class _FloatDumper(_FixedDumper):
    oid, element, code, size = 1022, 701, "d", 8


class _BoolDumper(_FixedDumper):
    oid, element, code, size = 1000, 16, "?", 1


class _TimeDumper(_FixedDumper):
    oid, element, code, size = 1185, 1184, "q", 8

    def dump(self, obj: Any) -> Buffer:
        if None in obj or INFINITY in obj:
            return super().dump([t if t is None or t == INFINITY else t - _PG_EPOCH for t in obj])
        return super().dump([t - _PG_EPOCH for t in obj])


class _TextDumper(_VariableDumper):
    oid, element = 1009, 25

    def dump(self, obj: Any) -> Buffer:
        return super().dump([None if t is None else t.encode() for t in obj])


class _JsonDumper(_VariableDumper):
    oid, element = 199, 114


class _UuidDumper(_VariableDumper):
    oid, element = 2951, 2950


_DUMPERS: Iterable[tuple[type, type[Dumper]]] = (
    (Int8s, _Int8Dumper),
    (Int4s, _Int4Dumper),
    (Int2s, _Int2Dumper),
    (Floats, _FloatDumper),
    (Bools, _BoolDumper),
    (Times, _TimeDumper),
    (Texts, _TextDumper),
    (Jsons, _JsonDumper),
    (Uuids, _UuidDumper),
)


def register(context: AdaptContext) -> None:
    """Teaches a connection (or anything with adapters) these types."""
    for cls, dumper in _DUMPERS:
        context.adapters.register_dumper(cls, dumper)
