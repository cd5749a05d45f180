"""The schema in the database: upgrade, downgrade, compare, and the command that freezes a revision.

`sql/` holds the current source, a file a domain. A revision in `migrations/versions` is immutable:
it applies frozen copies (`migrations/frozen/<revision>`) of the domain files that it changed. Both
ship in the wheel, inside the package. Developers freeze with `make freeze REV=0002`.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy
from alembic import command, context, op
from alembic.config import Config
from alembic.script import ScriptDirectory

from .connection import conninfo
from .errors import HotMeshError

# The domain files in the order in which they are applied. `tables.sql` holds what is created once
# and altered by hand in later revisions; all others only `create or replace`.
DOMAINS: Final = (
    "tables.sql",
    "time.sql",
    "names.sql",
    "wake.sql",
    "give.sql",
    "start.sql",
    "close.sql",
    "records.sql",
    "indexes.sql",
    "searching.sql",
    "route.sql",
    "claim.sql",
    "tasks.sql",
    "turn.sql",
    "workers.sql",
    "tend.sql",
    "aside.sql",
    "cron.sql",
    "cron_read.sql",
    "schedule_spec.sql",
    "schedules.sql",
    "firing.sql",
    "signals.sql",
    "results.sql",
    "calls.sql",
    "invariants.sql",
    "views.sql",
)
TABLES: Final = DOMAINS[0]
VERSION_SCHEMA: Final = "hotmesh_migration"
LOCK: Final = 0x686F746D657368  # 'hotmesh', the advisory lock that upgrades wait for
_SNAPSHOT: Final = "schema.snapshot"
_CHECKSUMS: Final = "checksums"
_RELEASED: Final = "released"


def _shipped(name: str) -> Path:
    """A directory of the distribution: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / f"_{name}"
    return installed if installed.exists() else package.parent / name


SQL: Final = _shipped("sql")
MIGRATIONS: Final = _shipped("migrations")
FROZEN: Final = MIGRATIONS / "frozen"


class MigrationError(HotMeshError):
    """A migration could not be carried out; the message names the file and line of the SQL."""

    code = "HM070"


# ------------------------------------------------------------------------------------- for users --


def upgrade(dsn: str | None = None, revision: str = "head") -> None:
    """Bring a database to a revision, in one transaction. Nothing happens if it is there already.

    Concurrent upgrades wait for each other. `dsn` defaults to HOTMESH_DATABASE_URL.

    Raises:
        MigrationError: the database refused it and is as it was before.
    """
    with connect(dsn) as connection:
        _alembic("upgrade", revision, connection=connection)


def downgrade(dsn: str | None = None, revision: str = "base") -> None:
    """Take a database back to an older revision, by default to none: **all data goes** with it."""
    with connect(dsn) as connection:
        _alembic("downgrade", revision, connection=connection)


def current(dsn: str | None = None) -> str | None:
    """The revision of a database; None if it has none."""
    with _open(dsn) as conn:
        return _current(conn)


def head() -> str:
    """The newest revision that this package knows."""
    script = ScriptDirectory.from_config(_config()).get_current_head()
    assert script is not None
    return script


def check(dsn: str | None = None) -> list[str]:
    """How a database differs from what this package expects: lines of a diff, none if it does not.

    `-` leads what is missing, `+` what is too much; an object that differs has both.
    """
    with _open(dsn) as conn:
        found, version = catalog(conn), _current(conn)
    expected = (SQL / _SNAPSHOT).read_text().splitlines()
    differences = [] if version == head() else [f"-revision {head()}", f"+revision {version or 'none'}"]
    for line in difflib.unified_diff(expected, found, "expected", "found", n=0, lineterm=""):
        if line[0] in "+-" and not line.startswith(("+++ ", "--- ")):
            differences.append(line)
    return differences


def script(revision: str = "head") -> str:
    """The SQL of an upgrade of an empty database, for those who run it by themselves.

    With `from:to` as revision, of an upgrade between the two.
    """
    out = io.StringIO()
    _alembic("upgrade", revision, sql=True, output=out)
    return out.getvalue()


# --------------------------------------------------------------------------- the current source --


