"""User code that ends in odd ways: it fails alone, with a reason, and its worker goes on."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import pytest

from pyhotmesh import (
    ActivityError,
    ApplicationError,
    CallFailed,
    Client,
    MeshCall,
    RetryPolicy,
    Worker,
    WorkflowFailed,
    workflow,
)
from pyhotmesh.activity import info

ONCE = RetryPolicy(maximum_attempts=1)


class OddError(BaseException):
    pass


def exits() -> None:
    sys.exit(3)


async def exits_on_the_loop() -> None:
    sys.exit(3)


def odd() -> None:
    raise OddError("base")


async def odd_on_the_loop() -> None:
    raise OddError("base")


def interrupts() -> None:
    raise KeyboardInterrupt("mine")


async def interrupts_on_the_loop() -> None:
    raise KeyboardInterrupt("mine")


async def interrupts_later() -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt("mine")


def closes() -> None:
    raise GeneratorExit("mine")


async def closes_on_the_loop() -> None:
    raise GeneratorExit("mine")


async def closes_later() -> None:
    await asyncio.sleep(0)
    raise GeneratorExit("mine")


async def awaits_one_that_closes() -> None:
    """A future's GeneratorExit closes the coroutines that await it; what it said is lost."""
    await asyncio.to_thread(closes)


def nothing_next() -> Any:
    return next(iter([]))


async def nothing_next_on_the_loop() -> Any:
    return next(iter([]))


async def cancels_itself() -> None:
    raise asyncio.CancelledError("me")


def too_deep() -> Any:
    return too_deep()


async def echo(value: Any) -> Any:
    return value


@workflow.defn
async def asks(name: str, limit: float | None) -> Any:
    return await workflow.execute_activity(name, retry_policy=ONCE, start_to_close_timeout=limit)


@workflow.defn
async def exits_itself() -> None:
    await workflow.execute_activity(echo, 1)
    sys.exit(1)


@workflow.defn
async def a_task_exits() -> None:
    async def leaves() -> None:
        sys.exit(1)

    await asyncio.create_task(leaves())


@workflow.defn
async def interrupts_itself() -> None:
    await workflow.execute_activity(echo, 1)
    raise KeyboardInterrupt("mine")


@workflow.defn
async def a_task_interrupts() -> None:
    async def leaves() -> None:
        raise KeyboardInterrupt("mine")

    await asyncio.create_task(leaves())


@workflow.defn
async def closes_itself() -> None:
    await workflow.execute_activity(echo, 1)
    raise GeneratorExit("mine")


@workflow.defn
async def a_task_closes() -> None:
    async def leaves() -> None:
        raise GeneratorExit

    await asyncio.create_task(leaves())


@workflow.defn
async def a_condition_exits() -> None:
    await workflow.wait_condition(lambda: sys.exit(1))


@workflow.defn
async def a_condition_interrupts() -> None:
    def leave() -> bool:
        raise KeyboardInterrupt("mine")

    await workflow.wait_condition(leave)


@workflow.defn
async def a_condition_ends() -> None:
    await workflow.wait_condition(lambda: next(iter([])))


@workflow.defn
async def raises_when_it_is_let_go(how: str) -> Any:
    try:
        return await workflow.wait_for(how)
    except GeneratorExit:
        raise LEAVING[how] from None


LEAVING = {"exit": SystemExit, "interrupt": KeyboardInterrupt, "odd": OddError}


@workflow.defn
async def odd_itself() -> None:
    raise OddError("base")


@workflow.defn
async def a_condition_fails() -> None:
    await workflow.wait_condition(lambda: {}["missing"])


@workflow.defn
async def a_group_fails() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))
        group.create_task(_raises())


async def _raises() -> None:
    raise ValueError("the reason")


@workflow.defn
async def uses_a_client() -> None:
    async with Client("postgresql:///nowhere") as client:
        await client.signal("k")


@workflow.defn
async def swallows_its_cancellation() -> Any:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await workflow.sleep_for("1 day")
        return await workflow.execute_activity(echo, "goes on")

    task = asyncio.create_task(stubborn())
    await workflow.sleep_for(0.001)
    task.cancel()
    return await task


