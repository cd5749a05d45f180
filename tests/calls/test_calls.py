"""MeshCall: functions by topic, cached answers, failures that reach the caller, processes that die."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import subprocess
import sys
import threading
import time
import zoneinfo
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pydantic
import pytest

from pyhotmesh import (
    ApplicationError,
    CallFailed,
    Client,
    HotMeshError,
    InvalidSchedule,
    MeshCall,
    PayloadError,
    RetryPolicy,
    SyncMeshCall,
    TimeoutError,
    WorkflowInterrupted,
    activity,
)
from tests.reliability.kit import Database, until


class Counted:
    """A callback that counts how often it ran, and may be held up."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.runs = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, *args: Any) -> Any:
        self.runs += 1
        await self.go.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return [*args, self.runs]


@contextlib.contextmanager
def server(dsn: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.calls.server", dsn, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        process.wait(20)


# ------------------------------------------------------------------------------ connect and exec --


async def test_a_function_is_called(dsn: str, db: Database) -> None:
    async with MeshCall(dsn) as mesh, MeshCall(dsn) as caller:
        await mesh.connect("my.topic", lambda payload: {"hello": payload["name"]})
        assert await caller.exec("my.topic", args=[{"name": "something"}]) == {"hello": "something"}
        assert await mesh.exec("my.topic", args=[{"name": None}]) == {"hello": None}
    assert db.rows("select workflow_type, status from hotmesh.workflows") == [("my.topic", "completed")] * 2


async def test_sync_functions_run_in_threads_and_all_kinds_of_topics_are_fine(dsn: str, db: Database) -> None:
    topics = ["a:b", "a%3Ab", "Straße / 東京 🙂", "a" * 400]
    async with MeshCall(dsn) as mesh:
        for topic in topics:
            await mesh.connect(topic, lambda topic=topic: [topic, threading.current_thread() is threading.main_thread()])
        assert [await mesh.exec(topic, id="b") for topic in topics] == [[topic, False] for topic in topics]


async def test_a_call_waits_for_somebody_to_serve_it_and_goes_on_when_its_caller_does_not(dsn: str, db: Database) -> None:
    async with MeshCall(dsn) as caller, MeshCall(dsn) as mesh:
        with pytest.raises(TimeoutError, match=r"call of 'later' has not ended within 0\.05 s; it goes on") as caught:
            await caller.exec("later", args=[1], timeout=0.05)
        assert caught.value.kind == "result"
        patient = asyncio.create_task(caller.exec("later", args=[2]))
        await until(lambda: db.value("select count(*) from hotmesh.workflows") == 2, "both are asked for")
        counted = Counted()
        await mesh.connect("later", counted)
        assert await patient == [2, 2]
        assert counted.runs == 2


async def test_a_paused_one_takes_no_calls(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh, MeshCall(dsn) as caller:
        mesh.pause()
        await mesh.connect("paused", counted)
        with pytest.raises(TimeoutError):
            await caller.exec("paused", args=[1], timeout=0.3)
        assert counted.runs == 0
        mesh.resume()
        assert (await caller.exec("paused", args=[2], timeout=20))[0] == 2
        mesh.pause()
        await until(lambda: db.value("select queues from hotmesh_engine.sleeper where asleep") == [0], "the engine is told")
        with pytest.raises(TimeoutError):
            await caller.exec("paused", args=[3], timeout=0.3)
        assert counted.runs == 2
        mesh.resume()
        await until(lambda: counted.runs == 3, "the call that waited has run")


async def test_a_decorated_function_is_served_within_the_block(dsn: str, db: Database) -> None:
    mesh = MeshCall(dsn)

    @mesh.connect("decorated")
    async def double(n: int) -> int:
        return 2 * n

    assert await double(2) == 4
    async with mesh, MeshCall(dsn) as caller:
        assert await caller.exec("decorated", args=[21]) == 42


async def test_topics_connected_at_the_same_time_are_all_served(dsn: str, db: Database) -> None:
    """Also those that are connected while the worker registers, and decorated ones that come later."""
    async with MeshCall(dsn) as mesh:
        await asyncio.gather(*(mesh.connect(f"t{n}", lambda n=n: n) for n in range(5)))
        mesh.connect("later")(lambda: "later")
        await mesh.serve()
        assert await asyncio.gather(*(mesh.exec(f"t{n}", timeout=20) for n in range(5))) == [0, 1, 2, 3, 4]
        assert await mesh.exec("later", timeout=20) == "later"


async def test_two_functions_for_a_topic_are_refused(dsn: str, db: Database) -> None:
    async with MeshCall(dsn) as mesh:
        await mesh.connect("t", Counted())
        with pytest.raises(ValueError, match="'t' is connected to"):
            await mesh.connect("t", Counted())
        with pytest.raises(TypeError, match="a callback is a function"):
            await mesh.connect("u", "not a function")  # type: ignore[call-overload]


@dataclasses.dataclass
class Order:
    item: str
    placed: dt.datetime
    lines: list[Line]


@dataclasses.dataclass
class Line:
    count: int


class Person(pydantic.BaseModel):
    name: str
    age: int


async def test_results_are_json(dsn: str, db: Database) -> None:
    async def order() -> Order:
        return Order("tea", dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), [Line(2)])

    async def people() -> list[Person]:
        return [Person(name="Ada", age=36)]

    async with MeshCall(dsn) as mesh:
        await mesh.connect("order", order)
        await mesh.connect("people", people)
        assert await mesh.exec("order") == {"item": "tea", "placed": "2026-01-02T03:04:00+00:00", "lines": [{"count": 2}]}
        assert await mesh.exec("people") == [{"name": "Ada", "age": 36}]


async def test_annotations_say_what_arguments_become(dsn: str, db: Database) -> None:
    seen: list[Any] = []

    async def take(order: Order, person: Person, plain: dict[str, Any], *more: Person) -> Person:
        seen.extend([order, person, plain, *more])
        return person

    async with MeshCall(dsn) as mesh:
        await mesh.connect("take", take)
        order = Order("tea", dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), [Line(2), Line(3)])
        ada = Person(name="Ada", age=36)
        assert await mesh.exec("take", args=[order, ada, {"a": 1}, ada]) == {"name": "Ada", "age": 36}
        assert seen == [order, ada, {"a": 1}, ada]
        with pytest.raises(CallFailed, match="argument 'person'") as caught:
            await mesh.exec("take", args=[order, {"name": "Ada"}, {}])
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "BadArgument"


