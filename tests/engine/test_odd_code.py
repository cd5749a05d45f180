"""User code that ends in odd ways: it fails alone, with a reason, and its worker goes on."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import pytest

from pyhotmesh import ActivityError, ApplicationError, Client, RetryPolicy, Worker, WorkflowFailed, workflow

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
async def asks(name: str) -> Any:
    return await workflow.execute_activity(name, retry_policy=ONCE)


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


ACTIVITIES = [
    exits, exits_on_the_loop, odd, odd_on_the_loop, nothing_next, nothing_next_on_the_loop, cancels_itself, too_deep,
]  # fmt: skip
SAYS = ["SystemExit: 3", "SystemExit: 3", "OddError: base", "OddError: base", "StopIteration", "StopIteration", "me", "recursion"]
WORKFLOWS = [exits_itself, a_task_exits, odd_itself, a_condition_fails, a_group_fails, uses_a_client]
REASONS = [
    "SystemExit",
    "SystemExit",
    "OddError: base",
    "KeyError: 'missing'",
    "ValueError: the reason",
    "WrongLoop: .*do it in an activity",
]


@pytest.mark.parametrize("cache", [None, 0], ids=["live", "replay"])
async def test_it_fails_alone_and_says_why(dsn: str, cache: int | None) -> None:
    workflows = [asks, swallows_its_cancellation, *WORKFLOWS]
    async with Client(dsn) as client, Worker(client, workflows=workflows, activities=[*ACTIVITIES, echo], cache_size=cache):
        for activity, says in zip(ACTIVITIES, SAYS, strict=True):
            with pytest.raises(WorkflowFailed, match=says) as caught:
                await client.workflow.execute(asks, args=[activity.__name__], timeout=20)
            assert isinstance(caught.value.cause, ActivityError)
            assert isinstance(caught.value.cause.__cause__, ApplicationError)
        for target, reason in zip(WORKFLOWS, REASONS, strict=True):
            with pytest.raises(WorkflowFailed, match=reason):
                await client.workflow.execute(target, timeout=20)
        assert await client.workflow.execute(swallows_its_cancellation, timeout=20) == "goes on"
