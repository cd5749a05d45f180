"""Between a client and PostgreSQL: at a word, connections go on to exist, and nothing comes through them any more."""

from __future__ import annotations

import asyncio

from bench.chaos.proxy import Between


class Hole(Between):
    """Both ends of what is swallowed see a connection that is quiet."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._swallowed = asyncio.Event()

    def swallow(self) -> None:
        """All connections that there are; those that are made later are not concerned."""
        self._swallowed.set()
        self._swallowed = asyncio.Event()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        swallowed = self._swallowed
        await asyncio.gather(_one_way(reader, up_writer, swallowed), _one_way(up_reader, writer, swallowed))


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowed: asyncio.Event) -> None:
    try:
        while data := await reader.read(65536):
            if not swallowed.is_set():
                writer.write(data)
    except OSError:
        pass
    if not swallowed.is_set():
        writer.close()