ACTIVITIES = {
    exits: "SystemExit: 3", exits_on_the_loop: "SystemExit: 3", odd: "OddError: base", odd_on_the_loop: "OddError: base",
    interrupts: "KeyboardInterrupt: mine", interrupts_on_the_loop: "KeyboardInterrupt: mine",
    interrupts_later: "KeyboardInterrupt: mine", closes: "GeneratorExit: mine", closes_on_the_loop: "GeneratorExit: mine",
    closes_later: "GeneratorExit: mine", awaits_one_that_closes: "GeneratorExit",
    nothing_next: "StopIteration", nothing_next_on_the_loop: "StopIteration", cancels_itself: "me", too_deep: "recursion",
}  # fmt: skip
WORKFLOWS = {
    exits_itself: "SystemExit: 1", a_task_exits: "SystemExit: 1", odd_itself: "OddError: base",
    interrupts_itself: "KeyboardInterrupt: mine", a_task_interrupts: "KeyboardInterrupt: mine",
    closes_itself: "GeneratorExit: mine", a_task_closes: "GeneratorExit", a_condition_exits: "SystemExit: 1",
    a_condition_interrupts: "KeyboardInterrupt: mine", a_condition_fails: "KeyError: 'missing'",
    a_condition_ends: "StopIteration", a_group_fails: "ValueError: the reason",
    uses_a_client: "WrongLoop: .*do it in an activity",
}  # fmt: skip


@pytest.mark.parametrize("cache", [None, 0], ids=["live", "replay"])
@pytest.mark.parametrize("limit", [None, 20], ids=["", "limited"])
async def test_it_fails_alone_and_says_why(dsn: str, cache: int | None, limit: float | None) -> None:
    workflows = [asks, swallows_its_cancellation, raises_when_it_is_let_go, *WORKFLOWS]
    # One place for activities: whoever does not give it back is noticed by the next.
    places = {"activities": [*ACTIVITIES, echo], "max_concurrent_activities": 1}
    async with Client(dsn) as client, Worker(client, workflows=workflows, cache_size=cache, **places):
        for activity, says in ACTIVITIES.items():
            with pytest.raises(WorkflowFailed, match=says) as caught:
                await client.workflow.execute(asks, args=[activity.__name__, limit], timeout=20)
            assert isinstance(caught.value.cause, ActivityError)
            assert isinstance(caught.value.cause.__cause__, ApplicationError)
        for target, reason in WORKFLOWS.items():
            with pytest.raises(WorkflowFailed, match=reason):
                await client.workflow.execute(target, timeout=20)
        leaving = {how: await client.workflow.start(raises_when_it_is_let_go, args=[how]) for how in LEAVING}
        for handle in leaving.values():
            while cache == 0 and (await handle.describe())["status"] != "waiting":
                await asyncio.sleep(0.01)
        for how, handle in leaving.items():
            await client.signal(how, "went on")
            assert await handle.result(timeout=20) == "went on"
        assert await client.workflow.execute(swallows_its_cancellation, timeout=20) == "goes on"


async def third_time(how: str) -> int:
    if (attempt := info().attempt) < 3:
        raise LEAVING[how]("not yet")
    return attempt


@workflow.defn
async def tries(how: str) -> Any:
    quick = RetryPolicy(initial_interval=0.01, non_retryable_error_types=["SystemExit"])
    return await workflow.execute_activity(third_time, how, retry_policy=quick)


async def test_it_is_tried_again_as_any_failure(dsn: str) -> None:
    async with Client(dsn) as client, Worker(client, workflows=[tries], activities=[third_time]):
        assert await client.workflow.execute(tries, args=["interrupt"], timeout=20) == 3
        assert await client.workflow.execute(tries, args=["odd"], timeout=20) == 3
        with pytest.raises(WorkflowFailed, match="SystemExit: not yet"):
            await client.workflow.execute(tries, args=["exit"], timeout=20)


@pytest.mark.parametrize("on_the_loop", [True, False])
async def test_a_callback_fails_its_call_alone(dsn: str, on_the_loop: bool) -> None:
    functions = {"KeyboardInterrupt": (interrupts_later, interrupts), "GeneratorExit": (closes_later, closes),
                 "SystemExit": (exits_on_the_loop, exits)}  # fmt: skip
    async with MeshCall(dsn) as mesh:
        await mesh.connect("echo", echo)
        for name, (on_loop, in_thread) in functions.items():
            await mesh.connect(name, on_loop if on_the_loop else in_thread)
            with pytest.raises(CallFailed) as caught:
                await mesh.exec(name, timeout=20)
            assert isinstance(caught.value.cause, ApplicationError)
            assert caught.value.cause.type == name
        assert await mesh.exec("echo", [1], timeout=20) == 1
