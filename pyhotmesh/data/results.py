"""What searches find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Record(dict[str, Any]):
    """Fields of a record; ``id`` is the record's own, whatever fields there are."""

    __slots__ = ("id",)
    id: str


class Page(list[Record]):
    """Records in order. ``next``: where the following page begins (``after=``); None if this may be the last."""

    next: str | None = None

    def __init__(self, ids: Sequence[str] = (), documents: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__(map(Record, documents))
        for record, id in zip(self, ids, strict=True):  # an __init__ of Record's would take twice as long as all this
            record.id = id


class Groups(list[dict[str, Any]]):
    """Groups and their figures, in order. ``more``: there were more than ``size``, and those after it were left out."""

    more: bool = False
