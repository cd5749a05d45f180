"""What of a record can be searched: fields and their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import InvalidQuery


@dataclass(frozen=True)
class Field:
    """A field that can be searched. ``sortable`` matters for ``Text`` only: all others can be sorted by."""

    sortable: bool = False
    type: ClassVar[str] = ""

    @property
    def config(self) -> str:
        """The text search configuration, as PostgreSQL names it."""
        return "simple"


@dataclass(frozen=True)
class Tag(Field):
    """Compared as a whole: a code, a name, a state. At most 1,000 bytes; a longer value is not found."""

    type: ClassVar[str] = "TAG"


@dataclass(frozen=True)
class Text(Field):
    """Searched by words. ``nostem``: words as they are, else the word stems of ``language``. ``sortable``:
    may also be sorted by and compared as a whole through an index (by its first 200 characters)."""

    nostem: bool = False
    language: str = "english"
    type: ClassVar[str] = "TEXT"

    @property
    def config(self) -> str:
        return "simple" if self.nostem else self.language


@dataclass(frozen=True)
class Numeric(Field):
    """A number, compared exactly; text that is a number counts as one."""

    type: ClassVar[str] = "NUMERIC"


@dataclass(frozen=True)
class Boolean(Field):
    """True or false."""

    type: ClassVar[str] = "BOOLEAN"


@dataclass(frozen=True)
class Timestamp(Field):
    """A moment: ISO 8601 text (a ``datetime`` is written so; without an offset it is UTC) or seconds since 1970."""

    type: ClassVar[str] = "TIMESTAMP"


_TYPES: dict[str, type[Field]] = {cls.type: cls for cls in (Tag, Text, Numeric, Boolean, Timestamp)}


def _field(name: str, given: Any) -> Field:
    if isinstance(given, Field) and given.type:
        return given
    if isinstance(given, Mapping):
        options = {str(k).lower(): v for k, v in given.items()}
        kind = _TYPES.get(str(options.pop("type", "")).upper())
        if kind is not None:
            try:
                return kind(**options)
            except TypeError:
                raise InvalidQuery(f"field {name!r}: {kind.__name__} has no such options: {', '.join(options)}") from None
    raise InvalidQuery(f"field {name!r} is of no known type: {given!r:.100}", hint=f"Known: {', '.join(_TYPES)}.")


@dataclass(frozen=True)
class Schema:
    """An index's name, the entities that it is for (``prefix``; by default that of its name), and its fields:
    ``Tag()``, ``Text()``, ... or their dict form ``{"type": "TAG", "sortable": False}``."""

    index: str
    prefix: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.prefix, str) or not all(isinstance(p, str) for p in self.prefix):
            raise InvalidQuery("prefix must be a list of names")
        object.__setattr__(self, "prefix", tuple(self.prefix) or (self.index,))
        object.__setattr__(self, "fields", {name: _field(name, given) for name, given in self.fields.items()})

    @classmethod
    def of(cls, given: Schema | Mapping[str, Any]) -> Schema:
        """A schema, or its dict form: ``{"index", "prefix", "fields"}`` (or ``"schema"`` for the fields)."""
        if isinstance(given, Schema):
            return given
        options = dict(given)
        if "schema" in options:
            options["fields"] = options.pop("schema")
        try:
            return cls(**options)
        except TypeError:
            raise InvalidQuery(f"a schema has index, prefix and fields, not {', '.join(map(str, options))}") from None

    def declaration(self) -> list[dict[str, Any]]:
        """As the engine is told."""
        return [{"name": n, "type": f.type, "sortable": f.sortable, "config": f.config} for n, f in self.fields.items()]

    def texts(self) -> list[str]:
        """The fields that words without a field are looked for in."""
        return [name for name, f in self.fields.items() if f.type == Text.type]