# -------------------------------------------------------------------------------------- failures --


async def test_an_exception_reaches_the_caller_with_type_message_and_cause(dsn: str, db: Database) -> None:
    async def breaks() -> None:
        try:
            raise KeyError("missing")
        except KeyError as error:
            raise ValueError("it cannot be done") from error

    async with MeshCall(dsn) as mesh:
        await mesh.connect("breaks", breaks)
        with pytest.raises(CallFailed, match="call of 'breaks' failed: ValueError: it cannot be done") as caught:
            await mesh.exec("breaks")
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.message) == ("ValueError", "it cannot be done")
    inner = cause.__cause__
    assert isinstance(inner, ApplicationError)
    assert (inner.type, inner.message) == ("KeyError", "'missing'")


async def test_a_policy_has_it_tried_again(dsn: str, db: Database) -> None:
    attempts: list[int] = []

    async def third_time() -> str:
        attempts.append(activity.info().attempt)
        if len(attempts) < 3:
            raise RuntimeError(f"failure {len(attempts)}")
        return "at last"

    async with MeshCall(dsn) as mesh:
        await mesh.connect("third", third_time, retry_policy=RetryPolicy(initial_interval="1 hour"))
        call = asyncio.create_task(mesh.exec("third", id="x"))
        for _ in range(2):
            await until(lambda: db.parked("call:third:x"), "it backs off")
            db.skip("2 hours")
        assert await call == "at last"
    assert attempts == [1, 2, 3]
    assert db.events("call:third:x") == ["activity_failed", "activity_failed", "completed"]


async def test_a_policy_says_when_it_is_enough(dsn: str, db: Database) -> None:
    counted = Counted(RuntimeError("never"))
    async with MeshCall(dsn) as mesh:
        await mesh.connect("never", counted, retry_policy=RetryPolicy(initial_interval=0.01, maximum_attempts=3))
        with pytest.raises(CallFailed, match="never"):
            await mesh.exec("never")
    assert counted.runs == 3


@pytest.mark.limit(90)
async def test_a_process_that_dies_is_replaced(dsn: str, db: Database, tmp_path: Path) -> None:
    async with MeshCall(dsn) as caller:
        call = asyncio.create_task(caller.exec("deadly", args=[1]))
        bounded = asyncio.create_task(caller.exec("deadly twice at most", args=[2]))
        for _ in range(8):
            if call.done() and bounded.done():
                break
            with server(dsn, tmp_path) as process:
                while process.poll() is None and not (call.done() and bounded.done()):
                    await asyncio.sleep(0.02)
        assert await call in (2, 3)  # its neighbour may take the process with it once more
        with pytest.raises(CallFailed, match="the worker that ran it was lost"):
            await bounded


