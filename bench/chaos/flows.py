"""The workflow that is killed, stopped and cut: parallel and sequential steps, failures, a timer, signals."""

from __future__ import annotations

import asyncio
import random
from functools import cache
from typing import Any

from pyhotmesh import ApplicationError, RetryPolicy, activity, workflow

from .ledger import Ledger

QUICK = RetryPolicy(initial_interval=0.02, maximum_interval=0.1)
STEPS = 3


@cache
def ledger() -> Ledger:
    return Ledger.from_environment()


async def effect(name: str, step: str) -> list[str]:
    """Fails before its effect in one of four tries; else returns what was asked for, and a token."""
    if random.random() < 0.25:
        raise ApplicationError("at random")
    return [f"{name}/{step}", ledger().effect(name, step, activity.info().attempt)]


def blocking_effect(name: str, step: str) -> list[str]:
    """The same in a thread."""
    return [f"{name}/{step}", ledger().effect(name, step, activity.info().attempt)]


@workflow.defn
async def order(name: str) -> list[Any]:
    ask = workflow.execute_activity
    results = list(await asyncio.gather(*[ask(effect, name, f"p{i}", retry_policy=QUICK) for i in range(2)]))
    await workflow.sleep_for(0.05)
    for i in range(STEPS):
        results.append(await ask(blocking_effect, name, f"s{i}", retry_policy=QUICK))
    await workflow.signal(f"paid {name}", [name, ""])
    results.append(await workflow.wait_for(f"paid {name}"))
    return results


def expected(name: str) -> list[str]:
    """What ``order`` returns, without the tokens."""
    return [f"{name}/p0", f"{name}/p1", *[f"{name}/s{i}" for i in range(STEPS)], name]


WORKFLOWS = [order]
ACTIVITIES = [effect, blocking_effect]
