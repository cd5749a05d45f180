"""The connection that turns go over: made when it is needed, its statements planned before the first turn.

One that breaks stays broken until it is closed, whoever notices it: the worker has to adopt what it holds before it goes
on over another, as the server may have lost, or made, what this worker knows otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from . import direct, engine
from .connection import connect
from .engine import Capacity, TaskEnd
from .held import Held
from .runs import Parcel

Rows = list[tuple[Any, ...]]


class Line:
    """One connection at a time; statements on it wait for each other."""

    def __init__(self, dsn: str, held: Held) -> None:
        self._dsn = dsn
        self._held = held
        self._conn: AsyncConnection[Any] | None = None
        self._connecting = asyncio.Lock()
        self._warm: AsyncConnection[Any] | None = None  # the connection that has planned its statements

    async def _connected(self) -> AsyncConnection[Any]:
        async with self._connecting:
            if self._conn is None:
                self._conn = await connect(self._dsn)
            return self._conn

    async def fetch(self, query: str, params: Sequence[Any]) -> Rows:
        return await direct.fetch(await self._connected(), query, params)

    async def turn(self, capacity: Capacity, closed: Sequence[int], parcels: Sequence[Parcel], ends: Sequence[TaskEnd]) -> Rows:
        if self._warm is not (conn := await self._connected()):
            self._warm = conn  # tried once: it may meet what routing fails on, as the turn will
            await self.fetch(engine.WARM_UP, (self._held.worker_id,))
        return await self.fetch(*engine.turn_call(self._held.worker_id, capacity, closed, parcels, ends))

    async def apart(self, query: str, params: Sequence[Any]) -> Rows:
        """A statement that may take long, on a connection of its own."""
        conn = await connect(self._dsn)
        try:
            return await direct.fetch(conn, query, params)
        finally:
            await conn.close()

    def fail(self) -> None:
        """As if it had broken: whoever uses it, now or next, gets an error, and adopts."""
        if self._conn is not None:
            direct.abandon(self._conn)

    async def close(self) -> None:
        conn = self._conn
        if conn is not None:
            direct.abandon(conn)
            async with conn.lock:  # whoever waited has let go of the socket, whose number the next one may get
                await conn.close()
            if self._conn is conn:
                self._conn = None
