"""A server that dies while a statement is on its way to it.

What matters is the order in which bytes, a reset and the end of a stream become visible to the client,
which a real server that is killed shows one time in fifty: hence a server of a few lines.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop

from pyhotmesh import direct
from pyhotmesh.connection import Listener

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


GREETING = message(b"R", struct.pack("!i", 0)) + b"".join(
    message(b"S", name + b"\0" + value + b"\0")
    for name, value in {b"server_version": b"18.0", b"client_encoding": b"UTF8"}.items()
)
READY = message(b"Z", b"I")
FATAL = message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to unexpected postmaster exit\0\0")
COMPLETE = message(b"C", b"LISTEN\0") + READY


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[str]:
    """DSN of a server that greets, answers each LISTEN, and at anything else says FATAL and is gone,
    what it was asked unread: the client's socket then tells of a reset besides the message."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / ".s.PGSQL.5432"))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(10_000)
                    peer.sendall(GREETING + READY)
                    while b"listen" in peer.recv(10_000, socket.MSG_PEEK):
                        peer.recv(10_000)
                        peer.sendall(COMPLETE)
                    peer.sendall(FATAL)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"postgresql://nobody@/none?host={tmp_path}&port=5432&gssencmode=disable"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def run(loop: Callable[[], asyncio.AbstractEventLoop], main: Any) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main, 10))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_dies_before_it_reads_the_statement_is_noticed(dying: str, loop: Any) -> None:
    async def main() -> None:
        conn = await psycopg.AsyncConnection.connect(dying, autocommit=True)
        with pytest.raises(psycopg.OperationalError):
            await direct.fetch(conn, "select 1", ())
        assert conn.closed

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_listener_notices_it_at_once(dying: str, loop: Any) -> None:
    """Not by its probe, which comes every 15 s."""

    async def main() -> None:
        listener = Listener(dying, lambda channel, payload: None)
        await listener.start("hotmesh_x")
        assert listener.alive
        listener._conn.pgconn.send_query(b"select 1")  # type: ignore[union-attr]
        while listener.alive:
            await asyncio.sleep(0.01)
        await listener.close()

    run(loop, main())
