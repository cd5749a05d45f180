"""What upgrades and downgrades do to a database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from pyhotmesh import migrate
from pyhotmesh.cli import main

CHECKOUT = Path(__file__).parents[2]


def catalog(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        return migrate.catalog(conn)


def schemas(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        return {name for (name,) in conn.execute("select nspname from pg_namespace where nspname !~ '^pg_temp|^pg_toast'")}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["db", *arguments])


def test_upgrade_of_an_empty_database_equals_the_source_applied(dsn: str, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        migrate.apply(conn)
    assert catalog(dsn) == catalog(empty_dsn)
    assert migrate.current(dsn) == migrate.head()


def test_up_down_up_is_the_identity(empty_dsn: str) -> None:
    before = schemas(empty_dsn)
    migrate.upgrade(empty_dsn)
    after = catalog(empty_dsn)

    migrate.downgrade(empty_dsn)
    assert catalog(empty_dsn) == []
    assert schemas(empty_dsn) == before
    assert migrate.current(empty_dsn) is None

    migrate.upgrade(empty_dsn)
    assert catalog(empty_dsn) == after


def test_each_revision_can_be_taken_back(empty_dsn: str) -> None:
    revisions = sorted(path.name for path in migrate.FROZEN.glob("*/"))
    catalogs = {}
    for revision in revisions:
        migrate.upgrade(empty_dsn, revision)
        catalogs[revision] = catalog(empty_dsn)
    for revision in reversed(revisions):
        migrate.downgrade(empty_dsn, revision)
        assert catalog(empty_dsn) == catalogs[revision]


def test_a_second_upgrade_changes_nothing(dsn: str) -> None:
    before = catalog(dsn)
    migrate.upgrade(dsn)
    assert catalog(dsn) == before


def test_ten_concurrent_upgrades_make_one_schema(empty_dsn: str) -> None:
    code = "import sys; from pyhotmesh import migrate; migrate.upgrade(sys.argv[1])"
    upgrades = [
        subprocess.Popen([sys.executable, "-c", code, empty_dsn], stderr=subprocess.PIPE, text=True, cwd=CHECKOUT)
        for _ in range(10)
    ]
    said = [upgrade.communicate()[1] for upgrade in upgrades]
    assert [upgrade.returncode for upgrade in upgrades] == [0] * 10, said
    assert migrate.check(empty_dsn) == []


def test_an_upgrade_waits_while_another_one_holds_the_lock(empty_dsn: str) -> None:
    code = "import sys; from pyhotmesh import migrate; migrate.upgrade(sys.argv[1])"
    with psycopg.connect(empty_dsn, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (migrate.LOCK,))
        upgrade = subprocess.Popen([sys.executable, "-c", code, empty_dsn], cwd=CHECKOUT)
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while other.execute(waiting).fetchone() != (1,):
            assert upgrade.poll() is None
        assert migrate.current(empty_dsn) is None
        other.execute("select pg_advisory_unlock(%s)", (migrate.LOCK,))
        assert upgrade.wait(30) == 0
    assert migrate.current(empty_dsn) == migrate.head()


def test_a_failed_upgrade_leaves_nothing_behind(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create schema hotmesh_engine")
    before = schemas(empty_dsn)
    with pytest.raises(migrate.MigrationError, match=r"0001/tables\.sql.*already exists"):
        migrate.upgrade(empty_dsn)
    assert schemas(empty_dsn) == before


def test_settings_of_the_role_do_not_break_an_upgrade(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        for setting in (
            "statement_timeout = 5",  # ms: what says that there is no limit takes one on a busy machine
            "default_transaction_isolation = serializable",
            "default_transaction_read_only = on",
            "search_path = public",
        ):
            conn.execute(f"alter database {conn.info.dbname} set {setting}".encode())
    migrate.upgrade(empty_dsn)
    assert migrate.current(empty_dsn) == migrate.head()


def test_alembic_in_a_checkout_does_the_same(dsn: str, empty_dsn: str) -> None:
    environment = {**os.environ, "HOTMESH_DATABASE_URL": empty_dsn}
    alembic = [sys.executable, "-m", "alembic"]
    subprocess.run([*alembic, "upgrade", "head"], cwd=CHECKOUT, env=environment, check=True)
    assert catalog(empty_dsn) == catalog(dsn)
    assert migrate.check(empty_dsn) == []

    said = subprocess.run([*alembic, "current"], cwd=CHECKOUT, env=environment, check=True, capture_output=True)
    assert migrate.head() in said.stdout.decode()
    assert migrate.check(empty_dsn) == []


def test_the_printed_sql_does_the_same(dsn: str, empty_dsn: str) -> None:
    printed = run("sql").output
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(printed.encode())
    assert catalog(empty_dsn) == catalog(dsn)
    assert migrate.check(empty_dsn) == []
    migrate.upgrade(empty_dsn)


def test_check_finds_nothing_in_a_fresh_database(dsn: str) -> None:
    done = run("check", "--dsn", dsn)
    assert (done.exit_code, done.output) == (0, "The schema is as it should be.\n")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("alter table hotmesh_engine.run add column extra text", "+column hotmesh_engine.run.extra text"),
        (
            "alter table hotmesh_engine.run alter column input drop not null",
            "-column hotmesh_engine.run.input json not null",
        ),
        ("create index stray on hotmesh_engine.run (created_at)", "+index hotmesh_engine.stray"),
        ("drop index hotmesh_engine.outcome_expiry", "-index hotmesh_engine.outcome_expiry"),
        (
            "alter table hotmesh_engine.run add check (run_id > 0)",
            "+constraint hotmesh_engine.run.run_run_id_check",
        ),
        ("drop view hotmesh.workers", "-view hotmesh.workers"),
        ("create or replace view hotmesh.stray as select 1 as one", "+column hotmesh.stray.one integer"),
        ("update hotmesh_migration.version set version_num = '0000'", "The schema is of revision 0000"),
        (
            "create or replace function hotmesh.now() returns timestamptz language sql volatile "
            "parallel safe set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() $$",
            "+function hotmesh.now() returns timestamp with time zone",
        ),
    ],
)
def test_check_finds_what_was_changed_by_hand(dsn: str, change: str, shown: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(change.encode())
    done = run("check", "--dsn", dsn)
    assert done.exit_code == 1
    assert any(line.startswith(shown) for line in done.output.splitlines()), done.output


def test_check_says_what_to_do_about_a_schema_that_is_not_there_or_old(empty_dsn: str) -> None:
    done = run("check", "--dsn", empty_dsn)
    assert (done.exit_code, done.output) == (
        1,
        f"There is no schema here; revision {migrate.head()} is expected: hotmesh db upgrade\n",
    )
    migrate.upgrade(empty_dsn, "0001")
    done = run("check", "--dsn", empty_dsn)
    assert done.exit_code == 1
    assert done.output == f"The schema is of revision 0001; revision {migrate.head()} is expected: hotmesh db upgrade\n"


def test_commands_without_a_connection_say_so() -> None:
    for command in ("check", "current", "upgrade"):
        done = run(command, "--dsn", "postgresql://nobody@/nothing?host=/nonexistent")
        assert done.exit_code == 2, done.output
        assert "Cannot connect" in done.output
    done = CliRunner(env={"HOTMESH_DATABASE_URL": ""}).invoke(main, ["db", "check"])
    assert done.exit_code == 2
    assert "HOTMESH_DATABASE_URL" in done.output


def test_the_command_line_upgrades_and_downgrades(empty_dsn: str) -> None:
    head = migrate.head()
    assert run("current", "--dsn", empty_dsn).exit_code == 1
    assert run("upgrade", "--dsn", empty_dsn).output == f"empty -> {head}\n"
    assert run("upgrade", "--dsn", empty_dsn).output == f"{head} already\n"
    assert run("current", "--dsn", empty_dsn).output == f"{head}\n"
    assert run("downgrade", "--dsn", empty_dsn).exit_code == 1, "without --yes it asks"
    assert run("downgrade", "--dsn", empty_dsn, "--yes").output == f"{head} -> empty\n"
