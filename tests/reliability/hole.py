"""Between a client and PostgreSQL: at a word, connections go on to exist, and nothing comes through them any more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Hole:
    """Use as ``async with``; ``dsn`` leads through it. Both ends of what is swallowed see a connection that is quiet."""

    def __init__(self, dsn: str) -> None:
        self._given = conninfo_to_dict(dsn)
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._since = asyncio.Event()
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

    def swallow(self) -> None:
        """All connections that there are; those that are made later are not concerned."""
        self._since.set()
        self._since = asyncio.Event()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer, self._since))
        self.accepted += 1
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowed: asyncio.Event) -> None:
        host, port = str(self._given.get("host") or "127.0.0.1"), self._given.get("port") or 5432
        if host.startswith("/"):
            up_reader, up_writer = await asyncio.open_unix_connection(Path(host, f".s.PGSQL.{port}"))
        else:
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, up_writer}
        await asyncio.gather(_pass_on(reader, up_writer, swallowed), _pass_on(up_reader, writer, swallowed))
        self._writers -= {writer, up_writer}


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowed: asyncio.Event) -> None:
    try:
        while data := await reader.read(65536):
            if not swallowed.is_set():
                writer.write(data)
    except OSError:
        pass
    if not swallowed.is_set():
        writer.close()
