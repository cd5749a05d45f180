"""One server, from its data directory to its end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote

from .binaries import major_version, usable_binaries, wheel_binaries
from .system import EmbeddedServerError, as_account, is_zombie, make_directory, server_account

StopMode = Literal["smart", "fast", "immediate", "kill"]

PORT: Final = 5432  # part of the socket's name only; nothing listens on TCP
_STOP_SIGNALS: Final[Mapping[StopMode, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}
# The longest directory in which a socket's address (103 bytes at least everywhere) has room.
_SOCKET_DIRECTORY_LIMIT: Final = 103 - len(f"/.s.PGSQL.{PORT}")
_POLL: Final = 0.01
# Why a server may not start now, but soon: backends of a killed one live on until they notice, and
# PostgreSQL rightly waits for the last of them; or another process is starting it.
_PASSING: Final = ("pre-existing shared memory block", 'lock file "postmaster.pid"')


class EmbeddedServer:
    """A PostgreSQL server that this program starts and stops.

    Args:
        home: directory of the server: its data, log and lock. Made if missing. Without it a
            temporary one is used and removed when the `with` block ends (or by `remove`).
        bindir: where `initdb` and `postgres` are; the extra `embedded` without it.
        settings: server settings, for example `{"fsync": "off"}`. Those of an earlier start are
            not remembered.
        timeout: seconds that a start or a stop may take.

    As a context manager it starts the server and stops it at the end.
    """

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        bindir: str | Path | None = None,
        settings: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.home = Path(home).absolute() if home is not None else None
        self.settings = dict(settings or {})
        self.timeout = timeout
        self._temporary = home is None
        self._wanted_bindir = Path(bindir) if bindir is not None else None
        self._sockets: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------------------- its state --

    @property
    def pgdata(self) -> Path:
        """The data directory."""
        return self._directory() / "pgdata"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._directory() / "server.log"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, else None."""
        found = self._postmaster()
        return found[0] if found else None

    @property
    def running(self) -> bool:
        """Whether the server accepts connections, whoever started it."""
        return self.pid is not None

    @property
    def dsn(self) -> str:
        """DSN of the database `postgres`, as the superuser `postgres`."""
        return self.dsn_for("postgres")

    def dsn_for(self, database: str) -> str:
        """DSN of a database of this server, as the superuser `postgres`. It outlives a restart."""
        host = quote(str(self._socket_directory()), safe="")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port={PORT}"

    # ----------------------------------------------------------------------------- start, stop --

    def start(self) -> Self:
        """Start the server and wait until it accepts connections; nothing if it already does.

        Raises:
            EmbeddedServerError: it did not start; the message ends with the end of its log.
        """
        if self.running:
            return self
        make_directory(self._directory())
        account = server_account(self.pgdata)
        bindir = usable_binaries(self._wanted_bindir or wheel_binaries(), account)
        if not (self.pgdata / "PG_VERSION").exists():
            self._initialise(bindir, account)
        command = [str(bindir / "postgres"), "-D", str(self.pgdata), "-p", str(PORT)]
        for name, value in self._all_settings(account).items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + self.timeout
        while (refusal := self._launch(command, account, deadline)) is not None:
            if not any(reason in refusal for reason in _PASSING) or time.monotonic() > deadline:
                raise EmbeddedServerError(f"PostgreSQL did not start in {self.pgdata}:\n{refusal}")
            time.sleep(0.1)
            if self.pid is not None:  # another process has started it
                break
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait for its end; nothing if it does not run.

        `smart` waits for all clients, `fast` disconnects them, `immediate` leaves recovery to the
        next start, and `kill` is SIGKILL, as if the machine's out-of-memory killer had come.
        """
        self._end(_STOP_SIGNALS[mode])
        self._drop_sockets()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server as `stop` does, and start it again under the same DSN."""
        self._end(_STOP_SIGNALS[mode])
        self.start()

    def kill(self) -> None:
        """Kill the server with SIGKILL; `start` recovers its data. The DSN stays the same."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Stop the server and delete its directory with all data."""
        self.stop("immediate")
        if self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)
            if self._temporary:
                self.home = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            if self._temporary:
                self.remove()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._temporary:
            self.remove()
        else:
            self.stop()

    # --------------------------------------------------------------------------------- inside --

    def _directory(self) -> Path:
        if self.home is None:
            self.home = Path(tempfile.mkdtemp(prefix="hotmesh-"))
            if os.geteuid() == 0:
                self.home.chmod(0o755)  # the server's account must get through; pgdata is closed
        return self.home

    def _initialise(self, bindir: Path, account: pwd.struct_passwd | None) -> None:
        """Run initdb beside the final place: one that was interrupted leaves no half-made data."""
        fresh = self.pgdata.with_name("pgdata.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if account is not None:
            os.chown(fresh, account.pw_uid, account.pw_gid)
        command = [str(bindir / "initdb"), "-D", str(fresh), "-U", "postgres"]
        command += ["--auth=trust", "--encoding=UTF8", "--no-instructions"]
        # Text that sorts and folds alike on every machine.
        if major_version(bindir, account) >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        else:
            command += ["--locale=C", "--lc-ctype=C.UTF-8"]  # glibc's
        if self.settings.get("fsync") == "off":
            command += ["--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, **as_account(account))
        if done.returncode != 0 and "--lc-ctype=C.UTF-8" in command:  # the system may have no such locale: then ASCII is folded
            command.remove("--lc-ctype=C.UTF-8")
            done = subprocess.run(command, capture_output=True, text=True, **as_account(account))
        if done.returncode != 0:
            who = f" (as {account.pw_name}, who must be able to reach it)" if account else ""
            raise EmbeddedServerError(f"initdb failed in {fresh}{who}:\n{done.stderr or done.stdout}")
        fresh.rename(self.pgdata)

    def _all_settings(self, account: pwd.struct_passwd | None) -> dict[str, str]:
        sockets = self._socket_directory()
        if account is not None and sockets != self.pgdata:
            os.chown(sockets, account.pw_uid, account.pw_gid)
        return {
            "listen_addresses": "",
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            **self.settings,
            "unix_socket_directories": str(sockets),
        }

    def _socket_directory(self) -> Path:
        """Where the socket is, or will be: in the data directory if its path is short enough."""
        if self._sockets is None:
            if (found := self._postmaster()) is not None:
                self._sockets = found[1]
            elif len(os.fsencode(self.pgdata)) <= _SOCKET_DIRECTORY_LIMIT:
                self._sockets = self.pgdata
            else:
                base = tempfile.gettempdir()
                if len(os.fsencode(base)) > _SOCKET_DIRECTORY_LIMIT - 20:
                    base = "/tmp"
                self._sockets = Path(tempfile.mkdtemp(prefix="hotmesh-", dir=base))
        return self._sockets

    def _drop_sockets(self) -> None:
        if self._sockets is not None and self._sockets != self.pgdata:
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets = None

    def _launch(self, command: list[str], account: pwd.struct_passwd | None, deadline: float) -> str | None:
        """Start the server once. Returns None when it is ready, else what its log says."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **as_account(account))
        while time.monotonic() < deadline:
            # Of this process, not a left-over of the server before (see _postmaster).
            if (found := self._postmaster()) is not None and found[0] == self._process.pid:
                return None
            if self._process.poll() is not None:
                break
            time.sleep(_POLL)
        else:
            self._process.kill()
            self._process.wait()
        said = self.log.read_bytes()[begin:].decode(errors="replace")
        return "\n".join(said.splitlines()[-20:]) or "it said nothing"

    def _postmaster(self) -> tuple[int, Path] | None:
        """Process id and socket directory of the server of this data directory, if it is ready."""
        if self.home is None:
            return None
        try:
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
        except OSError:
            return None
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        # The file may be left from a crash. Its process id may belong to another program by now, so
        # the socket is asked; and the socket may be held for a moment by a backend that was forked
        # just before the server was killed (often by the very question), so the process is looked for.
        pid = int(lines[0])
        if not self._alive(pid):
            return None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(f"{lines[4]}/.s.PGSQL.{lines[3]}")
            except OSError:
                return None
        return pid, Path(lines[4])

    def _end(self, how: signal.Signals) -> None:
        pid = self.pid
        if pid is None and self._process is not None and self._process.poll() is None:
            pid = self._process.pid  # still starting, or already stopping
        if pid is None:
            return
        deadline = time.monotonic() + self.timeout
        os.kill(pid, how)
        while self._alive(pid):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"PostgreSQL (process {pid}) did not stop within {self.timeout:g} s")
            time.sleep(_POLL)
        self._process = None

    def _alive(self, pid: int) -> bool:
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        # Another process started it. One that has ended may stay a zombie where nobody waits for
        # orphans (as process 1 of many containers), so a clean end shows in the pid file.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another account's
            return True
        return (self.pgdata / "postmaster.pid").exists() and not is_zombie(pid)
