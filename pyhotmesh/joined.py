"""``conn=``: calls that join a transaction of the caller's and never commit it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection

from . import wire
from .connection import translate
from .errors import NotInTransaction


async def execute(conn: Any, query: str, params: Sequence[Any]) -> list[Any]:
    """Runs an engine call on a psycopg or SQLAlchemy connection or session, sync or async."""
    driver = await _driver(conn)
    try:
        if isinstance(driver, AsyncConnection):
            async_cursor = driver.cursor()
            wire.register(async_cursor)
            await async_cursor.execute(query, params)
            return await async_cursor.fetchall()
        return execute_sync(driver, query, params)
    except psycopg.Error as error:
        raise translate(error) from error


def execute_sync(driver: Any, query: str, params: Sequence[Any]) -> list[Any]:
    """The same on a blocking psycopg connection."""
    if not isinstance(driver, Connection):
        raise NotInTransaction(
            f"conn= takes a psycopg or SQLAlchemy (postgresql+psycopg) connection or session, not {type(driver).__name__}"
        )
    cursor = driver.cursor()
    wire.register(cursor)
    return cursor.execute(query, params).fetchall()


async def _driver(conn: Any) -> Any:
    """The psycopg connection underneath."""
    if isinstance(conn, Connection | AsyncConnection):
        return conn
    found = conn
    if hasattr(found, "connection") and callable(found.connection):  # a session
        found = found.connection()
        if inspect.isawaitable(found):
            found = await found
    if hasattr(found, "get_raw_connection"):  # SQLAlchemy, async
        found = await found.get_raw_connection()
    elif hasattr(found, "connection"):  # SQLAlchemy, sync
        found = found.connection
    return getattr(found, "driver_connection", found)
