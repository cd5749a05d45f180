"""What searches find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Record(dict[str, Any]):
    """Fields of a record; ``id`` is the record's own, whatever fields there are."""

    __slots__ = ("id",)

    def __init__(self, id: str, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.id = id


class Page(list[Record]):
    """Records in order. ``next``: where the following page begins (``after=``); None if this may be the last."""

    next: str | None = None
