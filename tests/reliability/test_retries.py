"""Every field of a retry policy, every timeout, and attempts that are counted whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyhotmesh import ActivityError, ApplicationError, Client, RetryPolicy, TimeoutError, WorkflowFailed
from tests.reliability.flows import call
from tests.reliability.kit import Database, serve, spawn, until

FAST = {"initial_interval": 0.01, "maximum_interval": 0.05}


async def failure(client: Client, name: str, args: list[Any], **options: Any) -> BaseException:
    """The failure with which an activity ended for good."""
    with pytest.raises(WorkflowFailed) as caught:
        await client.workflow.execute(call, args=[name, args, options], timeout=30)
    outer = caught.value.cause
    assert isinstance(outer, ActivityError) and outer.activity == name
    assert outer.cause is not None
    return outer.cause


async def backs_off(db: Database, attempt: int) -> float:
    """Waits until that attempt has failed, and returns the seconds until the next."""
    query = (
        "select extract(epoch from due_at - hotmesh.now()) from hotmesh.activities where attempt = %s and status = 'backing off'"
    )
    await until(lambda: db.value(query, attempt) is not None, f"attempt {attempt} has failed")
    return float(db.value(query, attempt))


async def test_intervals_grow_up_to_their_limit_and_attempts_end(dsn: str, db: Database) -> None:
    policy = {"initial_interval": 100, "backoff_coefficient": 3.0, "maximum_interval": "10 minutes", "maximum_attempts": 4}
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(call, args=["fails", ["Odd"], {"retry_policy": policy}])
        for attempt, wait in ((1, 100), (2, 300), (3, 600)):
            assert wait - 10 < await backs_off(db, attempt) <= wait
            last = db.value("select last_failure from hotmesh.activities")
            assert (last["type"], last["message"], last["details"]) == ("Odd", "it failed", [{"code": 7}])
            db.skip(f"{wait} seconds")
        with pytest.raises(WorkflowFailed, match="it failed"):
            await handle.result(timeout=20)


async def test_one_attempt_is_one_attempt(dsn: str, db: Database, tmp_path: Path) -> None:
    async with Client(dsn) as client, serve(client):
        cause = await failure(client, "fails", [], retry_policy={"maximum_attempts": 1})
    assert isinstance(cause, ApplicationError) and cause.details == ({"code": 7},)


async def test_without_a_limit_it_is_tried_until_it_succeeds(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        assert await client.workflow.execute(call, args=["third_time", [], {"retry_policy": FAST}], timeout=20) == 3


@pytest.mark.parametrize(
    ("name", "args", "types"),
    [
        ("fails", ["Hopeless"], ["Other", "Hopeless"]),
        ("divides", [0], ["ZeroDivisionError"]),
        ("divides", [0], ["ArithmeticError"]),
        ("never_again", [], []),
    ],
    ids=["by its type", "by its class", "by a base class", "by its own word"],
)
async def test_not_retryable(dsn: str, db: Database, name: str, args: list[Any], types: list[str]) -> None:
    async with Client(dsn) as client, serve(client):
        policy = {"initial_interval": "1 hour", "non_retryable_error_types": types}
        cause = await failure(client, name, args, retry_policy=policy)
    assert isinstance(cause, ApplicationError)
    assert db.rows("select * from hotmesh.activities") == []


async def test_an_activity_may_name_its_own_delay(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(call, args=["later_by_its_own_wish", [], {"retry_policy": FAST}])
        assert 3590 < await backs_off(db, 1) <= 3600
        db.skip("1 hour")
        assert await handle.result(timeout=20) == 2


@pytest.mark.limit(90)
async def test_attempts_are_counted_across_crashes(dsn: str, db: Database, tmp_path: Path) -> None:
    """A process that dies counts as a try; with three tries, three processes die and no more."""
    async with Client(dsn) as client:
        options = {"retry_policy": {"maximum_attempts": 3}}
        handle = await client.workflow.start(call, args=["deadly", [str(tmp_path), 99], options])
        for _ in range(3):
            with spawn(dsn, lease=0.4, sweep=0.1) as victim:
                await until(lambda victim=victim: victim.process.poll() is not None, "it has killed itself", 30)
        with spawn(dsn, lease=0.4, sweep=0.1), pytest.raises(WorkflowFailed, match="worker that ran it was lost"):
            await handle.result(timeout=30)
    assert (tmp_path / "attempts").read_text().split() == ["1", "2", "3"]


@pytest.mark.limit(90)
async def test_failures_and_crashes_are_counted_together(dsn: str, db: Database, tmp_path: Path) -> None:
    async with Client(dsn) as client:
        options = {"retry_policy": {**FAST, "maximum_attempts": 3}}
        handle = await client.workflow.start(call, args=["deadly", [str(tmp_path), 2, 1], options])
        with spawn(dsn, lease=0.4, sweep=0.1) as victim:
            await until(lambda: victim.process.poll() is not None, "it has killed itself", 30)
        with spawn(dsn, lease=0.4, sweep=0.1):
            assert await handle.result(timeout=30) == 3
    assert (tmp_path / "attempts").read_text().split() == ["1", "2", "3"]


@pytest.mark.limit(90)
async def test_time_goes_on_when_the_attempt_after_a_crash_fails(dsn: str, db: Database, tmp_path: Path) -> None:
    """The journal notes the lost lease, then the failure: it never goes back in time (see the fixture)."""
    async with Client(dsn) as client:
        handle = await client.workflow.start(
            call, args=["deadly", [str(tmp_path), 1, 2], {"retry_policy": {**FAST, "maximum_attempts": 3}}]
        )
        with spawn(dsn, lease=0.4, sweep=0.1) as victim:
            await until(lambda: victim.process.poll() is not None, "it has killed itself", 30)
        with spawn(dsn, lease=0.4, sweep=0.1):
            assert await handle.result(timeout=30) == 3
    assert db.events(handle.workflow_id).count("lease_lost") == 1


@pytest.mark.parametrize("name", ["endless", "endless_in_thread"])
async def test_start_to_close_bounds_one_attempt(dsn: str, db: Database, name: str) -> None:
    async with Client(dsn) as client, serve(client):
        policy = {**FAST, "maximum_attempts": 2}
        cause = await failure(client, name, [], start_to_close_timeout=0.1, retry_policy=policy)
    assert isinstance(cause, TimeoutError) and cause.kind == "start_to_close"


async def test_schedule_to_close_bounds_all_attempts(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        options = {
            "schedule_to_close_timeout": "1 hour",
            "retry_policy": {"initial_interval": "2 hours", "maximum_interval": "1 day"},
        }
        handle = await client.workflow.start(call, args=["fails", [], options])
        await backs_off(db, 1)
        db.skip("61 minutes")
        with pytest.raises(WorkflowFailed) as caught:
            await handle.result(timeout=20)
    assert isinstance(caught.value.cause, ActivityError)
    assert isinstance(caught.value.cause.cause, TimeoutError) and caught.value.cause.cause.kind == "schedule_to_close"


async def test_schedule_to_close_ends_an_attempt_that_runs(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        handle = await client.workflow.start(call, args=["endless", [], {"schedule_to_close_timeout": "1 hour"}])
        await until(lambda: db.value("select status from hotmesh.activities") == "running", "it runs")
        db.skip("61 minutes")
        with pytest.raises(WorkflowFailed, match="schedule_to_close_timeout"):
            await handle.result(timeout=20)


async def test_heartbeats_keep_an_activity_alive(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, lease=1.0):
        options = {"heartbeat_timeout": 0.6, "retry_policy": {"maximum_attempts": 1}}
        assert await client.workflow.execute(call, args=["beats", [30], options], timeout=20) == 30


async def test_a_silent_activity_is_tried_again_with_its_last_details(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, lease=1.0):
        options = {"heartbeat_timeout": 0.6, "retry_policy": FAST}
        assert await client.workflow.execute(call, args=["silent_once", [], options], timeout=20) == [2, ["half", 50]]


async def test_a_silent_activity_has_as_many_attempts_as_its_policy_says(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, lease=1.0):
        options = {"heartbeat_timeout": 0.4, "retry_policy": {**FAST, "maximum_attempts": 2}}
        handle = await client.workflow.start(call, args=["always_silent", [], options])
        with pytest.raises(WorkflowFailed) as caught:
            await handle.result(timeout=20)
        cause = caught.value.cause
        assert isinstance(cause, ActivityError)
        assert isinstance(cause.cause, TimeoutError)
        assert cause.cause.kind == "heartbeat"
        assert db.value("select count(*) from hotmesh.activities where attempt = 2") == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"maximum_attempts": -1},
        {"maximum_attempts": 1.5},
        {"backoff_coefficient": 0.5},
        {"initial_interval": "soon"},
        {"maximum_interval": -1},
        {"non_retryable_error_types": "ValueError"},
    ],
    ids=str,
)
def test_nonsense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        RetryPolicy(**fields)
