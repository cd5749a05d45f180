"""MeshData: workflows with a record each, that can be searched, aggregated and joined."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg_pool import AsyncConnectionPool

from . import documents, engine, payloads
from .client import Client
from .connection import configure, is_connection_trouble, translate
from .durations import Duration
from .durations import parse as parse_duration
from .errors import InvalidQuery, NotConnected, PayloadError
from .ids import guid
from .replay import Definition
from .search import Schema, conditions, parse
from .search import query as queries
from .search.indexes import IndexReport, create
from .starts import interval
from .worker import Worker

RESULT_KEPT = 7 * 86400.0  # seconds, without a ttl

Query = Sequence[Mapping[str, Any]] | Mapping[str, Any] | None
Aim = str | tuple[str, str] | tuple[str, str, float]


class Record(dict[str, Any]):
    """Fields of a record; ``id`` is the record's own, whatever fields there are."""

    def __init__(self, id: str, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.id = id


class Page(list[Record]):
    """Records in order. ``next``: where the following page begins (``after=``); None if this may be the last."""

    next: str | None = None


def queue_of(entity: str) -> str:
    """The task queue of an entity's workflows."""
    return f"entity:{entity}"


def workflow_id(entity: str, id: str) -> str:
    """The id of the workflow whose record this is."""
    return f"{entity}:{id}"


class MeshData:
    """Entities: workflow types whose workflows have a record that can be searched.

    Args:
        connection: a DSN, a psycopg pool (whose DSN is used), a ``Client``, or nothing for
            ``HOTMESH_DATABASE_URL``.
        schema: a ``Schema``, or its dict form.
        namespace: where no call says otherwise; records of different namespaces do not see each other.
        options: for the ``Worker`` of each connected entity.

    All methods raise ``PayloadError`` for names and values that PostgreSQL cannot hold.
    """

    def __init__(
        self,
        connection: str | AsyncConnectionPool[Any] | Client | None = None,
        schema: Schema | Mapping[str, Any] | None = None,
        *,
        namespace: str = "default",
        **options: Any,
    ) -> None:
        self.client = Client(connection, namespace=namespace)
        self.schema = Schema.of(schema) if schema is not None else Schema(index="", prefix=("",))
        self.namespace = namespace
        self._options = options
        self._spaces = {namespace: self.client}
        self._workers: dict[tuple[str, str], Worker] = {}
        self._reader: AsyncConnectionPool[Any] | None = None

    # ------------------------------------------------------------------------------ serving --

    async def create_search_index(self, entity: str | None = None, *, namespace: str | None = None) -> IndexReport:
        """Declares what of an entity's records can be searched, builds the indexes, and makes the view
        ``hotmesh_data."<entity>"``. Does nothing that is done already; many servers may call it at start.

        Writers do not wait for it; it waits for transactions that are older than itself. What a former
        schema had and this one has not stays, and is listed in ``would_drop`` as statements.
        ``InvalidQuery``: a name or type cannot be used.
        """
        name = self._entity(entity or self.schema.prefix[0])
        return await create(self.client.dsn, namespace or self.namespace, name, self.schema)

    async def connect(
        self,
        entity: str,
        target: Callable[..., Any],
        *,
        namespace: str | None = None,
        hooks: Iterable[Callable[..., Any]] = (),
    ) -> None:
        """Serves an entity with a workflow function until ``close()``; ``hooks``: functions for ``hook``.

        They are workflow code, async, and use ``workflow.search()`` for the record.
        """
        self._entity(entity)
        space = self._space(namespace)
        key = space.namespace, entity
        if key in self._workers:
            raise ValueError(f"entity {entity!r} is connected already")
        served = [_as_workflow(target, entity), *(_as_workflow(h, _hook_type(entity, h)) for h in hooks)]
        worker = Worker(space, task_queue=queue_of(entity), workflows=served, **self._options)
        await worker.__aenter__()
        self._workers[key] = worker

    async def close(self) -> None:
        """Serves no more, hands back what is not done, and closes the connections."""
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            await worker.__aexit__(None, None, None)
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        for space in self._spaces.values():
            await space.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # ---------------------------------------------------------------------------- executing --

    async def exec(
        self,
        entity: str,
        args: Sequence[Any] = (),
        *,
        id: str | None = None,
        ttl: Duration | None = None,
        search: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """The result of the entity's function for this id: the one that is there, or of the run under way, or
        of a new one. One that failed is not kept: the next call runs again.

        ``search={"data": {...}}`` is the new record's beginning, written in the same transaction as the
        start. ``ttl``: how long after its end the workflow is kept, and its record with it; ``"infinity"``
        or 7 days without it.

        Raises ``WorkflowFailed`` and the others of ``Handle.result``; ``TimeoutError``: it goes on.
        """
        record = id if id is not None else guid()
        data = _beginning(search)
        space = self._space(namespace)
        limit = None if timeout is None else parse_duration(timeout)
        results = await space._waiting()
        run = await self._start(space, entity, record, data, entity, workflow_id(entity, record), args, ttl, results.client_id)
        return await space._result(workflow_id(entity, record), run, limit, registered=False)

    async def hook(
        self, entity: str, id: str, fn: str | Callable[..., Any], args: Sequence[Any] = (), *, namespace: str | None = None
    ) -> str:
        """Runs one more function within a record that is there, and returns the id of that workflow at once.
        It is one of the ``hooks`` of ``connect``. ``RecordError``: there is no such record."""
        name = _hook_type(entity, fn)
        key = f"{workflow_id(entity, id)}:{guid()}"
        await self._start(self._space(namespace), entity, id, None, name, key, args, None, None, hook=True)
        return key

    async def _start(
        self, space: Client, entity: str, record: str, data: str | None, name: str, key: str, args: Sequence[Any],
        ttl: Duration | None, waiter: int | None, *, hook: bool = False,
    ) -> int:  # fmt: skip
        self._entity(entity)
        payloads.check_name(record, "id")
        payloads.check_name(key, "id")
        if not isinstance(args, Sequence) or isinstance(args, str | bytes):
            raise PayloadError("args", f"must be a list of the arguments, not {args!r:.100}")
        kept = interval(RESULT_KEPT if ttl is None else parse_duration(ttl))
        before = [
            space.namespace, entity, record, data, hook, name, key, queue_of(entity), payloads.encode(list(args)).decode(),
            guid(), kept, None,
        ]  # fmt: skip
        rows = await space._rows(engine.START_ON_RECORD, [*before, False, waiter], again=[*before, True, waiter])
        return int(rows[0][0])

    async def interrupt(self, entity: str, id: str, reason: str = "interrupted", *, namespace: str | None = None) -> None:
        """Ends the record's workflow and its hooks at once. ``WorkflowNotFound`` if none is open."""
        payloads.text_bytes(reason, "reason")
        space = self._space(namespace)
        stayed = False
        for (run,) in await space._rows(engine.RUNS_OF_RECORD, self._key(entity, id, namespace)):
            stayed |= bool(await space._value(engine.INTERRUPT_RUN, (run, reason)))
        if stayed:
            await space._route()

    async def signal(
        self, signal_id: str, payload: Any = None, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> None:
        """As ``Client.signal``."""
        await self._space(namespace).signal(signal_id, payload, idempotency_key=idempotency_key)

    async def flush(self, entity: str, id: str, *, namespace: str | None = None) -> bool:
        """Forgets the record, its history and its result: the next ``exec`` runs anew. A workflow that is open
        goes on. False if there was nothing."""
        return bool(await self._space(namespace)._value(engine.FLUSH_RECORD, self._key(entity, id, namespace)))

    # ------------------------------------------------------------------------------ records --

    async def get(
        self,
        entity: str,
        id: str,
        fields: Sequence[str] | None = None,
        *,
        as_of: datetime | int | None = None,
        namespace: str | None = None,
    ) -> dict[str, Any] | None:
        """The record, or those of its fields that it has; None if there is no record.

        ``as_of``: as it was at a moment (a ``datetime`` with a time zone), or when its workflow had
        journaled that row (a number, see ``Handle.history``).
        """
        key = self._key(entity, id, namespace)
        space = self._space(namespace)
        picked = None if fields is None else [documents.field_name(f) for f in fields]
        if as_of is None:
            text = await space._value(engine.RECORD, (key[1], key[2], key[0], picked))
            return None if text is None else dict(payloads.decode(text))
        if isinstance(as_of, datetime):
            if as_of.tzinfo is None:
                raise PayloadError("as_of", "has no time zone", "use datetime.now(UTC) or the like")
            params = (key[1], key[2], as_of, None, key[0])
        elif isinstance(as_of, int) and not isinstance(as_of, bool):
            params = (key[1], key[2], None, min(max(as_of, -1), 2**31 - 1), key[0])  # type: ignore[assignment]
        else:
            raise PayloadError("as_of", f"must be a moment or a journal row, not {as_of!r:.100}")
        text = await space._value(engine.RECORD_AS_OF, params)
        if text is None:
            return None
        found: dict[str, Any] = payloads.decode(text)
        return found if picked is None else {name: found[name] for name in picked if name in found}

    async def set(
        self,
        entity: str,
        id: str,
        fields: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        namespace: str | None = None,
    ) -> None:
        """Sets fields; others stay. Makes the record if there is none: for ever, or until ``ttl`` lapses."""
        await self._change(entity, id, "set", documents.fields_of(fields, {}), namespace, ttl=ttl)

    async def incr(
        self, entity: str, id: str, field: str, by: float = 1, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> Any:
        """Adds to a number of a record, in exact decimals; the new value. ``RecordError``: there is no record, or
        the field is no number. With ``idempotency_key`` a second call of that key changes nothing;
        without it, a reply that was lost raises ``OutcomeUnknown``."""
        args = [documents.field_name(field), documents.number(by)]
        if idempotency_key is not None:
            payloads.check_name(idempotency_key, "idempotency_key")
        return await self._change(entity, id, "incr", args, namespace, key=idempotency_key, safe=idempotency_key is not None)

    async def delete(self, entity: str, id: str, fields: Sequence[str], *, namespace: str | None = None) -> int:
        """Removes fields of a record (``flush`` the whole of it); how many there were."""
        if isinstance(fields, str):
            raise PayloadError("fields", "must be a list of names")
        return int(await self._change(entity, id, "delete", [documents.field_name(f) for f in fields], namespace))

    async def _change(
        self, entity: str, id: str, op: str, args: Any, namespace: str | None, *,
        ttl: Duration | None = None, key: str | None = None, safe: bool = True,
    ) -> Any:  # fmt: skip
        kept = None if ttl is None else interval(parse_duration(ttl))
        params = (*self._key(entity, id, namespace), op, documents.encode(args).decode(), kept, key, op == "set")
        text = await self._space(namespace)._value(engine.CHANGE_RECORD, params, safe=safe)
        return None if text is None else payloads.decode(text)

    # ---------------------------------------------------------------------------- searching --

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
        range ``[]``, ``[)``, ``(]``, ``()`` of ``[from, to]``, ``prefix`` (of a tag, or of words), ``match`` (words);
        or ``{"and": [...]}``, ``{"or": [...]}``, ``{"not": ...}``. A field without a value fits no comparison
        and every negation; sorted by, such records come last.

        ``start`` skips records (100,000 at most); long lists go on with ``after=page.next``, at the same cost
        for every page. ``size``: 10,000 at most. ``fields``: only those. ``InvalidQuery`` says what is wrong.
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
        picked = None if fields is None else [documents.field_name(f) for f in fields]
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
                queries.unmark(after),
            ),
        )
        page = Page(Record(id, payloads.decode(data)) for id, data, _ in rows)
        if rows and len(rows) == size:
            page.next = queries.mark(rows[-1][0], rows[-1][2])
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
    ) -> list[dict[str, Any]]:
        """Figures over the records that fit, for each group: ``by=["active"], figures={"n": "count",
        "total": ("sum", "amount"), "p95": ("quantile", "amount", 0.95)}``.

        Functions: ``count`` (of records; with a field, of its values), ``distinct``, ``min``, ``max``, and of
        ``Numeric`` fields ``sum``, ``avg`` and ``quantile`` (interpolated). One row a group, sorted by it.
        """
        queries.page(0, size)
        if isinstance(by, str):
            raise InvalidQuery("by must be a list of fields")
        metrics = {name: _figure(name, aim) for name, aim in (figures or {"count": "count"}).items()}
        space = self._space(namespace)
        rows = await space._rows(
            engine.AGGREGATE,
            (space.namespace, self._entity(entity), self._tree(query), [documents.field_name(f) for f in by],
             queries.encode(metrics), size),
        )  # fmt: skip
        return [payloads.decode(row) for (row,) in rows]

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
        mark = queries.unmark(after)
        params = (space.namespace, self._entity(entity), self._tree(query), field, downwards, size, mark)
        return await space._value(engine.EXPLAIN_FIND, params)

    async def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """One SQL query of yours, over ``hotmesh_data."<entity>"`` and tables of your own; rows as dicts.

        ``%s`` and ``%(name)s`` stand for parameters. It runs in a read-only transaction under your role: what
        would change something is refused. Raises ``InvalidQuery`` with what PostgreSQL says.
        """
        payloads.text_bytes(query, "query")
        if self._reader is None:
            self._reader = AsyncConnectionPool(
                self.client.dsn, open=False, min_size=0, max_size=4, configure=_read_only,
                kwargs={"autocommit": True}, timeout=10.0, name="hotmesh-reader",
            )  # fmt: skip
            await self._reader.open()
        try:
            async with self._reader.connection() as conn, conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
                await cursor.execute(query.encode(), params, prepare=True)  # prepared: of several statements none runs
                return await cursor.fetchall() if cursor.description else []
        except (psycopg.Error, UnicodeEncodeError) as error:
            if isinstance(error, psycopg.Error) and is_connection_trouble(error) and not (error.sqlstate or "").startswith("25"):
                raise NotConnected(f"the database cannot be reached: {str(error).strip()}") from error
            found = translate(error) if isinstance(error, psycopg.Error) else error
            raise InvalidQuery(f"the query was refused: {str(found).strip()}") from error

    # ----------------------------------------------------------------------------- internal --

    def _space(self, namespace: str | None) -> Client:
        name = namespace or self.namespace
        if name not in self._spaces:
            self._spaces[name] = Client(self.client, namespace=name)
        return self._spaces[name]

    def _entity(self, entity: Any) -> str:
        name = payloads.check_name(entity, "entity")
        if ":" in name:
            raise PayloadError("entity", f"must have no colon, this is {name!r:.100}")
        return name

    def _key(self, entity: str, id: str, namespace: str | None) -> tuple[str, str, str]:
        return namespace or self.namespace, self._entity(entity), payloads.check_name(id, "id")

    def _tree(self, query: Query | str) -> str:
        return queries.encode(parse(query, self.schema) if isinstance(query, str) else conditions(query))


async def _read_only(conn: Any) -> None:
    await configure(conn)
    await conn.execute(
        "select set_config('default_transaction_read_only', 'on', false), set_config('enable_seqscan', 'on', false),"
        " set_config('plan_cache_mode', 'force_custom_plan', false)"
    )


def _hook_type(entity: str, fn: str | Callable[..., Any]) -> str:
    return f"{entity}.{fn if isinstance(fn, str) else fn.__name__}"


def _as_workflow(fn: Callable[..., Any], name: str) -> Any:
    """A plain async function, as the worker registers workflows."""

    def target(*args: Any) -> Any:
        return made.fn(*args)

    found = vars(fn).get("__hotmesh_workflow__") if hasattr(fn, "__dict__") else None
    made = found if isinstance(found, Definition) else Definition(name, fn)
    if made.fn is fn and not inspect.iscoroutinefunction(fn):
        raise TypeError(f"{name}: {fn!r:.100} must be an async function: it is workflow code")
    target.__hotmesh_workflow__ = Definition(name, made.fn)  # type: ignore[attr-defined]
    return target


def _beginning(search: Mapping[str, Any] | None) -> str | None:
    """The document of ``search={"data": {...}}``."""
    if search is None:
        return None
    if not isinstance(search, Mapping) or set(search) != {"data"} or not isinstance(search["data"], Mapping):
        raise PayloadError("search", 'must be {"data": {field: value, ...}}')
    return documents.encode(documents.fields_of(search["data"], {})).decode()


def _figure(name: str, aim: Aim) -> dict[str, Any]:
    parts = (aim,) if isinstance(aim, str) else tuple(aim)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], str):
        raise InvalidQuery(f"figure {name!r:.100} must be a function, or (function, field), not {aim!r:.100}")
    return dict(zip(("of", "field", "at"), parts, strict=False))
