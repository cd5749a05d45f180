"""MeshCall: functions by topic, called from anywhere; what they are given, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
import threading
from typing import Any

import pydantic
import pytest

from pyhotmesh import ApplicationError, CallFailed, MeshCall, PayloadError, SyncMeshCall, TimeoutError, WorkflowInterrupted
from tests.calls.kit import Counted
from tests.reliability.kit import Database, until


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


async def test_annotations_count_wherever_they_stand(dsn: str, db: Database) -> None:
    """Also those of an object that can be called, of a method, and of what partial() has left."""

    class Clerk:
        def __call__(self, person: Person) -> str:
            return person.name

        async def age(self, person: Person) -> int:
            return person.age

    def both(greeting: str, person: Person) -> str:
        return f"{greeting}, {person.name}"

    async with MeshCall(dsn) as mesh:
        await mesh.connect("object", Clerk())
        await mesh.connect("method", Clerk().age)
        await mesh.connect("partial", functools.partial(both, "Hello"))
        topics = ("object", "method", "partial")
        assert [await mesh.exec(topic, args=[Person(name="Ada", age=36)]) for topic in topics] == ["Ada", 36, "Hello, Ada"]


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
