"""Failures of calls reach the caller, at once or when the retry policy says that it is enough."""

from __future__ import annotations

import asyncio

import pytest

from pyhotmesh import ApplicationError, CallFailed, MeshCall, RetryPolicy, activity
from tests.calls.kit import Counted
from tests.reliability.kit import Database, until


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
