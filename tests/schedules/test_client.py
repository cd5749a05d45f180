"""Schedules from Python: created once, served by workers, changed through handles."""

from __future__ import annotations

import asyncio
import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy

from pyhotmesh import (
    ApplicationError,
    Client,
    HotMeshError,
    InvalidDuration,
    InvalidSchedule,
    MeshCall,
    PayloadError,
    ScheduleNotFound,
    SyncClient,
    Worker,
    workflow,
)
from pyhotmesh.schedule import UNCHANGED
from tests.reliability.kit import until
from tests.schedules.conftest import Schedules


@workflow.defn
async def nothing(*args: Any) -> Any:
    return args


@workflow.defn
async def failing() -> None:
    raise ApplicationError("not tonight", non_retryable=True)


@workflow.defn
async def endless() -> None:
    await workflow.wait_for("never")


def serve(client: Client | str) -> Worker:
    return Worker(client, workflows=[nothing, failing, endless], graceful_shutdown_timeout=1.0)


async def test_it_is_created_once_and_runs(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client, serve(client):
        made = await asyncio.gather(
            *[client.schedule.create("s", nothing, interval="1 day", args=[1, "two"], memo={"a": 1}) for _ in range(10)]
        )
        assert sorted(made) == [False] * 9 + [True]
        schedule = client.schedule.get("s")
        assert [slot - timedelta(days=1) for slot in (await schedule.next_runs(2))[1:]] == await schedule.next_runs(1)
        db.skip("1 day")
        await until(lambda: db.about()["cycles"] == 1, "it fires")
        (first,) = await schedule.history()
        assert first["decision"] == "started"
        handle = client.get_handle(first["workflow_id"])
        assert first["workflow_id"] == f"s:{first['slot'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        assert await handle.result(timeout=20) == [1, "two"]
        described = await handle.describe()
        assert (described["memo"], described["workflow_type"]) == ({"a": 1}, "nothing")
        assert [row["schedule_id"] for row in await client.schedule.list()] == ["s"]


async def test_it_is_punctual(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client, serve(client):
        assert await client.schedule("s", nothing, interval="* * * * * *", max_cycles=4)
        await until(lambda: db.about()["status"] == "over", "it runs four times")
        late = db.rows("select extract(epoch from decided_at - slot)::float8 from hotmesh.firings where decision = 'started'")
        assert len(late) == 4
        assert 0 <= statistics.median(seconds for (seconds,) in late) < 0.3  # 10 ms where nobody else works


async def test_a_failing_run_does_not_stop_it(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client, serve(client):
        await client.schedule.create("s", failing, interval="1 hour")
        await client.schedule.create("careful", failing, interval="1 hour", pause_after_failures=2)
        for count in (1, 2, 3):
            db.skip("1 hour")
            await until(lambda n=count: db.about()["failures"] == n, "it fails")  # type: ignore[misc]
            if count == 2:
                await until(lambda: db.about("careful")["status"] == "paused", "it pauses by itself")
        assert db.about()["status"] == "active"
        assert db.about("careful")["cycles"] == 2
        assert [row["outcome"] for row in await client.schedule.get("s").history()] == ["failed"] * 3


async def test_a_handle_does_it_all(dsn: str, db: Schedules) -> None:
    db.at("2040-01-01 00:00:00Z")
    async with Client(dsn) as client, serve(client):
        await client.schedule.create("s", nothing, interval="0 3 * * *", time_zone="Europe/Berlin", overlap="allow_all")
        schedule = client.schedule.get("s")
        assert await schedule.pause("a holiday")
        assert (await schedule.describe())["note"] == "a holiday"
        assert not await schedule.pause()
        handle = await schedule.trigger()
        assert await handle.result(timeout=20) == []
        window = (datetime(2039, 12, 29, tzinfo=UTC), datetime(2039, 12, 31, 23, tzinfo=UTC))
        assert await schedule.backfill(*window) == 3
        await until(lambda: len(db.slots()) == 4, "it is backfilled")
        assert await schedule.resume()
        assert [f"{slot.astimezone(UTC):%d %H:%M}" for slot in await schedule.next_runs(2)] == ["01 02:00", "02 02:00"]
        await schedule.update(interval="30 minutes", args=["new"], task_queue="default")
        assert [f"{slot.astimezone(UTC):%d %H:%M}" for slot in await schedule.next_runs(1)] == ["01 00:30"]
        db.skip("30 minutes")
        await until(lambda: db.about()["cycles"] == 1, "it fires")
        newest = (await schedule.history(1))[0]
        assert await client.get_handle(newest["workflow_id"]).result(timeout=20) == ["new"]
        assert await schedule.delete()
        assert not await schedule.delete()
        for call in (schedule.describe, schedule.pause, schedule.resume, schedule.trigger, schedule.next_runs):
            with pytest.raises(ScheduleNotFound):
                await call()
        with pytest.raises(ScheduleNotFound):
            await schedule.update(interval="1 day")


async def test_buffered_runs_go_on_by_themselves(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client:
        await client.schedule.create("s", nothing, interval="1 minute", catchup="1 hour", paused=True)
        await client.schedule.get("s").resume()
        db.skip("6 minutes 30 seconds")
        async with serve(client):
            await until(lambda: len(db.slots()) == 6, "one after another")


async def test_a_buffered_run_starts_when_the_one_before_ends(dsn: str, db: Schedules) -> None:
    """Its end wakes the worker: nobody waits for the next look, four times a second."""
    async with Client(dsn) as client:
        await client.schedule.create("s", nothing, interval="1 minute", catchup="1 hour")
        db.skip("21 minutes")
        async with serve(client):
            await until(lambda: len(db.slots()) == 20, "one after another")
            await until(lambda: db.about()["open_runs"] == 0, "the last one ends")
    query = """select extract(epoch from decided_at - lag(closed_at) over (order by slot))::float8
                 from hotmesh.firings where decision = 'started' order by slot"""
    gaps = [gap for (gap,) in db.rows(query) if gap is not None]
    assert len(gaps) == 19
    assert min(gaps) >= 0
    assert statistics.median(gaps) < 0.1  # 0.025 where nobody else works
    assert db.value("select count(*) from hotmesh_engine.waiter") == 0


async def test_a_backfill_waits_for_the_open_run_alone(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client, serve(client):
        await client.schedule.create("s", endless, interval="1 hour")
        run = await client.schedule.get("s").trigger()
        now = db.value("select hotmesh.now()")
        assert await client.schedule.get("s").backfill(now - timedelta(hours=2), now) == 2
        await until(lambda: db.value("select count(*) from hotmesh_engine.waiter where client = 0") == 1, "it is awaited")
        await run.interrupt()
        await until(lambda: db.decisions().count("buffered") == 1, "one has started")


async def test_update_sets_back_what_is_none(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client:
        await client.schedule.create(
            "s",
            nothing,
            interval="0 3 * * *",
            max_cycles=3,
            memo={"a": 1},
            time_zone="Europe/Berlin",
            retention="1 day",
            note="why",
        )
        schedule = client.schedule.get("s")
        await schedule.update(overlap="allow_all")
        about = await schedule.describe()
        assert (about["max_cycles"], about["memo"], about["overlap"]) == (3, {"a": 1}, "allow_all"), "what is not named stays"
        await schedule.update(max_cycles=None, memo=None, time_zone=None, retention=None, note=None, overlap=None)
        about = await schedule.describe()
        names = ("max_cycles", "memo", "time_zone", "retention", "note", "overlap")
        assert [about[name] for name in names] == [None, None, "UTC", None, None, "skip"]
        await schedule.update(max_cycles=UNCHANGED, args=[1])
        assert (await schedule.describe())["input"] == [1]
        for wrong in ({"interval": None}, {"workflow": None}, {"kind": None}):
            with pytest.raises(HotMeshError):
                await schedule.update(**wrong)  # type: ignore[arg-type]


async def test_calls_of_a_topic(dsn: str, db: Schedules) -> None:
    ticks: list[int] = []
    async with Client(dsn) as client, MeshCall(dsn) as mesh:
        await mesh.connect("tick", ticks.append)
        assert await client.schedule.create("s", "tick", interval="1 hour", kind="call", args=[7])
        assert db.value("""select hotmesh.cron('t', 'tick', '1 hour', '{"kind": "call", "args": [8]}')""")
        db.skip("1 hour")
        await until(lambda: sorted(ticks) == [7, 8], "they are called")


async def test_workers_come_and_go(dsn: str, db: Schedules) -> None:
    async def fired(cycles: int) -> None:
        """So many slots have fired and their runs have ended. Only then may the clock go on: a slot that comes due
        before is caught up with as well, or skipped."""
        await until(lambda: (db.about()["cycles"], db.about()["open_runs"]) == (cycles, 0), f"{cycles} have fired")

    async with Client(dsn) as client:
        await client.schedule.create("s", nothing, interval="1 hour", catchup="last")
        for turn in range(3):
            async with serve(client):
                await fired(2 * turn)  # from the second on, the last slot that nobody saw
                db.skip("1 hour")
                await fired(2 * turn + 1)
            db.skip("5 hours")  # nobody is there
        async with serve(client):
            await fired(6)
        assert db.decisions() == ["started", *["missed", "started", "started"] * 2, "missed", "started"]


async def test_a_call_in_a_transaction(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client, await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await client.schedule.create("a", nothing, interval="1 day", conn=conn)
        await conn.rollback()
        assert await client.schedule.list() == []
        assert await client.schedule.create("a", nothing, interval="1 day", conn=conn)
        assert not await client.schedule.create("a", nothing, interval="1 day", conn=conn)
        await conn.commit()
        assert len(await client.schedule.list()) == 1


def test_the_blocking_client(dsn: str, db: Schedules) -> None:
    url = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with SyncClient(dsn) as client, url.begin() as conn:
        assert client.schedule.create("s", nothing, interval="@daily", conn=conn)
        assert client.schedule.list() == []
        conn.commit()
        schedule = client.schedule.get("s")
        assert not client.schedule.create("s", nothing, interval="@daily")
        assert schedule.pause("why") and schedule.resume()
        assert schedule.trigger().status() == "ready"
        assert [row["origin"] for row in schedule.history()] == ["trigger"]
        schedule.update(overlap="allow_all", note="hand-made")
        assert (schedule.describe()["overlap"], schedule.describe()["note"]) == ("allow_all", "hand-made")
        midnight = schedule.next_runs(1)[0]
        assert schedule.backfill(midnight - timedelta(days=3), midnight - timedelta(days=1)) == 3
        assert schedule.delete()
    url.dispose()


REFUSED: list[tuple[type[HotMeshError], dict[str, Any]]] = [
    (InvalidSchedule, {"interval": "60 * * * *"}),
    (InvalidSchedule, {"interval": 0}),
    (InvalidSchedule, {"time_zone": "Europe/Berln"}),
    (InvalidDuration, {"interval": "1 dya"}),
    (InvalidDuration, {"delay": "-1 s"}),
    (InvalidDuration, {"delay": "infinity"}),
    (InvalidDuration, {"jitter": "soon"}),
    (InvalidDuration, {"catchup": "always"}),
    (InvalidDuration, {"retention": "1 dya"}),
    (PayloadError, {"overlap": "maybe"}),
    (PayloadError, {"max_cycles": 0}),
    (PayloadError, {"max_cycles": 1.5}),
    (PayloadError, {"priority": 6}),
    (PayloadError, {"pause_after_failures": True}),
    (PayloadError, {"args": "text"}),
    (PayloadError, {"args": [{1}]}),
    (PayloadError, {"memo": "\0"}),
    (PayloadError, {"note": "\0"}),
    (PayloadError, {"paused": 1}),
    (PayloadError, {"task_queue": ""}),
    (PayloadError, {"kind": "topic"}),
    (PayloadError, {"workflow": "x" * 1001}),
    (PayloadError, {"schedule_id": ""}),
    (PayloadError, {"schedule_id": "x" * 901}),
]


SAID: list[tuple[dict[str, Any], str]] = [
    ({"delay": "soon"}, "^delay: not a duration: 'soon'"),
    ({"jitter": "1 dya"}, r"^jitter: not a duration: '1 dya' \(position 3\): .*did you mean 1 day"),
    ({"catchup": "some"}, r"^catchup: not a duration: 'some'.*'none', 'last', or a duration"),
    ({"interval": "1 dya"}, "^not a duration: '1 dya'"),
    ({"priority": 6}, "^priority: must be a whole number from 1 to 5, not 6"),
    ({"max_cycles": 0}, "^max_cycles: must be a whole number from 1 on, not 0"),
]


async def test_bad_input_is_refused_at_the_call(dsn: str, db: Schedules) -> None:
    async with Client(dsn) as client:
        for kind, wrong in REFUSED:
            good: dict[str, Any] = {"schedule_id": "s", "workflow": nothing, "interval": "1 day"}
            with pytest.raises(kind):
                await client.schedule.create(**(good | wrong))
        for wrong, said in SAID:
            with pytest.raises(HotMeshError, match=said):
                await client.schedule.create("s", nothing, **({"interval": "1 day"} | wrong))
        assert await client.schedule.list() == []
        await client.schedule.create("s", nothing, interval="1 day")
        for kind, wrong in REFUSED:
            if "schedule_id" not in wrong:
                with pytest.raises(kind):
                    await client.schedule.get("s").update(**wrong)
        with pytest.raises(PayloadError, match="a schedule needs one"):
            await client.schedule.get("s").update(workflow=None)  # type: ignore[arg-type]
        for window in [(datetime(2020, 1, 1), datetime.now(UTC)), (datetime.now(UTC), datetime(2100, 1, 1, tzinfo=UTC))]:
            with pytest.raises(PayloadError):
                await client.schedule.get("s").backfill(*window)
