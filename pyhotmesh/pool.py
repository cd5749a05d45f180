"""The connections that clients of one database share, whatever their namespaces."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg_pool import AsyncConnectionPool

from . import direct
from .connection import PROBE, configure

CONNECT_FOR = 5.0  # seconds that one attempt waits for a connection


class _Connections(AsyncConnectionPool[Any]):
    @staticmethod
    async def check_connection(conn: Any) -> None:
        """As that of the pool, but that it does not wait for ever where nothing comes through any more."""
        async with asyncio.timeout(PROBE):
            await direct.fetch(conn, "", ())


class Pool:
    """Opened by the first that uses it, closed with the last that did; one for each event loop in which it is used."""

    def __init__(self, dsn: str, size: int) -> None:
        self._dsn = dsn
        self._size = size
        self._pools: dict[asyncio.AbstractEventLoop, AsyncConnectionPool[Any]] = {}
        self._users: dict[asyncio.AbstractEventLoop, set[object]] = {}

    async def opened(self, user: object) -> AsyncConnectionPool[Any]:
        """The pool of this event loop; ``user`` uses it from now on."""
        loop = asyncio.get_running_loop()
        self._users.setdefault(loop, set()).add(user)
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Connections(
                self._dsn, open=False, min_size=1, max_size=self._size, configure=configure,
                kwargs={"autocommit": True, "prepare_threshold": 1}, timeout=CONNECT_FOR, name="hotmesh-client",
                reconnect_timeout=5.0,
            )  # fmt: skip
            await pool.open()
        return pool

    async def leave(self, user: object) -> None:
        """``user`` uses it no more."""
        loop = asyncio.get_running_loop()
        users = self._users.get(loop, set())
        users.discard(user)
        if not users:
            self._users.pop(loop, None)
            pool = self._pools.pop(loop, None)
            if pool is not None:
                await pool.close()
