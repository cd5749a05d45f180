"""Connections: what the engine needs of one, and which errors mean what.

Every engine connection decides for itself what a role or database may have set otherwise:
isolation (functions that match messages with receivers need READ COMMITTED), timeouts, and a
``synchronous_commit`` that is at least ``on``. A connection that died half open is noticed within
seconds on both sides; the server would otherwise keep its locks for hours. One that carries nothing although
both ends are there, as of a proxy that hangs, is given up after a minute (``direct.ANSWER``).

Plans must not hang on statistics: the tables are empty one minute and hold a million rows the next, and
what is right is always the index. Hence generic plans (a custom one for each call cost 1.0 of the 1.3 ms
of a closing turn) and no sequential scans.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from . import direct, wire
from .errors import HotMeshError, NotConnected, from_sqlstate

log = logging.getLogger("pyhotmesh")

STATEMENT_TIMEOUT = "30s"
LOCK_TIMEOUT = "10s"
PROBE_EVERY = 15.0  # seconds between two questions whether a quiet connection is there at all
PROBE = 5.0  # that one waits for the answer

_SETTINGS = """
select set_config('default_transaction_isolation', 'read committed', false),
       set_config('default_transaction_read_only', 'off', false),
       set_config('statement_timeout', %s, false),
       set_config('lock_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', '5s', false),
       set_config('client_connection_check_interval', '1s', false),
       set_config('tcp_keepalives_idle', '3', false), set_config('tcp_keepalives_interval', '1', false),
       set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '5s', false),
       set_config('jit', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false),
       set_config('synchronous_commit',
         case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end,
         false),
       set_config('application_name', 'pyhotmesh', false)
