"""MeshCall.cron: created once, served by all, each slot called once, whatever becomes of the calls."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
import zoneinfo
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyhotmesh import CallFailed, HotMeshError, InvalidSchedule, MeshCall, RetryPolicy, TimeoutError, activity, heartbeat
from tests.calls.kit import Counted, server
from tests.reliability.kit import Database, until

# Not the runs: what became of one is kept for an hour, and with the next night a day has passed.
ENDED = "select count(*) from hotmesh.firings where outcome = 'completed'"


async def test_a_nightly_cron_on_three_servers(dsn: str, db: Database) -> None:
    """Called at each start of three servers: one creates it, all serve it, and each night runs once."""
    servers = [MeshCall(dsn) for _ in range(3)]
    counted = Counted()

    async def start(mesh: MeshCall) -> bool:
        return await mesh.cron("nightly", counted, id="myNightlyCron123", interval="0 0 * * *", args=["night"])

    try:
        assert sorted(await asyncio.gather(*map(start, servers))) == [False, False, True]
        for night in range(1, 6):
            db.rows("select hotmesh_engine.skip(due_at - hotmesh.now()) from hotmesh.schedules")
            await until(lambda night=night: db.value(ENDED) == night)
        assert counted.runs == 5
        assert await asyncio.gather(*map(start, servers)) == [False] * 3, "at each further start"
        assert db.value("select cycles from hotmesh.schedules") == 5
        assert await servers[1].interrupt("another topic", "myNightlyCron123") is False
        assert await servers[1].interrupt("nightly", "myNightlyCron123") is True
        assert await servers[2].interrupt("nightly", "myNightlyCron123") is False
        db.skip("1 week")
        assert db.rows("select * from hotmesh.schedules") == []
        assert await servers[0].exec("nightly", args=["day"]) == ["day", 6]
    finally:
        for mesh in servers:
            await mesh.close()


@pytest.mark.limit(60)
async def test_a_nightly_cron_on_three_servers_of_their_own(dsn: str, db: Database, tmp_path: Path) -> None:
    """Three processes, started together twice: one creates it; one of them is killed; each night runs once."""
    for start in (1, 2):
        with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
            processes = list(threads.map(lambda _: stack.enter_context(server(dsn, tmp_path)), range(3)))
            if start == 1:
                assert sorted((tmp_path / "created").read_text().split()) == ["False", "False", "True"]
                continue
            assert (tmp_path / "created").read_text().split().count("True") == 1
            for night in range(1, 6):
                if night == 3:
                    processes[0].kill()
                db.rows("select hotmesh_engine.skip(due_at - hotmesh.now()) from hotmesh.schedules")
                await until(lambda n=night: db.value(ENDED) == n, "it has run")  # type: ignore[misc]
    assert len((tmp_path / "nights").read_text().split()) == 5
    assert db.rows("select decision, count(*) from hotmesh.firings group by 1") == [("started", 5)]


async def test_who_finds_it_there_serves_it_as_well(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as creator, MeshCall(dsn) as server:
        options = {"delay": "5 minutes", "max_cycles": 3, "time_zone": "Europe/Berlin", "overlap": "buffer_one",
                   "catchup": "last", "jitter": "1 second"}  # fmt: skip
        assert await creator.cron("t", id="c", interval="1 hour", args=["x"], **options) is True  # type: ignore[arg-type]
        assert await server.cron("t", counted, id="c", interval="2 hours") is False
        about = await creator.client.schedule.get("c").describe()
        assert {name: about[name] for name in (*options, "interval") if name in about} == {
            "max_cycles": 3, "time_zone": "Europe/Berlin", "overlap": "buffer_one", "catchup": "last",
            "jitter": dt.timedelta(seconds=1), "interval": "3600 seconds",
        }  # fmt: skip
        db.skip("5 minutes 2 seconds")
        await until(lambda: counted.runs == 1, "the first slot comes after the delay")


@pytest.mark.limit(120)
async def test_a_year_of_nights(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a worker, as in a service: the clock goes from night to night as soon as one has been called."""
    monkeypatch.setattr(heartbeat, "SCHEDULES_PAUSE", 0.0)  # 20 ms a night otherwise
    nights: list[str] = []
    ended = asyncio.Event()

    async def nightly() -> None:
        nights.append(activity.info().workflow_id)
        ended.set()

    async with MeshCall(dsn) as mesh:
        db.rows("select hotmesh_engine.skip(timestamptz '2040-01-01 12:00Z' - hotmesh.now())")
        await mesh.cron("nightly", nightly, id="myNightlyCron123", interval="0 3 * * *", time_zone="Europe/Berlin")
        begun = time.monotonic()
        for _ in range(366):
            ended.clear()
            db.rows("select hotmesh_engine.skip(due_at - hotmesh.now()) from hotmesh.schedules")
            await asyncio.wait_for(ended.wait(), 20)
            while db.rows("select count(*) from hotmesh_engine.live") != [(0,)]:  # a slot beside an open run is skipped
                await asyncio.sleep(0.001)
        assert time.monotonic() - begun < 60  # 4 s where others work as well
    slots = [dt.datetime.fromisoformat(night.removeprefix("myNightlyCron123:")) for night in nights]
    local = [slot.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")) for slot in slots]
    assert [(at.date(), at.hour) for at in local] == [(dt.date(2040, 1, 2) + dt.timedelta(days=n), 3) for n in range(366)]
    assert set(db.rows("select decision from hotmesh.firings")) == {("started",)}


async def test_a_cron_leaves_the_topic_as_it_is_connected(dsn: str, db: Database) -> None:
    counted = Counted(RuntimeError("not yet"))
    async with MeshCall(dsn) as mesh:
        await mesh.connect("t", counted, retry_policy=RetryPolicy(initial_interval=0.01, maximum_attempts=3))
        assert await mesh.cron("t", counted, id="c", interval="1 day") is True
        with pytest.raises(CallFailed):
            await mesh.exec("t")
        assert counted.runs == 3, "with its retry policy"
        for wrong in ({"interval": "60 * * * *"}, {"time_zone": "Mars/Base"}, {"overlap": "maybe"}):
            with pytest.raises(HotMeshError):
                await mesh.cron("u", Counted(), id="d", **{"interval": "1 day", **wrong})  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            await mesh.exec("u", timeout=0.3)  # what is refused serves nothing


async def test_a_schedule_of_workflows_is_no_cron(dsn: str, db: Database) -> None:
    async with MeshCall(dsn) as mesh:
        await mesh.client.schedule.create("s", "report", interval="1 day")
        assert await mesh.interrupt("report", "s") is False
        with pytest.raises(ValueError, match="a schedule of workflow 'report'"):
            await mesh.cron("report", id="s", interval="1 day")
    assert db.value("select count(*) from hotmesh.schedules") == 1


async def test_who_waits_for_calls_does_not_mind_schedules(dsn: str, db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Notifications about schedules are for workers, and those who only call are not told."""
    async with MeshCall(dsn) as mesh, MeshCall(dsn) as caller:
        await mesh.connect("t", Counted())
        assert await caller.exec("t") == [1]
        await caller.cron("t", id="c", interval="1 day")
        assert await caller.exec("t") == [2]
    assert caplog.records == []


async def test_a_cron_whose_calls_fail_goes_on(dsn: str, db: Database) -> None:
    counted = Counted(RuntimeError("never"))
    async with MeshCall(dsn) as mesh:
        assert await mesh.cron("fails", counted, id="f", interval="1 day", max_cycles=3)
        for run in range(1, 4):
            db.rows("select hotmesh_engine.skip(due_at - hotmesh.now()) from hotmesh.schedules")
            await until(lambda run=run: db.value("select failures from hotmesh.schedules") == run, "its failure is counted")
    assert counted.runs == 3


@pytest.mark.parametrize(("topic", "ends"), [("polite", "cancelled"), ("in_thread", "completed")])
async def test_a_run_that_is_replaced_ends_before_the_next_begins(dsn: str, db: Database, topic: str, ends: str) -> None:
    said: list[str] = []

    async def polite() -> None:
        said.append("begins")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            said.append("ends")

    def in_thread() -> None:
        said.append("begins")
        while not activity.cancelled():
            time.sleep(0.01)
        said.append("ends")

    async with MeshCall(dsn) as mesh:
        fn = polite if topic == "polite" else in_thread
        assert await mesh.cron(topic, fn, id=topic, interval="1 hour", overlap="cancel_other")
        for count in (1, 2):
            db.skip("1 hour")
            await until(lambda n=count: said.count("begins") == n, "it is called")  # type: ignore[misc]
        assert said == ["begins", "ends", "begins"]
        assert db.rows("select outcome from hotmesh.firings order by slot") == [(ends,), ("open",)]
        assert await mesh.interrupt(topic, topic) is True  # the cron; what it has started goes on
        (run,) = db.rows("select workflow_id from hotmesh.workflows where closed_at is null")[0]
        await mesh.client.get_handle(run).cancel()
        await until(lambda: said == ["begins", "ends"] * 2, "its function ends")


async def test_bad_crons_are_refused(dsn: str, db: Database) -> None:
    async with MeshCall(dsn) as mesh:
        await mesh.cron("a", id="mine", interval="1 day")
        with pytest.raises(ValueError, match="a cron of topic 'a'"):
            await mesh.cron("b", id="mine", interval="1 day")
        for interval, what in (("60 * * * *", "minute"), ("1 dya", "1 day"), ("0 0 30 2 *", "never"), ("-5 min", "-5 min")):
            with pytest.raises(HotMeshError, match=what):
                await mesh.cron("c", id="bad", interval=interval)
        with pytest.raises(InvalidSchedule, match="Mars"):
            await mesh.cron("c", id="bad", interval="@daily", time_zone="Mars/Base")
    assert db.rows("select schedule_id from hotmesh.schedules") == [("mine",)]
