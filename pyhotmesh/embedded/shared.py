"""Servers that processes share, by the DSN `embedded:`."""

from __future__ import annotations

import atexit
import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .server import EmbeddedServer
from .system import SYSTEM_DIRECTORY, EmbeddedServerError, make_directory


class _Share:
    """This process's part in a server that several processes use.

    Each user holds a shared lock on the file `users` until it exits; the kernel takes it back however
    the process dies. The file `lock` makes starts and stops wait for each other.
    """

    def __init__(self, home: Path) -> None:
        self.server = EmbeddedServer(home)
        self.home = home
        self.pid = os.getpid()
        make_directory(home)
        self._users = (home / "users").open("a")

    def attach(self) -> str:
        with self._exclusively():
            self.server.start()
            fcntl.flock(self._users, fcntl.LOCK_SH)
            return self.server.dsn

    def leave(self) -> None:
        with self._exclusively():
            try:
                # Two that leave at once cannot both fail: one gives its shared lock up first.
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self.server.stop()
            self._users.close()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        with (self.home / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_shares: dict[Path, _Share] = {}
_shares_lock = threading.Lock()


def is_embedded(dsn: str) -> bool:
    """Whether a DSN names an embedded server."""
    return dsn.startswith("embedded:")


def default_home() -> Path:
    """Where the server of `embedded:` lives: the user's data directory; for root a system's one."""
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY / "default"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pyhotmesh"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "pyhotmesh"


def resolve(dsn: str) -> str:
    """Turn an `embedded:` DSN into one that PostgreSQL's clients understand; others pass unchanged.

    The server is started if it does not run, and stays until this process and all others that
    resolved the same directory have exited.

    Raises:
        EmbeddedNotInstalled: the extra `embedded` is missing.
        EmbeddedServerError: the DSN is malformed, or the server did not start.
    """
    if not is_embedded(dsn):
        return dsn
    parts = urlsplit(dsn)
    if parts.netloc or parts.query or parts.fragment or (parts.path and not parts.path.startswith("/")):
        raise EmbeddedServerError(f"{dsn!r} should be 'embedded:' or 'embedded:///path/to/directory'")
    home = Path(unquote(parts.path)) if parts.path.strip("/") else default_home()
    home = home.resolve()
    with _shares_lock:
        share = _shares.get(home)
        if share is None or share.pid != os.getpid():  # a forked child needs a lock of its own
            if not _shares:
                atexit.register(_leave_all)
            share = _shares[home] = _Share(home)
        return share.attach()


def _leave_all() -> None:
    for share in _shares.values():
        # Whoever removed the directory has no use for the server.
        with suppress(FileNotFoundError):
            if share.pid == os.getpid():
                share.leave()
    _shares.clear()
