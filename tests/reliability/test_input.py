"""Bad input of each kind is refused with its code, and leaves nothing behind."""

from __future__ import annotations

import math
import time
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, HotMeshError, InvalidDuration, PayloadError, StartRequest, WorkflowAlreadyStarted, WorkflowNotFound
from tests.reliability.flows import impatient, shout
from tests.reliability.kit import Database, serve

DEEP: list[Any] = []
for _ in range(2000):
    DEEP = [DEEP]

PAYLOADS = {
    "not JSON": ({1, 2}, "set"), "a function": (print, "type builtin"),
    "NaN": (math.nan, "nan"), "infinity": ([1, math.inf], r"\[1\]"),
    "NUL": ({"a": ["b\0"]}, "NUL"), "a lone surrogate": ("\ud800", "surrogate"), "a key that is no text": ({(1, 2): 3}, "key"),
    "too deep": (DEEP, "deep|recurs"), "too big": ("x" * 2_100_000, "bytes"),
    "an integer of 70 bits": (2**70, "bit|range|integer"),
}  # fmt: skip
NAMES = ["", "x" * 1001, "a\0b", "\ud800", 7, None]
DURATIONS = ["1 dya", "", "-5 min", -1, math.nan, "soon", [], "1 week 2"]


def nothing(db: Database) -> bool:
    return db.rows("select (select count(*) from hotmesh_engine.run), (select count(*) from hotmesh.signals)") == [(0, 0)]


@pytest.mark.parametrize("kind", PAYLOADS)
async def test_payloads(dsn: str, db: Database, kind: str) -> None:
    value, told = PAYLOADS[kind]
    async with Client(dsn) as client:
        for refused in (
            client.workflow.start(shout, args=[value]),
            client.workflow.start(shout, args=["x"], memo={"note": value}),
            client.workflow.start_many([StartRequest(shout, ["good"]), StartRequest(shout, [value])]),
            client.signal("key", value),
        ):
            with pytest.raises(PayloadError, match=f"(?i){told}") as caught:
                await refused
            assert caught.value.code == "HM003"
    assert nothing(db)


@pytest.mark.parametrize("name", NAMES, ids=lambda n: repr(n)[:12])
async def test_names(dsn: str, db: Database, name: Any) -> None:
    async with Client(dsn) as client:
        refused: list[Any] = [client.signal(name, 1)]
        if name is not None:  # without an id one is made
            refused.append(client.workflow.start(shout, args=["x"], workflow_id=name))
            refused.append(client.workflow.start_many([StartRequest(shout, ["x"]), StartRequest(shout, ["x"], workflow_id=name)]))
            refused.append(client.workflow.start(shout, args=["x"], task_queue=name))
        for each in refused:
            with pytest.raises(PayloadError) as caught:
                await each
            assert caught.value.code == "HM003"
    assert nothing(db)


@pytest.mark.parametrize("duration", DURATIONS, ids=repr)
async def test_durations(dsn: str, db: Database, duration: Any) -> None:
    async with Client(dsn) as client:
        for option in ("start_delay", "execution_timeout", "retention"):
            with pytest.raises(InvalidDuration) as caught:
                await client.workflow.start(shout, args=["x"], **{option: duration})
            assert caught.value.code == "HM026"
        assert nothing(db)
        async with serve(client):
            with pytest.raises(HotMeshError, match=r"InvalidDuration|duration|nan"):
                await client.workflow.execute(impatient, args=["key", duration], timeout=20)


@pytest.mark.parametrize(
    "option", [{"id_conflict_policy": "maybe"}, {"id_reuse_policy": "maybe"}, {"priority": 0}, {"priority": 6}]
)
async def test_options(dsn: str, db: Database, option: dict[str, Any]) -> None:
    async with Client(dsn) as client:
        with pytest.raises((HotMeshError, ValueError)):
            await client.workflow.start(shout, args=["x"], **option)
    assert nothing(db)


async def test_ids_that_nobody_has(dsn: str, db: Database) -> None:
    """At once: who asks for the result of an unknown id must not wait for it."""
    async with Client(dsn) as client:
        handle = client.get_handle("nobody")
        for ask in (handle.result, lambda: handle.interrupt("x"), handle.describe):
            begin = time.monotonic()
            with pytest.raises(WorkflowNotFound) as caught:
                await ask()
            assert caught.value.code == "HM002"
            assert time.monotonic() - begin < 5


async def test_an_id_that_is_taken(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        await client.workflow.start(shout, args=["x"], workflow_id="taken")
        with pytest.raises(WorkflowAlreadyStarted) as caught:
            await client.workflow.start(shout, args=["y"], workflow_id="taken")
        assert caught.value.code == "HM001"
    assert db.value("select count(*) from hotmesh_engine.run") == 1


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("select hotmesh.start_workflow('', '[]')", "HM003"),
        ("select hotmesh.start_workflow('shout', '{}')", "HM003"),
        ("select hotmesh.start_workflow('shout', '[]', repeat('x', 1001))", "HM003"),
        ("select hotmesh.start_workflow('shout', '[]', 'id', options => '{\"colour\": \"red\"}')", "HM003"),
        ("select hotmesh.start_workflow('shout', '[]', 'id', options => '{\"priority\": 9}')", "HM003"),
        ("select hotmesh.start_workflow('shout', 'nonsense')", "22P02"),
        ("select hotmesh.signal('', '1')", "HM003"),
        ("select hotmesh.result('nobody')", "HM002"),
        ("select hotmesh.interrupt('nobody', 'x')", "HM002"),
    ],
)
def test_sql(dsn: str, db: Database, statement: str, code: str) -> None:
    with psycopg.connect(dsn) as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    assert caught.value.sqlstate == code
    assert nothing(db)
