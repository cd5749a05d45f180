"""Workflows of the demonstration, and the worker that its processes run."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from .. import RetryPolicy, Worker, workflow
from . import activities

LEASE = 5.0  # seconds, half of what workers have by default: who watches has to wait for it

acts = workflow.proxy_activities(activities, retry_policy=RetryPolicy(initial_interval=0.1, maximum_interval=0.5))


@workflow.defn
async def example(name: str) -> list[str]:
    """Greets in two languages at once, however often that takes."""
    return list(await asyncio.gather(acts.greet(name), acts.saludar(name)))


@workflow.defn
async def collate(first: str, second: str) -> list[Any]:
    """Waits for two signals, in whatever order they come."""
    return list(await asyncio.gather(workflow.wait_for(first), workflow.wait_for(second)))


@workflow.defn
async def weekly() -> None:
    """Sleeps for weeks, and costs a row while it does."""
    while await workflow.sleep_for("1 week"):
        pass


@workflow.defn
async def no_steps(value: int) -> int:
    """Costs what the engine itself costs."""
    return value


def worker() -> Worker:
    """Few activities at one time, so that the demonstration lasts long enough to be watched."""
    return Worker(
        name=os.environ.get(activities.WORKER),
        task_queue="demo",
        workflows=[example, collate, weekly, no_steps],
        activities=[activities.greet, activities.saludar],
        max_concurrent_runs=100,
        max_concurrent_activities=40,
        lease=LEASE,
    )
