"""Makes what a schema declares: entries of the engine, real indexes, a view.

An entity gets a table of its own if it has few records yet (``own_table``). The engine says which indexes it should
have and has (``index_plan``; in a shared table each with its statistics); here they are built one after another,
CONCURRENTLY, on a connection of their own: writers never wait. One process at a time builds; the others try for the
lock again and again, because a statement that waited would hold a snapshot, for which the build would wait in
turn. Then they find that all is there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from .. import engine
from ..connection import connect, is_connection_trouble, translate
from ..errors import NotConnected
from .query import encode
from .schema import Schema

Plan = list[tuple[str, str, str, str, bool]]
_PATIENCE = 0.05  # seconds between looks for the lock
_RETRY_FOR = 30.0  # seconds that it begins again while the database cannot be reached


@dataclass(frozen=True)
class IndexReport:
    """What ``create_search_index`` found and did: names of indexes."""

    created: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()  # left over by an attempt that did not end
    kept: tuple[str, ...] = ()
    would_drop: tuple[str, ...] = ()  # statements: no field of this schema asks for these indexes and statistics any more
    shared: str | None = None  # why the entity's records lie among those of others; None: in a table of their own


async def create(dsn: str, namespace: str, entity: str, schema: Schema) -> IndexReport:
    """See ``MeshData.create_search_index``. Begins again if the connection is lost, for 30 s; not if somebody cancels it."""
    deadline = time.monotonic() + _RETRY_FOR
    while True:
        try:
            return await _create(dsn, namespace, entity, schema)
        except (psycopg.Error, OSError) as error:
            cancelled = isinstance(error, psycopg.errors.QueryCanceled)  # by a person, whom it is in the way
            if isinstance(error, psycopg.Error) and (cancelled or not is_connection_trouble(error)):
                raise translate(error) from error
            if time.monotonic() > deadline:
                raise NotConnected(f"the database cannot be reached: {str(error).strip()}") from error
            await asyncio.sleep(0.5)


async def _create(dsn: str, namespace: str, entity: str, schema: Schema) -> IndexReport:
    conn = await connect(dsn)
    try:
        await conn.execute("select set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)")
        if conn.info.server_version >= 170000:
            await conn.execute("select set_config('transaction_timeout', '0', false)")
        entity_id = (await _rows(conn, engine.DECLARE_ENTITY, (namespace, entity, encode(schema.declaration()))))[0][0]
        if _unready(await _plan(conn, entity_id, schema)):
            await _lock(conn)
        shared = (await _rows(conn, engine.OWN_TABLE, (entity_id,)))[0][0]
        plan = await _plan(conn, entity_id, schema)
        created: list[str] = []
        repaired: list[str] = []
        if _unready(plan):
            await _lock(conn)  # where records have moved just now, it is not held yet
            plan = await _plan(conn, entity_id, schema)
            for name, state, build, remove, is_index in plan:
                if state == "invalid":
                    await conn.execute(remove.encode())
                if state in ("missing", "invalid"):
                    await conn.execute(build.encode())
                    if is_index:
                        (created if state == "missing" else repaired).append(name)
            # Not before autovacuum comes by would PostgreSQL know what the values are like.
            table = (await _rows(conn, engine.TABLE_OF, (entity_id,)))[0][0]
            await conn.execute(f"analyze {table}".encode())
        await conn.execute(engine.MAKE_VIEW, (entity_id,))
    finally:
        await conn.close()
    return IndexReport(
        tuple(created), tuple(repaired), tuple(name for name, state, _, _, is_index in plan if state == "ready" and is_index),
        tuple(remove for _, state, _, remove, _ in plan if state == "unused"), shared,
    )  # fmt: skip


def _unready(plan: Plan) -> bool:
    return any(state in ("missing", "invalid") for _, state, *_ in plan)


async def _lock(conn: Any) -> None:
    """That of the one who builds, until the connection ends."""
    while not (await _rows(conn, engine.LOCK_INDEXES, ()))[0][0]:  # noqa: ASYNC110
        await asyncio.sleep(_PATIENCE)


async def _plan(conn: Any, entity_id: int, schema: Schema) -> Plan:
    rows: Plan = await _rows(conn, engine.INDEX_PLAN, (entity_id, encode(schema.declaration()), encode(schema.together)))
    return rows


async def _rows(conn: Any, query: str, params: tuple[Any, ...]) -> list[Any]:
    cursor = await conn.execute(query, params)
    rows: list[Any] = await cursor.fetchall()
    return rows
