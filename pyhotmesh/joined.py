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
    if not isinstance(driver, AsyncConnection):
        return run(driver, query, params)
    try:
        cursor = driver.cursor()
        wire.register(cursor)
        await cursor.execute(query, params)
        return await cursor.fetchall()
    except psycopg.Error as error:
        raise translate(error) from error


def run(conn: Any, query: str, params: Sequence[Any]) -> list[Any]:
    """The same on a blocking connection or session."""
    driver = _sync_driver(conn)
    if not isinstance(driver, Connection):
        raise NotInTransaction(
            f"conn= takes a psycopg or SQLAlchemy (postgresql+psycopg) connection or session, not {type(conn).__name__}"
        )
    try:
        cursor = driver.cursor()
        wire.register(cursor)
        return cursor.execute(query, params).fetchall()
    except psycopg.Error as error:
        raise translate(error) from error


async def _driver(conn: Any) -> Any:
    """The psycopg connection underneath."""
    found = conn
    if isinstance(found, Connection | AsyncConnection):
        return found
    if not hasattr(found, "get_raw_connection") and inspect.iscoroutinefunction(getattr(found, "connection", None)):
        found = await found.connection()  # SQLAlchemy's AsyncSession
    if hasattr(found, "get_raw_connection"):  # its AsyncConnection
        found = await found.get_raw_connection()
    return _sync_driver(found)


def _sync_driver(conn: Any) -> Any:
    found = conn
    if not isinstance(found, Connection | AsyncConnection) and not hasattr(found, "driver_connection"):
        if callable(getattr(found, "connection", None)):  # SQLAlchemy's Session
            found = found.connection()
        found = getattr(found, "connection", found)
    return getattr(found, "driver_connection", found)
