"""The source in `sql/`, its frozen copies and its snapshot say the same."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pyhotmesh import migrate


def test_newest_frozen_copies_are_the_current_source() -> None:
    assert migrate.newest_frozen() == migrate.sources(), "run `make freeze`"


def test_frozen_copies_have_their_checksums() -> None:
    assert migrate.checksums() == (migrate.FROZEN / "checksums").read_text()


def test_snapshot_is_the_catalog_of_the_current_source(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        migrate.apply(conn)
        assert migrate.catalog(conn) == (migrate.SQL / "schema.snapshot").read_text().splitlines()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "sql"
    directory.mkdir()
    for name in migrate.DOMAINS:
        (directory / name).write_text(f"-- {name}, as it was\n")
    return directory


def test_freezing_copies_only_what_changed(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "frozen"
    assert migrate.freeze("0001", sql_dir=source, root=root) == list(migrate.DOMAINS)
    (source / "turn.sql").write_text("-- turn.sql, changed\n")

    assert migrate.freeze("0002", sql_dir=source, root=root) == ["turn.sql"]
    assert migrate.newest_frozen(root=root) == migrate.sources(source)
    assert migrate.frozen("0001", root)["turn.sql"] == "-- turn.sql, as it was\n"
    assert (root / "checksums").read_text() == migrate.checksums(root)


def test_freezing_again_follows_the_source(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "frozen"
    migrate.freeze("0001", sql_dir=source, root=root)
    original = (source / "turn.sql").read_text()
    (source / "turn.sql").write_text("-- turn.sql, changed\n")
    migrate.freeze("0002", sql_dir=source, root=root)
    (source / "turn.sql").write_text(original)

    assert migrate.freeze("0002", sql_dir=source, root=root) == []
    assert migrate.newest_frozen(root=root) == migrate.sources(source)


def test_released_and_older_revisions_cannot_be_frozen_again(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "frozen"
    migrate.freeze("0001", sql_dir=source, root=root)
    (root / "released").write_text("0001\n")
    with pytest.raises(migrate.MigrationError, match="never change"):
        migrate.freeze("0001", sql_dir=source, root=root)
    (root / "released").unlink()
    migrate.freeze("0002", sql_dir=source, root=root)
    with pytest.raises(migrate.MigrationError, match="never change"):
        migrate.freeze("0001", sql_dir=source, root=root)


def test_a_domain_file_that_is_not_listed_is_refused(source: Path) -> None:
    (source / "stray.sql").write_text("select 1;")
    with pytest.raises(migrate.MigrationError, match=r"stray\.sql"):
        migrate.sources(source)


def test_an_error_in_the_source_names_file_and_line(source: Path, empty_dsn: str) -> None:
    (source / "time.sql").write_text("-- one\nselect 1;\nselect nonsense;\n")
    with (
        psycopg.connect(empty_dsn) as conn,
        pytest.raises(migrate.MigrationError, match=r"time\.sql:3: .*nonsense"),
    ):
        migrate.apply(conn, source)


def test_an_error_in_a_function_body_is_found(source: Path, empty_dsn: str) -> None:
    (source / "tables.sql").write_text("create schema hotmesh; create schema hotmesh_engine;")
    (source / "time.sql").write_text(
        "create function hotmesh.wrong() returns int language sql as $$ select n from hotmesh.nothing $$;"
    )
    with psycopg.connect(empty_dsn) as conn:
        with pytest.raises(migrate.MigrationError, match="nothing"):
            migrate.apply(conn, source)
        assert migrate.catalog(conn) == []
