"""What jsonb cannot hold and json can, in any payload: every view shows all its rows, the odd one among them."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, MeshData, Schema, StartRequest, Tag
from tests.reliability.kit import Database, serve, until

PAYLOADS = (
    "select relname, attname from pg_attribute a join pg_class c on c.oid = attrelid"
    " where relnamespace = 'hotmesh_engine'::regnamespace and relkind in ('r', 'p') and atttypid = 'json'::regtype"
    " and attnum > 0 and not attisdropped order by 1, 2"
)
VIEWS = "select relname from pg_class where relnamespace = 'hotmesh'::regnamespace and relkind = 'v' order by 1"


async def a_bit_of_everything(client: Client, db: Database) -> None:
    """Two rows of each kind at least."""
    handles = await client.workflow.start_many(
        [StartRequest("mixture", [str(n)], memo={"of": n}) for n in range(2)]
        + [StartRequest("listen", [f"never {n}"]) for n in range(2)]
        + [StartRequest("call", [name, [], {"retry_policy": {"initial_interval": 3600}}]) for name in ("fails", "fails")]
    )
    for n in range(2):
        await client.signal(f"nobody {n}", n)
        await client.schedule.create(f"s{n}", "shout", args=["x"], interval="1 hour", memo={"of": n})
        await client.schedule.get(f"s{n}").trigger()
    await asyncio.gather(*[handle.result(timeout=20) for handle in handles[:2]])
    await until(lambda: db.value("select count(*) from hotmesh.activities where last_failure is not null") == 2, "both back off")
    await until(lambda: db.all_wait([handle.workflow_id for handle in handles[2:4]]), "both wait")
    async with MeshData(client, Schema("thing", fields={"n": Tag()})) as data:
        await data.create_search_index("thing")
        for n in range(2):
            await data.set("thing", str(n), {"n": n})
    db.rows(
        "insert into hotmesh_engine.undelivered (message_id, since, namespace_id, kind, key, payload, shared, code, reason)"
        " select message_id, sent_at, namespace_id, 5, key, payload, false, 'HM000', 'by hand' from hotmesh_engine.message"
    )


def rows(db: Database) -> dict[str, int]:
    """How many each view shows, all of each written out."""
    views = [f"hotmesh.{view}" for (view,) in db.rows(VIEWS)] + ["hotmesh_data.thing"]
    return {view: db.value(f"select count(v::text) from {view} v") for view in views}


@pytest.mark.parametrize("poison", ['"\\ud800"', '"\\u0000"', "1e200000"], ids=["half a pair", "NUL", "too great"])
async def test_views_show_what_jsonb_cannot_hold(dsn: str, db: Database, poison: str) -> None:
    with pytest.raises(psycopg.DataError):
        db.rows("select %s::text::jsonb", poison)
    async with Client(dsn) as client:
        async with serve(client):
            await a_bit_of_everything(client, db)
        before = rows(db)
        assert all(count >= 2 - (view in ("hotmesh.queues", "hotmesh.workers")) for view, count in before.items()), before
        for table, column in db.rows(PAYLOADS):
            db.rows(
                f"update hotmesh_engine.{table} set {column} = %s::text::json where ctid = ("
                f"select ctid from hotmesh_engine.{table} where {column} is not null limit 1)", poison,
            )  # fmt: skip
        assert rows(db) == before
        listed: list[dict[str, Any]] = await client.workflow.list()
        assert len(listed) == 8
        assert len(await client.schedule.list()) == 2