"""
_FROM_17 = "select set_config('transaction_timeout', %s, false)"

# Classes of SQLSTATE that tell of the connection or the server, not of what was asked.
_SERVER_TROUBLE = ("08", "53", "57", "58", "25")

# Nothing has happened, as somebody was in the way: a lock (also of a name that an open transaction is the first to
# use), a deadlock, a serialization failure.
IN_THE_WAY = ("HM007", "55P03", "40P01", "40001")

# What servers and pgbouncer say to those who will never get in: 3D000, 28P01, 28000, 42501. By their words,
# since libpq does not tell the SQLSTATE of a connection that failed; where they are not English, the server
# counts as one that is away.
_REFUSED = re.compile(
    r'(database|role) ".*" does not exist|is not permitted to log in|authentication failed for user|no password supplied'
    r"|no pg_hba\.conf entry|pg_hba\.conf rejects|permission denied for database|no such (database|user)"
)


def conninfo(dsn: str | None) -> str:
    """The DSN to use: the given one, else ``HOTMESH_DATABASE_URL``; ``embedded:`` starts a server."""
    dsn = dsn or os.environ.get("HOTMESH_DATABASE_URL")
    if not dsn:
        raise NotConnected(
            "no database given: pass a DSN such as postgresql://user:password@host:5432/db, or set HOTMESH_DATABASE_URL"
        )
    if dsn.startswith("embedded:"):
        from .embedded import resolve

        dsn = resolve(dsn)
    if dsn.startswith("postgresql+"):  # as SQLAlchemy writes it
        dsn = "postgresql" + dsn[dsn.index(":") :]
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise NotConnected(f"this is not a DSN that PostgreSQL understands: {error}") from None
    defaults = {
        "client_encoding": "utf8",
        "connect_timeout": "10",
        "keepalives_idle": "3",
        "keepalives_interval": "1",
        "keepalives_count": "3",
        "tcp_user_timeout": "5000",
    }
    return make_conninfo(dsn, **{k: v for k, v in defaults.items() if k not in given})


async def connect(dsn: str) -> AsyncConnection[Any]:
    """An engine connection: autocommit, prepared statements, the settings above."""
    conn = await AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=1)
    await configure(conn)
    return conn


async def configure(conn: AsyncConnection[Any]) -> None:
    if not conn.autocommit:
        await conn.set_autocommit(True)
    wire.register(conn)
    await conn.execute(_SETTINGS, (STATEMENT_TIMEOUT, LOCK_TIMEOUT))
    if conn.info.server_version >= 170000:
        await conn.execute(_FROM_17, (STATEMENT_TIMEOUT,))


def connect_sync(dsn: str) -> Connection[Any]:
    """The same for threads and blocking programs."""
    conn = Connection.connect(dsn, autocommit=True, prepare_threshold=1)
    wire.register(conn)
    conn.execute(_SETTINGS, (STATEMENT_TIMEOUT, LOCK_TIMEOUT))
    if conn.info.server_version >= 170000:
        conn.execute(_FROM_17, (STATEMENT_TIMEOUT,))
    return conn


def is_connection_trouble(error: BaseException) -> bool:
    """Whether the outcome of the statement is unknown, or the server could not take it."""
    if not isinstance(error, psycopg.Error):
        return isinstance(error, OSError | asyncio.TimeoutError)
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _SERVER_TROUBLE


def refusal(error: BaseException) -> NotConnected | None:
    """The error to raise if an attempt to connect failed for good: the DSN or the server's roles are wrong.

    Only who has never been connected should raise it: later, a server may say the same while it is being mended.
    """
    if not isinstance(error, psycopg.OperationalError) or not _REFUSED.search(str(error)):
        return None
    return NotConnected(
        f"the database refuses the connection: {str(error).strip()}",
        hint="check database, user and password in the DSN, and what pg_hba.conf says of them",
    )


def translate(error: psycopg.Error) -> HotMeshError | psycopg.Error:
    """The engine's errors (class HM) as this package's; anything else stays what it is."""
    state = error.sqlstate
    if state == "3F000" or (state in ("42883", "42P01") and "hotmesh" in str(error)):
        state = "HM006"
    if state is None or not state.startswith("HM"):
        return error
    diag = error.diag
    return from_sqlstate(state, diag.message_primary or str(error), diag.message_detail, diag.message_hint)


class Listener:
    """One LISTEN connection: calls ``heard(channel, payload)``; reconnects by itself.

    ``alive`` tells whether notifications can be hoped for; who relies on them polls as well.
    """

    def __init__(self, dsn: str, heard: Callable[[str, str], None]) -> None:
        self._dsn = dsn
        self._heard = heard
        self._channels: set[str] = set()
        self._presence: int | None = None
        self._conn: AsyncConnection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self.alive = False
        self.lives = 0  # connections there have been

    async def start(self, *channels: str, presence: int | None = None) -> None:
        """``presence``: an advisory lock that is held while this connection lives (see give.sql)."""
        self._channels.update(channels)
        self._presence = presence
        try:
            await self._connect()
        finally:
            self._task = asyncio.create_task(self._run(), name="hotmesh-listener")

    @property
    def started(self) -> bool:
        return self._task is not None

    async def replace(self, channel: str, presence: int) -> None:
        """Listens to this channel instead of a worker's before (and still to hotmesh_all and hotmesh_0)."""
        self._channels = {"hotmesh_all", "hotmesh_0", channel}
        self._presence = presence
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._conn is not None:
            await self._conn.close()
            self._conn = None
        self._task = asyncio.create_task(self._run(), name="hotmesh-listener")

    async def _connect(self) -> None:
        conn = await AsyncConnection.connect(self._dsn, autocommit=True)
        for channel in sorted(self._channels):
            await conn.execute(f'listen "{channel}"')
        if self._presence is not None:
            await conn.execute("select pg_advisory_lock(%s)", (self._presence,))
        self._conn = conn
        self.alive = True
        self.lives += 1

    async def _run(self) -> None:
        delay = 0.05
        while True:
            try:
                if self._conn is None or self._conn.closed:
                    await self._connect()
                    self._heard("hotmesh_all", "")  # something may have been missed
                delay = 0.05
                assert self._conn is not None
                await self._listen(self._conn)
            except (psycopg.Error, OSError):
                self.alive = False
                if self._conn is not None:
                    await self._conn.close()
                    self._conn = None
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def _listen(self, conn: AsyncConnection[Any]) -> None:
        """Hands on notifications until the connection breaks.

        A reader callback, not psycopg's generator: between a notification and its hearer stand 20 µs
        instead of 120. Now and then a probe, since a half-open connection looks like a quiet one.
        """
        loop = asyncio.get_running_loop()
        socket, broken = conn.fileno(), loop.create_future()

        def readable() -> None:
            try:
                conn.pgconn.consume_input()
                while (note := conn.pgconn.notifies()) is not None:
                    self._heard(note.relname.decode(), note.extra.decode())
                direct.watch_on(loop, socket, readable)
            except (psycopg.Error, OSError) as error:
                loop.remove_reader(socket)
                if not broken.done():
                    broken.set_exception(error)

        conn.add_notify_handler(lambda note: self._heard(note.channel, note.payload))
        while not conn.closed:
            loop.add_reader(socket, readable)
            try:
                async with asyncio.timeout(PROBE_EVERY):
                    await asyncio.shield(broken)
            except asyncio.TimeoutError:
                if broken.done():
                    raise
            finally:
                if not conn.closed:
                    loop.remove_reader(socket)
            async with asyncio.timeout(PROBE):
                await direct.fetch(conn, "", ())  # psycopg's own would first ask the server to cancel it, and wait
            readable()  # what came with the answer

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._conn is not None:
            await self._conn.close()
        self.alive = False