def apply(conn: psycopg.Connection[Any], sql_dir: Path = SQL) -> None:
    """Apply `sql/` itself, in one transaction, to a database without the schema.

    No migration takes this way; tests compare with it what migrations make.
    """
    with conn.transaction():
        conn.execute("set local search_path = pg_catalog")
        _apply_files(conn, list(sources(sql_dir).items()))


def sources(sql_dir: Path = SQL) -> dict[str, str]:
    """The domain files, by name, in order of application."""
    there = {path.name for path in sql_dir.glob("*.sql")}
    if there != set(DOMAINS):
        raise MigrationError(
            f"{sql_dir} and the list of domains differ: "
            f"missing {sorted(set(DOMAINS) - there)}, unlisted {sorted(there - set(DOMAINS))}"
        )
    return {name: (sql_dir / name).read_text() for name in DOMAINS}


def catalog(conn: psycopg.Connection[Any]) -> list[str]:
    """All objects of the two schemas, one a line, sorted alike everywhere."""
    query = (MIGRATIONS / "catalog.sql").read_text()
    rows = conn.execute(query.encode()).fetchall()
    return sorted(line for (line,) in rows)


# ------------------------------------------------------------------------------ inside migrations --


@contextmanager
def connect(dsn: str | None = None) -> Iterator[sqlalchemy.Connection]:
    """A connection that migrations can run on. Its errors are the driver's, as everywhere in this package."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: _open(dsn),
        poolclass=sqlalchemy.NullPool,
        use_native_hstore=False,
    )
    try:
        with engine.connect() as connection:
            yield connection
    except sqlalchemy.exc.DBAPIError as error:
        raise (error.orig or error) from None


def execute(connection: sqlalchemy.Connection, sql: str, name: str = "statement") -> None:
    """Run SQL text as it is: past the parameter syntax of SQLAlchemy (`:name`) and psycopg (`%`)."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    _run(driver, name, sql)


def run(sql: str) -> None:
    """Run SQL text in the migration under way, or print it when alembic only prints."""
    _run_in_migration([("migration", sql)])


def apply_frozen(revision: str, *, tables: bool = False) -> None:
    """Apply the frozen copies of a revision.

    Only the first one creates its tables by file. Later revisions freeze `tables.sql` as well, for
    the record, but alter by hand what exists.
    """
    files = frozen(revision).items()
    _run_in_migration([(f"{revision}/{name}", text) for name, text in files if tables or name != TABLES])


def restore(revision: str) -> None:
    """Apply, on the way back, what the frozen copies of a revision had replaced."""
    older = newest_frozen(revision)
    names = [name for name in frozen(revision) if name in older and name != TABLES]
    _run_in_migration([(f"before {revision}/{name}", older[name]) for name in names])


def frozen(revision: str, root: Path = FROZEN) -> dict[str, str]:
    """The frozen domain files of a revision, by name, in order of application."""
    directory = root / revision
    return {name: (directory / name).read_text() for name in DOMAINS if (directory / name).exists()}


def _run_in_migration(files: list[tuple[str, str]]) -> None:
    if context.is_offline_mode():
        for name, text in [("", _UNCHECKED), *files, ("", _VALIDATE)]:
            op.get_context().impl.static_output(f"-- {name}\n{text}" if name else text)
        return
    driver = op.get_bind().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    _apply_files(driver, files)


# Functions may refer to one another across files in any order, so their bodies are checked when all
# are there.
_UNCHECKED = "set local check_function_bodies = off;"
_VALIDATE = """\
set local check_function_bodies = on;
select case l.lanname when 'sql' then pg_catalog.fmgr_sql_validator(p.oid)
                      else pg_catalog.plpgsql_validator(p.oid) end
  from pg_catalog.pg_proc p
  join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname in ('sql', 'plpgsql')
  join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname in ('hotmesh', 'hotmesh_engine');
"""


def _apply_files(conn: psycopg.Connection[Any], files: list[tuple[str, str]]) -> None:
    _run(conn, "settings", _UNCHECKED)
    for name, text in files:
        _run(conn, name, text)
    _run(conn, "the check of all functions", _VALIDATE)


