"""What pruning reads does not grow with the tables, even if they were empty when it was planned."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pyhotmesh.connection import connect_sync

READ = """
    select coalesce(sum(idx_tup_read), 0)::int from pg_stat_user_indexes
     where schemaname = 'hotmesh_engine' and relname ~ '^(record|bound)'"""
FILL = """
    insert into hotmesh_engine.record (entity_id, version, created_at, updated_at, expires_at, follows, id, data)
    select 1, 3, now(), now(), case when i <= %s and not %s then now() else 'infinity' end,
           case when %s then i end, 'r' || i, '{}'
      from generate_series(1, %s) i;
    insert into hotmesh_engine.record_change (entity_id, version, at, id, changed)
    select 1, v, now(), 'r' || i, '{}' from generate_series(1, %s) i, generate_series(1, 3) v;
    insert into hotmesh_engine.bound (run_id, entity_id, id) select i, 1, 'r' || i from generate_series(1, %s) i"""


@pytest.mark.parametrize("how", ["lapsed", "with its run"])
def test_rows_read_do_not_grow_with_the_tables(dsn: str, how: str) -> None:
    few, many = 10, 5000
    follows = how == "with its run"
    with connect_sync(dsn) as worker, psycopg.connect(dsn, autocommit=True) as conn:

        def prune() -> None:
            runs = [*range(1, few + 1)] if follows else None
            worker.execute("select hotmesh_engine.prune_records(%s::bigint[], now(), 1000)", (runs,))

        conn.execute("vacuum analyze")
        prune()
        conn.execute(psycopg.ClientCursor(conn).mogrify(FILL, (few, follows, follows, many, many, many)).encode())
        before = _value(conn, READ)
        prune()
        worker.execute("select pg_stat_force_next_flush()")
        worker.execute("select 1")
        read = _value(conn, READ) - before
        left = "select count(*)::int from hotmesh_engine."
        assert _value(conn, left + "record") == many - few and _value(conn, left + "record_change") == 3 * (many - few)
        assert _value(conn, left + "bound") == (many - few if follows else many)
        assert 3 * few <= read < 20 * few


def _value(conn: psycopg.Connection[Any], query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])