# ---------------------------------------------------------------------------------------- caching --


async def test_a_cached_value_lasts_for_its_ttl(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("cached", counted)
        for _ in range(3):
            assert await mesh.exec("cached", args=["a"], id="k", ttl="15 minutes") == ["a", 1]
        assert await mesh.exec("cached", args=["b"], id="other", ttl="15 minutes") == ["b", 2]
        db.skip("14 minutes")
        assert await mesh.exec("cached", args=["c"], id="k", ttl="15 minutes") == ["a", 1]
        db.skip("2 minutes")
        assert await mesh.exec("cached", args=["d"], id="k", ttl="15 minutes") == ["d", 3]


async def test_topics_do_not_share_ids(dsn: str, db: Database) -> None:
    one, two = Counted(), Counted()
    async with MeshCall(dsn) as mesh, MeshCall(dsn, namespace="elsewhere") as elsewhere:
        await mesh.connect("a", one)
        await mesh.connect("a:b", two)
        await elsewhere.connect("a", two)
        assert await mesh.exec("a", args=[1], id="b:c", ttl="infinity") == [1, 1]
        assert await mesh.exec("a:b", args=[2], id="c", ttl="infinity") == [2, 1]
        assert await elsewhere.exec("a", args=[3], id="b:c", ttl="infinity") == [3, 2]


async def test_a_thousand_callers_of_a_cold_key_run_it_once(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh, MeshCall(Client(dsn, pool_size=20)) as callers:
        await mesh.connect("cold", counted)
        found = await asyncio.gather(*(callers.exec("cold", args=["x"], id="k", ttl="1 hour") for _ in range(1000)))
    assert found == [["x", 1]] * 1000
    assert counted.runs == 1
    assert db.value("select count(*) from hotmesh.workflows") == 1


async def test_an_id_alone_joins_what_is_open(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("joined", counted)
        callers = [MeshCall(dsn) for _ in range(5)]
        calls = [asyncio.create_task(caller.exec("joined", id="k")) for caller in callers]
        await until(lambda: db.value("select count(*) from hotmesh_engine.waiter") == 5, "all have joined")
        await until(lambda: counted.runs == 1, "it runs")
        counted.go.set()
        assert await asyncio.gather(*calls) == [[1]] * 5
        assert await mesh.exec("joined", id="k") == [2]
        for caller in callers:
            await caller.close()


async def test_a_failure_is_not_cached(dsn: str, db: Database) -> None:
    counted = Counted(RuntimeError("not today"))
    async with MeshCall(dsn) as mesh:
        await mesh.connect("fails", counted)
        for _ in range(2):
            with pytest.raises(CallFailed, match="not today"):
                await mesh.exec("fails", id="k", ttl="1 hour")
        counted.value = None
        assert await mesh.exec("fails", id="k", ttl="1 hour") == [3]
        assert await mesh.exec("fails", id="k", ttl="1 hour") == [3]


async def test_flush_lets_the_next_caller_run_it_again(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("flushed", counted)
        assert await mesh.flush("flushed", "k") is False
        assert await mesh.exec("flushed", id="k", ttl="1 hour") == [1]
        assert await mesh.flush("flushed", "k") is True
        assert await mesh.flush("flushed", "k") is False
        assert await mesh.exec("flushed", id="k", ttl="1 hour") == [2]


async def test_flush_does_not_disturb_who_waits_and_keeps_nothing_stale(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("busy", counted)
        waiting = asyncio.create_task(mesh.exec("busy", id="k", ttl="1 hour"))
        await until(lambda: counted.runs == 1, "it runs")
        assert await mesh.flush("busy", "k") is True
        db.rows("select hotmesh.prune()")
        counted.go.set()
        assert await waiting == [1]
        assert await mesh.exec("busy", id="k", ttl="1 hour") == [2]


async def test_interrupt_ends_what_runs(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("endless", counted)
        call = asyncio.create_task(mesh.exec("endless", id="k"))
        await until(lambda: counted.runs == 1, "it runs")
        assert await mesh.interrupt("endless", "k", "enough") is True
        with pytest.raises(WorkflowInterrupted, match="enough"):
            await call
        assert await mesh.interrupt("endless", "k") is False
        counted.go.set()
        assert await mesh.exec("endless", id="k") == [2]


# ------------------------------------------------------------------------------- many processes --


@pytest.mark.limit(90)
async def test_processes_share_a_topic(dsn: str, db: Database, tmp_path: Path) -> None:
    """Ten at a time in each process, 20 ms each: what one has no place for, the other gets."""
    with server(dsn, tmp_path) as one, server(dsn, tmp_path) as two:
        async with MeshCall(dsn) as caller:
            handles = await caller.start_many("who", [[n] for n in range(400)])
            found = await asyncio.gather(*(h.result(timeout=60) for h in handles))
        share = Counter(pid for _, pid in found)
    assert [n for n, _ in found] == list(range(400))
    assert min(share[one.pid], share[two.pid]) >= 10
    assert sorted((tmp_path / "calls").read_text().split("\n")[:-1]) == sorted(f"who {n}" for n in range(400))


async def test_slow_calls_are_not_hoarded(dsn: str, db: Database) -> None:
    """One process has all its places taken for as long as it likes; the others' calls go elsewhere."""
    held, free = Counted(), Counted()
    held.go.clear()
    async with MeshCall(dsn, max_concurrent_calls=2) as hoarder, MeshCall(dsn) as caller:
        await hoarder.connect("slow", held)
        handles = await caller.start_many("slow", [[n] for n in range(50)])
        await until(lambda: held.runs == 2, "its places are taken")
        async with MeshCall(dsn) as helper:
            await helper.connect("slow", free)
            await until(lambda: free.runs == 48, "the other has taken the rest")
        held.go.set()
        assert len(await asyncio.gather(*(h.result() for h in handles))) == 50
    assert (held.runs, free.runs) == (2, 48)


async def test_a_clean_end_lets_calls_end(dsn: str, db: Database) -> None:
    counted = Counted()
    counted.go.clear()
    mesh = MeshCall(dsn)
    await mesh.connect("ends", counted)
    async with MeshCall(dsn) as caller:
        call = asyncio.create_task(caller.exec("ends"))
        await until(lambda: counted.runs == 1, "it runs")
        closing = asyncio.create_task(mesh.close())
        await asyncio.sleep(0.05)
        counted.go.set()
        await closing
        assert await call == [1]


# -------------------------------------------------------------------------------------------- SQL --


async def test_calls_from_sql(dsn: str, db: Database) -> None:
    counted = Counted()
    async with MeshCall(dsn) as mesh:
        await mesh.connect("from:sql", counted)
        with psycopg.connect(dsn) as conn:
            conn.execute("select hotmesh.call('from:sql', '[\"never\"]')")
            conn.rollback()
            query = "select hotmesh.call('from:sql', %s, id => 'k', ttl => '1 hour')"
            (first,) = conn.execute(query, ('["x"]',)).fetchone() or ()
            (again,) = conn.execute(query, ('["y"]',)).fetchone() or ()
        assert first == again == "call:from%3Asql:k"
        await until(lambda: db.value("select hotmesh.result(%s)", first), "it is done")
        assert db.value("select hotmesh.result(hotmesh.call('from:sql', '[\"z\"]', 'k', '1 hour'))") == ["x", 1]
        assert await mesh.exec("from:sql", id="k", ttl="1 hour") == ["x", 1]


@pytest.mark.parametrize(
    "call",
    ["hotmesh.call('')", "hotmesh.call('t', '{}')", "hotmesh.call('t', ttl => '1 hour')", "hotmesh.call('t', '[\"\\u0000\"]')"],
)
def test_bad_calls_from_sql_are_refused(db: Database, call: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        db.rows(f"select {call}")
    assert caught.value.sqlstate == "HM003"


def test_a_ttl_from_sql(db: Database) -> None:
    with pytest.raises(psycopg.Error, match="a ttl cannot be negative") as caught:
        db.rows("select hotmesh.call('t', id => 'k', ttl => '-1 hour')")
    assert (caught.value.sqlstate, caught.value.diag.message_hint) == ("HM026", "Did you mean '01:00:00'?")
    assert db.value("select hotmesh.call('t', id => 'k', ttl => '2000 years')") == "call:t:k"
    assert db.value("select retention from hotmesh_engine.run") == dt.timedelta(days=365_000)


async def test_bad_calls_are_refused_before_anything_is_sent(dsn: str, db: Database) -> None:
    async with MeshCall(dsn) as mesh:
        for bad in (
            mesh.exec("", args=[]),
            mesh.exec("t", args="text"),
            mesh.exec("t", args=[float("nan")]),
            mesh.exec("t", ttl="1 hour"),
            mesh.exec("t", id="a\0"),
            mesh.exec("t", id="x" * 1001),
            mesh.flush("t", ""),
            mesh.interrupt("\0", "x"),
        ):
            with pytest.raises(PayloadError):
                await bad
        with pytest.raises(ValueError, match="1 dya"):
            await mesh.exec("t", id="k", ttl="1 dya")
    assert db.rows("select * from hotmesh.workflows") == []


# -------------------------------------------------------------------------------------------- cron --


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
            await until(
                lambda night=night: db.value("select count(*) from hotmesh.workflows where status = 'completed'") == night
            )
        assert counted.runs == 5
        assert await servers[1].interrupt("another topic", "myNightlyCron123") is False
        assert await servers[1].interrupt("nightly", "myNightlyCron123") is True
        assert await servers[2].interrupt("nightly", "myNightlyCron123") is False
        db.skip("1 week")
        assert db.rows("select * from hotmesh.schedules") == []
        assert await servers[0].exec("nightly", args=["day"]) == ["day", 6]
    finally:
        for mesh in servers:
            await mesh.close()


@pytest.mark.limit(120)
async def test_a_year_of_nights(dsn: str, db: Database) -> None:
    """By a worker, as in a service: the clock goes from night to night as soon as one has been called."""
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
        assert time.monotonic() - begun < 60  # 9 s where others work as well
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
            await until(lambda run=run: db.value("select count(*) from hotmesh.workflows where status = 'failed'") == run)
        await until(lambda: db.value("select failures from hotmesh.schedules") == 3, "its failures are counted")
    assert counted.runs == 3


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


# -------------------------------------------------------------------------------- blocking programs --


def test_blocking_programs_call_and_serve(dsn: str, db: Database) -> None:
    def thread(name: str) -> list[Any]:
        return [name, threading.current_thread().name.startswith("hotmesh-activity")]

    with SyncMeshCall(dsn) as mesh:
        mesh.connect("blocking", thread)
        assert mesh.exec("blocking", ["a"], id="k", ttl="1 hour") == ["a", True]
        assert mesh.exec("blocking", ["b"], id="k", ttl="1 hour") == ["a", True]
        assert mesh.flush("blocking", "k") is True
        assert mesh.start("blocking", ["c"]).result(timeout=20) == ["c", True]
        assert [h.result(timeout=20) for h in mesh.start_many("blocking", [["d"], ["e"]])] == [["d", True], ["e", True]]
        assert mesh.cron("blocking", id="often", interval="1 day", args=["f"]) is True
        assert mesh.cron("blocking", id="often", interval="1 day", args=["f"]) is False
        assert mesh.interrupt("blocking", "often") is True


@pytest.mark.parametrize("topic", ["polite", "stubborn"])
async def test_a_run_that_is_replaced_is_told_and_records_nothing(dsn: str, db: Database, topic: str) -> None:
    """overlap='cancel_other': not cooperative. The new call does not wait for the old function to notice."""
    said: list[str] = []
    go = threading.Event()

    async def polite(name: str) -> str:
        said.append(f"{name} begins")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            said.append(f"{name} is cancelled")
            raise
        return name

    def stubborn(name: str) -> str:
        said.append(f"{name} begins")
        while not activity.cancelled():
            go.wait(0.01)
        said.append(f"{name} is cancelled")
        return name

    async with MeshCall(dsn) as mesh:
        fn = polite if topic == "polite" else stubborn
        assert await mesh.cron(topic, fn, id=topic, interval="1 hour", args=[topic], overlap="cancel_other")
        for count in (1, 2):
            db.skip("1 hour")
            await until(lambda n=count: said.count(f"{topic} begins") == n, "it is called")  # type: ignore[misc]
        await until(lambda: f"{topic} is cancelled" in said, "the first is told")
        outcomes = "select outcome from hotmesh.firings order by slot"
        await until(lambda: db.rows(outcomes) == [("interrupted",), ("open",)], "it is replaced")
        assert await mesh.interrupt(topic, topic) is True  # the cron; what it has started goes on
        (run,) = db.rows("select workflow_id from hotmesh.workflows where closed_at is null")[0]
        await mesh.client.get_handle(run).interrupt()