def _run(conn: psycopg.Connection[Any], name: str, sql: str) -> None:
    try:
        with conn.cursor() as cursor:
            cursor.execute(sql.encode())
    except psycopg.Error as error:
        if error.sqlstate is None:  # the connection, not the SQL
            raise
        position = error.diag.statement_position
        line = f":{sql.count(chr(10), 0, int(position)) + 1}" if position else ""
        details = (error.diag.message_primary, error.diag.message_detail, error.diag.context)
        raise MigrationError(f"{name}{line}: " + "\n".join(text for text in details if text)) from error


def _open(dsn: str | None) -> psycopg.Connection[Any]:
    """A connection that what is set for the role or the database does not hinder.

    Its transactions see what others committed before each statement, and take the time they need.
    """
    conn = psycopg.connect(conninfo(dsn), application_name="pyhotmesh migration")
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    conn.read_only = False
    limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    if conn.info.server_version >= 170000:
        limits.append("transaction_timeout")
    conn.execute("".join(f"set {limit} = 0;" for limit in limits).encode())
    conn.commit()
    return conn


def _current(conn: psycopg.Connection[Any]) -> str | None:
    known = conn.execute(f"select to_regclass('{VERSION_SCHEMA}.version') is not null".encode()).fetchone()
    if known is None or not known[0]:
        return None
    row = conn.execute(f"select version_num from {VERSION_SCHEMA}.version".encode()).fetchone()
    return str(row[0]) if row else None


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


# alembic keeps what is being migrated in variables of its modules.
_alembic_lock = threading.Lock()


def _alembic(
    action: str,
    revision: str,
    *,
    connection: sqlalchemy.Connection | None = None,
    sql: bool = False,
    output: io.StringIO | None = None,
) -> None:
    config = _config(output)
    config.attributes["connection"] = connection
    with _alembic_lock:
        getattr(command, action)(config, revision, sql=sql)


# --------------------------------------------------------------------------------- for developers --


def _revisions(root: Path = FROZEN) -> list[str]:
    return sorted(path.name for path in root.glob("*/"))


def newest_frozen(before: str | None = None, root: Path = FROZEN) -> dict[str, str]:
    """Each domain's newest frozen text, of all revisions or of those before one."""
    newest: dict[str, str] = {}
    for revision in _revisions(root):
        if before is None or revision < before:
            newest.update(frozen(revision, root))
    return newest


def checksums(root: Path = FROZEN) -> str:
    """The text of the file `checksums`: a line for each frozen file, as sha256sum writes it."""
    files = sorted(root.glob("*/*.sql"))
    return "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(root)}\n" for f in files)


def freeze(revision: str, *, sql_dir: Path = SQL, root: Path = FROZEN) -> list[str]:
    """Copy the domain files that differ from older revisions into `frozen/<revision>`.

    Freezing again overwrites, until the revision is listed in `frozen/released`.

    Returns:
        The names of the frozen files.
    """
    released = (root / _RELEASED).read_text().split() if (root / _RELEASED).exists() else []
    if revision in released or any(revision < other for other in _revisions(root)):
        raise MigrationError(f"Revision {revision} is released or not the newest: frozen files never change.")
    older = newest_frozen(revision, root)
    changed = {name: text for name, text in sources(sql_dir).items() if older.get(name) != text}
    directory = root / revision
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.sql"):
        path.unlink()
    for name, text in changed.items():
        (directory / name).write_text(text)
    (root / _CHECKSUMS).write_text(checksums(root))
    return list(changed)


def snapshot(sql_dir: Path = SQL) -> str:
    """The text of `sql/schema.snapshot`: the catalog that `sql/` makes on a private server."""
    from .embedded import EmbeddedServer

    with EmbeddedServer(settings={"fsync": "off"}) as server, psycopg.connect(server.dsn) as conn:
        apply(conn, sql_dir)
        return "".join(f"{line}\n" for line in catalog(conn))


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] != "freeze" or len(arguments) > 2:
        raise SystemExit("usage: python -m pyhotmesh.migrate freeze [REVISION]   (the newest one by default)")
    revision = arguments[1] if len(arguments) == 2 else head()
    text = snapshot()  # first: what does not apply is not frozen
    for name in freeze(revision):
        print(f"frozen {revision}/{name}")
    (SQL / _SNAPSHOT).write_text(text)
    print(f"{_SNAPSHOT}: {len(text.splitlines())} objects")


if __name__ == "__main__":
    _main(sys.argv[1:])
