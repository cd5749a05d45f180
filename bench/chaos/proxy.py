"""Between a worker and PostgreSQL: cuts the connection at a turn, before it arrives or after it was answered.

It reads just enough of the protocol (message-flow of PostgreSQL's documentation, protocol 3.0) to know a
turn: the Bind of a statement whose Parse named ``hotmesh_engine.turn``; ReadyForQuery ends its answer.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

BEFORE = "before"  # the server never sees the turn
AFTER = "after"  # the turn has committed; its answer is lost

Decide = Callable[[int], str | None]


class Between:
    """Stands between clients and PostgreSQL. Use as ``async with``; ``dsn`` leads through it."""

    def __init__(self, dsn: str) -> None:
        self._given = conninfo_to_dict(dsn)
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        options: dict[str, Any] = {"hostaddr": None, "sslmode": "disable", "gssencmode": "disable"}
        self.dsn = make_conninfo(**self._given | options | {"host": "127.0.0.1", "port": port})
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await asyncio.gather(*self._serving)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._given.get("host") or "127.0.0.1"), self._given.get("port") or 5432
        if host.startswith("/"):
            up_reader, up_writer = await asyncio.open_unix_connection(Path(host, f".s.PGSQL.{port}"))
        else:
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, up_writer}
        await self._pass_on(reader, writer, up_reader, up_writer)
        for end in (writer, up_writer):
            end.close()
            self._writers.discard(end)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        """One connection, until both of its ends are to be closed."""
        raise NotImplementedError


class Proxy(Between):
    """``decide(n)``: what happens to the n-th turn, from 1."""

    def __init__(self, dsn: str, decide: Decide) -> None:
        super().__init__(dsn)
        self._decide = decide
        self.turns = 0
        self.cuts = {BEFORE: 0, AFTER: 0}

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        link = _Link()
        ways = [
            asyncio.create_task(self._requests(reader, up_writer, link)),
            asyncio.create_task(self._answers(up_reader, writer, link)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        """To the server, until the end or a cut."""
        size = await reader.readexactly(4)  # the start-up packet has no type
        writer.write(size + await reader.readexactly(struct.unpack(">I", size)[0] - 4))
        while True:
            kind, body = await _message(reader)
            if kind == b"P":
                name, query = body[4:].split(b"\0", 2)[:2]
                if b"hotmesh_engine.turn(" in query:
                    link.turns.add(name)
            elif kind == b"B" and body[4:].split(b"\0", 2)[1] in link.turns:
                self.turns += 1
                side = self._decide(self.turns)
                if side is not None:
                    self.cuts[side] += 1
                if side == BEFORE:
                    return
                link.cut = side == AFTER
            writer.write(kind + body)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        """To the worker, until the end or a cut."""
        while True:
            kind, body = await _message(reader)
            if not link.cut:
                writer.write(kind + body)
                await writer.drain()
            elif kind == b"Z":
                return


class _Link:
    """One connection: its statements that are turns, and whether its next answer is to be lost."""

    def __init__(self) -> None:
        self.turns: set[bytes] = set()
        self.cut = False


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """A message: its type, and its length and content."""
    head = await reader.readexactly(5)
    return head[:1], head[1:] + await reader.readexactly(struct.unpack(">I", head[1:])[0] - 4)
