"""One statement over a psycopg connection with as little between it and libpq as possible.

psycopg waits for a socket with an event, a task and a timer of asyncio's, each time; that is a good half
of the client's part of a short call (measured: 90 µs of 160 with uvloop). Here a reader callback feeds
libpq, and nothing else runs until the result is there. Adaptation, loading and errors are psycopg's.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result

# Seconds within which there is an answer, or there will be none: the server gives a statement up after 30 (see
# connection.py), and tells. If what lies between hangs it cannot, and keepalives are answered all the same.
ANSWER = 35.0

_FORMATS = {"%b": PyFormat.BINARY, "%s": PyFormat.AUTO}


@lru_cache(maxsize=512)
def _parse(query: str) -> tuple[bytes, tuple[PyFormat, ...]]:
    """The query with $n in place of its placeholders, and their formats."""
    formats: list[PyFormat] = []

    def number(match: re.Match[str]) -> str:
        formats.append(_FORMATS[match[0]])
        return f"${len(formats)}"

    return re.sub(r"%[bs]", number, query).encode(), tuple(formats)


async def fetch(conn: AsyncConnection[Any], query: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Runs a statement (prepared once a connection) and returns its rows; errors as psycopg raises them."""
    text, formats = _parse(query)
    transformer = conn.__dict__.get("_hotmesh_transformer")  # it knows how to dump and load what it has met
    if transformer is None:
        transformer = conn.__dict__["_hotmesh_transformer"] = Transformer(conn)
        _watch_over(asyncio.get_running_loop(), weakref.ref(conn), None)
    async with conn.lock:
        pgconn = conn.pgconn
        if pgconn.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError("the connection is closed")
        values = transformer.dump_sequence(params, formats)
        types, sent = transformer.types, transformer.formats
        prepared: dict[tuple[bytes, Any], bytes] = conn.__dict__.setdefault("_hotmesh_prepared", {})
        key = text, types
        name = prepared.get(key)
        if name is not None:
            pgconn.send_query_prepared(name, values, sent, pq.Format.BINARY)
            try:
                result = await _result(conn, pgconn)
            except psycopg.errors.InvalidSqlStatementName:  # discarded, by a query in SQL; nothing has been executed
                prepared.clear()
                name = None
        if name is None:
            name = f"hotmesh_{len(prepared)}".encode()
            pgconn.send_prepare(name, text, types)
            await _result(conn, pgconn)
            prepared[key] = name
            pgconn.send_query_prepared(name, values, sent, pq.Format.BINARY)
            result = await _result(conn, pgconn)
    transformer.set_pgresult(result)
    rows: list[tuple[Any, ...]] = transformer.load_rows(0, result.ntuples, tuple)
    transformer.set_pgresult(None)  # it would be kept until the next one
    return rows


def abandon(conn: AsyncConnection[Any], why: str = "the connection was given up") -> None:
    """Ends a connection on which a statement may be running: who waits for that gets an error, as if the server had gone."""
    waiting = conn.__dict__.get("_hotmesh_waiting")
    if waiting is not None and not waiting.done():
        waiting.set_exception(psycopg.OperationalError(why))
    else:
        conn.pgconn.finish()


def _watch_over(
    loop: asyncio.AbstractEventLoop, ref: weakref.ref[AsyncConnection[Any]], before: asyncio.Future[Any] | None
) -> None:
    """Gives a connection up whose statement was waiting at the look before already. A timer for each connection, as one
    for each statement would cost every one of them."""
    conn = ref()
    if conn is None or conn.closed:
        return
    waiting: asyncio.Future[Any] | None = conn.__dict__.get("_hotmesh_waiting")
    if waiting is not None and waiting is before and not waiting.done():
        abandon(conn, f"there is no answer since {ANSWER:g} s")
    else:
        loop.call_later(ANSWER, _watch_over, loop, ref, waiting)


def watch_on(loop: asyncio.AbstractEventLoop, socket: int, callback: Callable[[], None]) -> None:
    """Has ``callback`` called when there is more to read; for use by a reader that has just read.

    uvloop's reader is called once, and then never again, by a socket that reports an error. A server
    that is killed with a statement unread gives its last words and a reset at once: whoever only reads
    the words would wait for the end for ever.
    """
    loop.remove_reader(socket)
    loop.add_reader(socket, callback)


async def _result(conn: AsyncConnection[Any], pgconn: Any) -> Any:
    """Waits for the result of what was sent; raises its error."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    conn.__dict__["_hotmesh_waiting"] = done
    results: list[Any] = []
    socket = pgconn.socket

    def readable() -> None:
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    if not done.done():
                        done.set_result(None)
                    return
                results.append(result)
            watch_on(loop, socket, readable)
        except BaseException as error:
            if not done.done():
                done.set_exception(error)

    def writable() -> None:
        try:
            if not pgconn.flush():
                loop.remove_writer(socket)
        except BaseException as error:
            if not done.done():
                done.set_exception(error)

    loop.add_reader(socket, readable)
    try:
        if pgconn.flush():
            loop.add_writer(socket, writable)
        await done
    except BaseException:
        # The answer will not be read: the connection is of no more use, and its outcome unknown.
        loop.remove_reader(socket)
        loop.remove_writer(socket)
        pgconn.finish()
        raise
    loop.remove_reader(socket)
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise error_from_result(result, encoding=conn.info.encoding)
    return results[-1]
