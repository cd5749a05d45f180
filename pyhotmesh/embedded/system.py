"""What the server needs of the operating system: an account, directories, processes."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any, Final

from ..errors import HotMeshError

# What root uses: its home directory is closed to the account that the server runs as.
SYSTEM_DIRECTORY: Final = Path("/var/lib/pyhotmesh")


class EmbeddedServerError(HotMeshError):
    """The private server could not be set up, started or stopped; the message says why."""

    code = "HM060"


def server_account(pgdata: Path) -> pwd.struct_passwd | None:
    """The account that the server runs as if it cannot be ours (root), else None."""
    if os.geteuid() != 0:
        return None
    if pgdata.exists() and (owner := pgdata.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedServerError(
        "PostgreSQL cannot run as root, and there is neither an account 'postgres' nor 'nobody' to run it as"
    )


def make_directory(path: Path) -> None:
    """Make a directory and those above it; root's are open to the server's account, ours are not."""
    for missing in (*reversed(path.parents), path):
        if not missing.exists():
            missing.mkdir(exist_ok=True)
            missing.chmod(0o755 if os.geteuid() == 0 else 0o700)


def as_account(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments for subprocess: that account, no terminal, and no PG* variables of the user's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    arguments: dict[str, Any] = {
        "cwd": "/",
        "env": {**environment, "LC_ALL": "C"},
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,  # Ctrl-C in the terminal is for the program, not for its server
    }
    if account is not None:
        arguments |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return arguments


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has asked for its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
