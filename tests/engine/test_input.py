"""Bad input of each kind is refused at the call with its code, in Python and in SQL, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pyhotmesh import Client, HotMeshError, StartRequest, SyncClient, WorkflowNotFound, workflow
from pyhotmesh.payloads import MAX_BYTES
from tests.reliability.kit import Database, serve

TABLES = (
    "namespace",
    "queue",
    "run",
    "live",
    "open_id",
    "outcome",
    "message",
    "unrouted",
    "inbox",
    "waiting",
    "request",
    "waiter",
)
BAD_IDS: list[Any] = ["", "x" * 1001, "é" * 501, "a\0b", "\ud800", 7, b"x"]
BAD_VALUES: list[Any] = [math.nan, {"a": [math.inf]}, "a\0b", "\ud800", {1}, b"x", 2**64, {1: 1}, "x" * MAX_BYTES, object()]
BAD_DURATIONS: list[Any] = [-1, "-5 min", "1 dya", math.nan, "", "1001 years", 10**400, timedelta(days=-1), [1], True]


def left(db: Database) -> dict[str, int]:
    """Rows of each table that has any."""
    counts = {t: db.value(f"select count(*) from hotmesh_engine.{t}") for t in TABLES}
    return {t: n for t, n in counts.items() if n}


async def refused(code: str, call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(HotMeshError) as caught:
        await call()
    assert caught.value.code == code, caught.value
    assert str(caught.value)


@workflow.defn
async def anything(*args: Any) -> Any:
    return args


START: list[tuple[str, dict[str, Any]]] = [
    *[("HM003", {"workflow_id": i}) for i in BAD_IDS],
    *[("HM003", {"task_queue": i}) for i in [*BAD_IDS, None]],
    *[("HM003", {"args": [v]}) for v in BAD_VALUES],
    *[("HM003", {"args": a}) for a in ("text", b"x", None, 7, {"a": 1}, {1})],
    *[("HM003", {"memo": v}) for v in BAD_VALUES],
    *[("HM003", {"priority": p}) for p in (0, 6, -1, 10**10, 1.5, "1", None, True)],
    *[("HM026", {name: d}) for name in ("start_delay", "execution_timeout", "retention") for d in BAD_DURATIONS],
    ("HM026", {"start_delay": "infinity"}),
    ("HM003", {"id_conflict_policy": "replace"}),
    ("HM003", {"id_reuse_policy": "maybe"}),
]


async def test_starts(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, await psycopg.AsyncConnection.connect(dsn) as mine:
        for code, options in START:
            await refused(code, lambda o=options: client.workflow.start(anything, **o))
            await refused(code, lambda o=options: client.workflow.execute(anything, **o))
            await refused(code, lambda o=options: client.workflow.start(anything, **o, conn=mine))
        for name in ("", "x" * 1001, "a\0b"):
            await refused("HM003", lambda n=name: client.workflow.start(n))
        for target in (anything.__class__, print, 7, None):
            with pytest.raises(TypeError):
                await client.workflow.start(target)  # type: ignore[arg-type]
        await refused("HM003", lambda: client.workflow.start_many([StartRequest(anything)] * 5 + [StartRequest(anything, [{1}])]))
    assert left(db) == {}


async def test_blocking_starts(dsn: str, db: Database) -> None:
    def all_refused() -> None:
        with SyncClient(dsn) as client, psycopg.connect(dsn) as mine:
            for code, options in START:
                for conn in (None, mine):
                    with pytest.raises(HotMeshError) as caught:
                        client.workflow.start(anything, **options, conn=conn)
                    assert caught.value.code == code

    await asyncio.to_thread(all_refused)
    assert left(db) == {}


@pytest.mark.parametrize("namespace", BAD_IDS)
async def test_namespaces(dsn: str, db: Database, namespace: Any) -> None:
    await refused("HM003", lambda: _with_client(dsn, namespace))
    assert left(db) == {}


async def _with_client(dsn: str, namespace: Any) -> None:
    async with Client(dsn, namespace=namespace) as client:
        await client.workflow.start(anything)


async def test_signals(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, await psycopg.AsyncConnection.connect(dsn) as mine:
        for conn in (None, mine):
            for key in [*BAD_IDS, None]:
                await refused("HM003", lambda k=key, c=conn: client.signal(k, conn=c))
            for value in BAD_VALUES:
                await refused("HM003", lambda v=value, c=conn: client.signal("k", v, conn=c))
            for key in BAD_IDS:
                await refused("HM003", lambda k=key, c=conn: client.signal("k", idempotency_key=k, conn=c))
    assert left(db) == {}


async def test_unknown_workflows(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        for unknown in ("nobody", "", "x" * 5000):
            handle = client.get_handle(unknown)
            for call in (handle.result, handle.status, handle.describe, handle.history, handle.interrupt):
                began = time.monotonic()
                await refused("HM002", call)
                assert time.monotonic() - began < 5, "at once"
        await refused("HM002", lambda: client.get_handle("nobody").result(timeout="1 hour"))
        for impossible in ("a\0b", "\ud800", 7):
            await refused("HM003", lambda i=impossible: client.get_handle(i).result())
        handle = await client.workflow.start(anything, workflow_id="there")
        async with Client(dsn, namespace="elsewhere") as other:
            await refused("HM002", other.get_handle("there").result)
        for limit in BAD_DURATIONS:
            await refused("HM026", lambda t=limit: handle.result(timeout=t))
        for reason in ("a\0b", "\ud800", 7):
            await refused("HM003", lambda r=reason: handle.interrupt(r))
        assert await handle.status() == "ready"


async def test_an_expired_workflow_is_unknown(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, workflows=[anything]):
        handle = await client.workflow.start(anything, args=[1], workflow_id="w", retention="1 day")
        assert await handle.result(timeout=20) == [1]
        db.skip("2 days")
        await refused("HM002", client.get_handle("w").result)
        db.rows("select hotmesh.prune()")
        await refused("HM002", handle.result)


async def test_a_handle_interrupts_its_own_run(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        first = await client.workflow.start(anything, workflow_id="w")
        await first.interrupt()
        second = await client.workflow.start(anything, workflow_id="w")
        await refused("HM002", first.interrupt)
        assert await second.status() == "ready"
        await client.get_handle("w").interrupt()
        assert await second.status() == "interrupted"


@workflow.defn
async def asks(what: str, name: Any, options: dict[str, Any]) -> str:
    """Which error a call in workflow code gets."""
    name = "a\0b" if name == "NUL" else name
    options = {k: "a\0b" if v == "NUL" else v for k, v in options.items()}
    calls: dict[str, Callable[[], Any]] = {
        "wait": lambda: workflow.wait_for(name, **options),
        "signal": lambda: workflow.signal(name),
        "activity": lambda: workflow.execute_activity(name, **options),
        "sleep": lambda: workflow.sleep_for(name),
    }
    try:
        await calls[what]()
    except HotMeshError as error:
        return error.code
    return "nothing"


async def test_what_workflow_code_asks_for(dsn: str, db: Database) -> None:
    """Refused in the code, where it can be caught: not in the turn, where the run could only be parked."""
    bad_names = ["", "x" * 1001, "NUL", 7, None]
    cases: list[tuple[str, str, Any, dict[str, Any]]] = [
        *[("HM003", what, name, {}) for what in ("wait", "signal", "activity") for name in bad_names],
        *[("HM003", "activity", "echo", {"task_queue": name}) for name in bad_names if name is not None],
        *[("HM026", "sleep", d, {}) for d in (-1, "1 dya", "", None)],
        *[("HM026", "wait", "k", {"timeout": d}) for d in (-1, "1 dya")],
        *[("HM026", "activity", "echo", {"start_to_close_timeout": d}) for d in (-1, "1 dya")],
    ]
    async with Client(dsn) as client, serve(client, workflows=[asks]):
        handles = [await client.workflow.start(asks, args=[what, name, o]) for _, what, name, o in cases]
        found = await asyncio.gather(*[h.result(timeout=20) for h in handles], return_exceptions=True)
    assert [c for c, f in zip(cases, found, strict=True) if c[0] != f] == []


# ------------------------------------------------------------------------------------------ SQL --

LONG = "repeat('x', 1001)"
BIG = f"(to_json(repeat('x', {MAX_BYTES})))"
BAD_JSON = [BIG, r"""'"\u0000"'""", r"""'["\ud800"]'""", r"""'{"a": "\udc00"}'""", "'[18446744073709551616]'", "'1e400'",
            "'-9223372036854775809'"]  # fmt: skip

REFUSED: list[tuple[str, str]] = [
    *[("HM003", f"hotmesh.start_workflow({name})") for name in ("null", "''", LONG)],
    *[("HM003", f"hotmesh.start_workflow('t', '[]', {i})") for i in ("''", LONG)],
    *[("HM003", f"hotmesh.start_workflow('t', '[]', 'i', {q})") for q in ("null", "''", LONG)],
    *[("HM003", f"hotmesh.start_workflow('t', {args})") for args in ("null", "'{}'", "'7'", "'null'", "'\"text\"'")],
    *[("HM003", f"hotmesh.start_workflow('t', json_build_array(({value})::json))") for value in BAD_JSON],
    *[
        ("HM003", f"hotmesh.start_workflow('t', options => '{options}')")
        for options in (
            '{"colour": 1}', "[]", "7", '{"namespace": ""}', '{"priority": 0}', '{"priority": 6}', '{"priority": "high"}',
            '{"priority": 1.5}', '{"start_delay": -1}', '{"start_delay": "NaN"}', '{"start_delay": "infinity"}',
            '{"start_delay": 1e300}', '{"execution_timeout": -1}', '{"execution_timeout": "1 dya"}', '{"retention": "-1 day"}',
            '{"retention": "1 dya"}', '{"retention": "5000 years"}', '{"memo": "\\u0000"}',
        )
    ],
    *[("HM003", f"hotmesh.signal({key})") for key in ("null", "''", LONG)],
    *[("HM003", f"hotmesh.signal('k', {value})") for value in BAD_JSON],
    *[("HM003", f"hotmesh.signal('k', '1', {namespace})") for namespace in ("null", "''", LONG)],
    *[("HM002", f"hotmesh.{f}({i})") for f in ("result", "interrupt", "resume") for i in ("'nobody'", "null", "''", LONG)],
    *[("HM002", f"hotmesh.{f}('there', namespace => 'elsewhere')") for f in ("result", "interrupt", "resume")],
    ("HM004", "hotmesh_engine.turn(1, '{}', 1, 1, 1, null, 0, null, '{}')"),
    ("HM004", "hotmesh_engine.adopt(1, 2, 'w', '{}', '{}', '{}', '{}')"),
]  # fmt: skip


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_sql(db: Database, isolation: str) -> None:
    db.rows("select hotmesh.start_workflow('t', '[]', 'there')")
    before = left(db)
    with psycopg.connect(db.dsn, autocommit=True) as conn:
        conn.execute(f"set default_transaction_isolation = '{isolation}'")
        for code, call in REFUSED:
            with pytest.raises(psycopg.Error) as caught:
                conn.execute(f"select {call}".encode())
            assert caught.value.sqlstate == code, (call[:100], caught.value)
    assert left(db) == before


def test_sql_accepts_what_is_allowed(db: Database) -> None:
    edge = "repeat('é', 500)"
    db.rows(
        f"select hotmesh.start_workflow({edge}, '[1e300, 18446744073709551615, \"1, 18446744073709551616]\"]', {edge}, {edge})"
    )
    db.rows(
        'select hotmesh.start_workflow(\'t\', options => \'{"start_delay": 0, "execution_timeout": 1.5, "retention": "1 week",'
        ' "priority": 5, "memo": null, "namespace": "n"}\')'
    )
    db.rows(f"select hotmesh.signal({edge}, to_json(repeat('x', {MAX_BYTES - 2})))")
    assert left(db)["run"] == 2 and left(db)["message"] == 1


def test_a_worker_that_does_not_hold_a_run_is_rejected(db: Database) -> None:
    """Whatever it sends: another's run, one that is unknown, a wrong fence, a wrong base."""
    db.rows("select hotmesh.start_workflow('t', '[]', 'w')")
    queue = db.value("select queue_id from hotmesh_engine.queue")
    for worker in (1, 2):
        db.rows("select hotmesh_engine.register(%s, 'w', 'default', '{default}', 10, '0')", worker)
    turn = "select * from hotmesh_engine.turn(%s, %s, %s, 0, 0, null, 0, null, '{}'"
    leased = [r for r in db.rows(f"{turn})", 1, [queue], 10) if r[0] == 1]
    assert len(leased) == 1
    run, fence = leased[0][1], leased[0][4]
    step = f"""{turn}, p_run => %s, p_fence => %s, p_base => %s, p_end => '{{1}}', p_due => '{{null}}', p_outcome => '{{null}}',
        j_run => %s, j_seq => '{{1}}', j_kind => '{{1}}', j_command => '{{null}}', j_at => array[now()],
        j_payload => '{{null}}', j_commands => '{{null}}', s_run => %s, s_key => '{{k}}', s_payload => '{{1}}')"""
    for worker, its_run, its_fence, base in [
        (2, run, fence, 0), (1, run + 1000, fence, 0), (1, run, fence + 1, 0), (1, run, fence - 1, 0), (1, run, fence, 1),
        (1, run, fence, -1),
    ]:  # fmt: skip
        rows = db.rows(step, worker, [queue], 0, [its_run], [its_fence], [base], [its_run], [its_run])
        assert [r[1] for r in rows if r[0] == 4] == [its_run]
    assert left(db) == {"namespace": 1, "queue": 1, "run": 1, "live": 1, "open_id": 1}
    assert db.rows("select * from hotmesh_engine.journal_page(2, %s, 0, 10)", run) == []
    alive, *_ = db.rows("select * from hotmesh_engine.heartbeat(3, '{}', '{}', '{}', '{}')")[0]
    assert alive is False


async def test_an_unregistered_workflow_waits_with_its_reason(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, workflows=[anything]):
        unknown = await client.workflow.start("no such workflow", workflow_id="u")
        while await unknown.status() != "troubled":
            await asyncio.sleep(0.01)
        described = await unknown.describe()
        assert "'no such workflow' is not registered" in described["trouble"] and "anything" in described["trouble"]
        assert await client.workflow.execute(anything, args=[1], timeout=20) == [1]
    async with Client(dsn) as client:
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("v").status()


async def test_a_queue_that_nobody_serves_is_visible(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        await client.workflow.start(anything, task_queue="nobody's", workflow_id="w")
        assert db.rows("select ready, workers from hotmesh.queues where task_queue = 'nobody''s'") == [(1, 0)]
        assert db.status("w") == "ready"
