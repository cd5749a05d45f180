"""Searching records: which fit, how many, what figures they give, and how PostgreSQL goes about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import documents, engine, payloads
from ..errors import InvalidQuery
from ..search import conditions, parse
from ..search import query as queries
from .results import Groups, Page
from .spaces import Spaces

Query = Sequence[Mapping[str, Any]] | Mapping[str, Any] | None
Aim = str | tuple[str, str] | tuple[str, str, float]


class Searching(Spaces):
    """``find_where``, ``find``, ``count``, ``aggregate``, ``explain``."""

    async def find_where(
        self,
        entity: str,
        query: Query = None,
        *,
        start: int = 0,
        size: int = 100,
        fields: Sequence[str] | None = None,
        sort: Any = None,
        after: str | None = None,
        namespace: str | None = None,
    ) -> Page:
        """Records that fit all conditions, by id or by ``sort``: a field, ``"-field"`` for downwards.

        A condition is ``{"field", "is", "value"}``: ``=``, ``!=``, ``in`` (a list), ``<``, ``<=``, ``>``, ``>=``, a
        range ``[]``, ``[)``, ``(]``, ``()`` of ``[from, to]`` (None or an infinite float: open), ``prefix`` (of a tag, or of
        words), ``match`` (words that follow one another; those that the field's language leaves out, such as "the", say
        nothing); or ``{"and": [...]}``, ``{"or": [...]}``, ``{"not": ...}``. A field without a value equals None, fits no
        other comparison, and every negation; sorted by, such records come last. What its type cannot hold (``"abc"`` in a
        ``Numeric``) is no value either, but is not null: ``= None`` does not find it.

        ``start`` skips records (100,000 at most); long lists go on with ``after=page.next``, at the same cost
        for every page (of one ``sort``). ``size``: 10,000 at most. ``fields``: only those. ``InvalidQuery`` says what is wrong.
        """
        return await self._find(entity, conditions(query), start, size, fields, sort, after, namespace)

    async def find(
        self,
        entity: str,
        query: str = "*",
        *,
        start: int = 0,
        size: int = 100,
        fields: Sequence[str] | None = None,
        sort: Any = None,
        after: str | None = None,
        namespace: str | None = None,
    ) -> Page:
        """The same in the FT.SEARCH language: ``@active:{yes} @created:[(100 +inf] @first:"jo*" -@x:{y}``
        (see ``pyhotmesh.search.language``)."""
        return await self._find(entity, parse(query, self.schema), start, size, fields, sort, after, namespace)

    async def _find(
        self, entity: str, tree: Any, start: int, size: int, fields: Sequence[str] | None, sort: Any, after: str | None,
        namespace: str | None,
    ) -> Page:  # fmt: skip
        queries.page(start, size)
        field, downwards = queries.sorting(sort)
        picked = None if fields is None else documents.field_names(fields)
        space = self._space(namespace)
        rows = await space._rows(
            engine.FIND,
            (
                space.namespace,
                self._entity(entity),
                queries.encode(tree),
                field,
                downwards,
                start,
                size,
                picked,
                queries.unmark(after, field, downwards),
            ),
        )
        ids, texts, key = rows[0]
        page = Page(ids, payloads.decode(texts))
        if ids and len(ids) == size:
            page.next = queries.mark(ids[-1], key, field, downwards)
        return page

    async def count(self, entity: str, query: Query | str = None, *, namespace: str | None = None) -> int:
        """How many records fit a query of either form."""
        space = self._space(namespace)
        return int(await space._value(engine.COUNT_RECORDS, (space.namespace, self._entity(entity), self._tree(query))))

    async def aggregate(
        self,
        entity: str,
        query: Query | str = None,
        *,
        by: Sequence[str] = (),
        figures: Mapping[str, Aim] | None = None,
        size: int = 1000,
        namespace: str | None = None,
    ) -> Groups:
        """Figures over the records that fit, for each group: ``by=["active"], figures={"n": "count",
        "total": ("sum", "amount"), "p95": ("quantile", "amount", 0.95)}``.

        Functions: ``count`` (of records; with a field, of its values), ``distinct``, ``min``, ``max``, and of
        ``Numeric`` fields ``sum``, ``avg`` and ``quantile`` (interpolated). Values are those that comparisons see:
        of a ``Tag``, ``True`` and ``"true"`` are one; a ``Timestamp`` is ISO text in UTC; what is missing, null, or
        nothing that the type can hold makes one group, ``None``, and is in no other figure than ``count`` of records.

        One row a group, sorted by it, ``None`` last; at most ``size`` of them (10,000), and ``.more`` of the result
        is true if there are others. ``InvalidQuery``: also for a sum beyond 1.797e308.
        """
        queries.page(0, size)
        if isinstance(by, str):
            raise InvalidQuery("by must be a list of fields")
        if figures is not None and not isinstance(figures, Mapping):
            raise InvalidQuery(f'figures must be {{name: "count" or (function, field)}}, not {figures!r:.100}')
        metrics = {name: _figure(name, aim) for name, aim in (figures or {"count": "count"}).items()}
        space = self._space(namespace)
        rows = await space._rows(
            engine.AGGREGATE,
            (space.namespace, self._entity(entity), self._tree(query), [documents.field_name(f) for f in by],
             queries.encode(metrics), size),
        )  # fmt: skip
        groups = Groups(payloads.decode(row) for (row,) in rows[:size])
        groups.more = len(rows) > size
        return groups

    async def explain(
        self,
        entity: str,
        query: Query | str = None,
        *,
        sort: Any = None,
        size: int = 100,
        after: str | None = None,
        namespace: str | None = None,
    ) -> Any:
        """PostgreSQL's plan of a search (``EXPLAIN (FORMAT JSON)``): which index it uses. Executes nothing."""
        queries.page(0, size)
        field, downwards = queries.sorting(sort)
        space = self._space(namespace)
        mark = queries.unmark(after, field, downwards)
        params = (space.namespace, self._entity(entity), self._tree(query), field, downwards, size, mark)
        return await space._value(engine.EXPLAIN_FIND, params)

    def _tree(self, query: Query | str) -> str:
        return queries.encode(parse(query, self.schema) if isinstance(query, str) else conditions(query))


def _figure(name: str, aim: Aim) -> dict[str, Any]:
    parts = (aim,) if isinstance(aim, str) else tuple(aim) if isinstance(aim, Sequence) else ()
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], str):
        raise InvalidQuery(f"figure {name!r:.100} must be a function, or (function, field), not {aim!r:.100}")
    if len(parts) == 1 and parts[0] != "count":
        raise InvalidQuery(f"figure {name!r:.100}: {parts[0]:.100} needs a field", hint='for example ("sum", "amount")')
    return dict(zip(("of", "field", "at"), parts, strict=False))
