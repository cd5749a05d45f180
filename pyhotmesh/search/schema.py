"""What of a record can be searched: fields and their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from ..errors import InvalidQuery


@dataclass(frozen=True)
class Field:
    """A field that can be searched. ``sortable`` matters for ``Text`` only: all others can be sorted by."""

    sortable: bool = False
    type: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if type(value) is not type(option.default):
                wanted = "a name" if isinstance(option.default, str) else "True or False"
                raise InvalidQuery(f"{type(self).__name__}: {option.name} must be {wanted}, not {value!r:.100}")

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
    may also be sorted by and compared as a whole through an index (by its first 200 characters).

    Of stems, a beginning finds words whose stem begins so, or is its own: ``run*`` and ``running*`` find "running",
    ``runn*`` does not. To search while somebody types, take ``nostem``."""

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


def _field(name: Any, given: Any) -> Field:
    if not isinstance(name, str):
        raise InvalidQuery(f"the name of a field must be text, not {name!r:.100}")
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
    raise InvalidQuery(
        f"field {name!r} is of no known type: {given!r:.100}",
        hint='Tag(), Text(), Numeric(), Boolean(), Timestamp(), or {"type": "TAG"}',
    )


@dataclass(frozen=True)
class Schema:
    """An index's name, the entities that it is for (``prefix``; by default that of its name), and its fields:
    ``Tag()``, ``Text()``, ... or their dict form ``{"type": "TAG", "sortable": False}``.

    Each field has an index of its own; of several conditions, one index finds and the others filter what it found.
    ``together=[("city", "created")]`` makes one more index of both: records of one city within a range of
    ``created``, or sorted by it, are then read as they stand there, however many the city has. Two or three
    fields; those that are compared by ``=`` stand first. Every change of a record keeps every index up to date.
    """

    index: str
    prefix: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    together: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.index, str):
            raise InvalidQuery(f"index must be a name, not {self.index!r:.100}")
        listed = isinstance(self.prefix, Sequence) and not isinstance(self.prefix, str)
        if not listed or not all(isinstance(p, str) for p in self.prefix):
            raise InvalidQuery(f"prefix must be a list of names, not {self.prefix!r:.100}")
        if not isinstance(self.fields, Mapping):
            raise InvalidQuery(f"fields must be {{name: Tag(), ...}}, not {self.fields!r:.100}")
        if not isinstance(self.together, Sequence):
            raise InvalidQuery(f"together must be a list of tuples of fields, not {self.together!r:.100}")
        object.__setattr__(self, "prefix", tuple(self.prefix) or (self.index,))
        object.__setattr__(self, "fields", {name: _field(name, given) for name, given in self.fields.items()})
        object.__setattr__(self, "together", tuple(dict.fromkeys(map(self._joined, self.together))))

    def _joined(self, names: Any) -> tuple[str, ...]:
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
            raise InvalidQuery(f"together must be a list of tuples of fields, not of {names!r:.100}")
        for name in names:
            if name not in self.fields:
                raise InvalidQuery(f"together names {name!r:.100}, which is no field", hint=f"Fields: {', '.join(self.fields)}.")
        found = [self.fields[name] for name in names]
        if any(f.type == Text.type and not f.sortable for f in found):
            raise InvalidQuery(f"together {names!r:.100} has a Text that is not sortable", hint="Text(sortable=True), or a Tag.")
        # All that a btree holds of a record are 2,700 bytes; a tag has up to 1,000, a number 340.
        if not 2 <= len(set(names)) == len(names) <= 3 or sum(f.type in (Tag.type, Text.type) for f in found) > 2:
            raise InvalidQuery(f"together takes two or three fields, at most two of them Tag or Text, not {names!r:.100}")
        return tuple(names)

    @classmethod
    def of(cls, given: Schema | Mapping[str, Any]) -> Schema:
        """A schema, or its dict form: ``{"index", "prefix", "fields", "together"}`` (or ``"schema"`` for the fields)."""
        if isinstance(given, Schema):
            return given
        if not isinstance(given, Mapping):
            raise InvalidQuery(f"a schema is a Schema, or a dict with an index and fields, not {given!r:.100}")
        options = dict(given)
        if "schema" in options:
            if "fields" in options:
                raise InvalidQuery("a schema has fields, or `schema` for them, and this has both")
            options["fields"] = options.pop("schema")
        try:
            return cls(**options)
        except TypeError:
            has = ", ".join(map(str, options)) or "nothing"
            raise InvalidQuery(f"a schema has an index, and may have prefix, fields and together; this has {has}") from None

    def declaration(self) -> list[dict[str, Any]]:
        """As the engine is told."""
        return [{"name": n, "type": f.type, "sortable": f.sortable, "config": f.config} for n, f in self.fields.items()]

    def texts(self) -> list[str]:
        """The fields that words without a field are looked for in."""
        return [name for name, f in self.fields.items() if f.type == Text.type]
