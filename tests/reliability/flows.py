"""The workflows and activities of the reliability tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from bench.chaos.flows import effect, order
from pyhotmesh import ActivityError, ApplicationError, RetryPolicy, activity, workflow

QUICK = RetryPolicy(initial_interval=0.01, maximum_interval=0.05)
ONCE = RetryPolicy(maximum_attempts=1)
ask = workflow.execute_activity

# -------------------------------------------------------------------------------------- activities --


async def echo(value: Any) -> Any:
    return value


def double(number: int) -> int:
    return number * 2


async def who() -> int:
    return os.getpid()


async def sleeps_a_little() -> int:
    await asyncio.sleep(0.05)
    return os.getpid()


async def fails(type_name: str = "Broken") -> None:
    raise ApplicationError("it failed", {"code": 7}, type=type_name)


async def never_again() -> None:
    raise ApplicationError("no use", non_retryable=True)


def divides(number: int) -> float:
    return 1 / number


async def third_time() -> int:
    if activity.info().attempt < 3:
        raise ApplicationError("not yet")
    return activity.info().attempt


async def later_by_its_own_wish() -> int:
    if activity.info().attempt == 1:
        raise ApplicationError("ask again in an hour", next_retry_delay="1 hour")
    return activity.info().attempt


async def endless() -> None:
    await asyncio.Event().wait()


async def tells_its_end(path: str) -> None:
    """Runs until it is cancelled; the file says whether it runs or has been."""
    Path(path).write_text("runs")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Path(path).write_text("cancelled")
        raise


def endless_in_thread() -> str:
    while not activity.cancelled():
        time.sleep(0.01)
    return "told to stop"


async def held(directory: str) -> list[int]:
    """Says that it has begun, and goes on when it may."""
    with Path(directory, "begun").open("a") as file:
        file.write(f"{os.getpid()} {activity.info().attempt}\n")
    while not Path(directory, "go").exists():
        await asyncio.sleep(0.01)
    return [os.getpid(), activity.info().attempt]


async def deadly(directory: str, kills: int, fails: int = 0) -> int:
    """Kills its process on so many attempts, and fails on one; tells the attempt on which it succeeded."""
    attempt = activity.info().attempt
    with Path(directory, "attempts").open("a") as file:
        file.write(f"{attempt}\n")
    if attempt == fails:
        raise ApplicationError("an ordinary failure")
    if attempt <= kills:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt


async def deadly_in_time(directory: str, seconds: float) -> None:
    """Kills its process after a while, each time."""
    with Path(directory, "attempts").open("a") as file:
        file.write(f"{activity.info().attempt}\n")
    if not Path(directory, "mended").exists():
        await asyncio.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)


async def silent_once() -> Any:
    """Reports its progress, then is silent for ever; the next attempt takes over."""
    if activity.info().attempt == 1:
        activity.heartbeat("half", 50)
        await asyncio.Event().wait()
    return [activity.info().attempt, list(activity.info().heartbeat_details)]


async def always_silent() -> None:
    """Never shows a sign of life."""
    await asyncio.Event().wait()


async def beats(n: int) -> int:
    for i in range(n):
        activity.heartbeat(i)
        await asyncio.sleep(0.05)
    return n


async def blocks_the_loop(seconds: float) -> str:
    time.sleep(seconds)
    return "blocked"


async def blocks_until(path: str) -> str:
    """Blocks the loop of its worker until the file is there. The second who tries does not block."""
    with Path(path + ".begun").open("a") as file:
        file.write("x")
    if Path(path + ".begun").read_text() == "x":
        while not Path(path).exists():
            time.sleep(0.01)
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "free"


# --------------------------------------------------------------------------------------- workflows --


@workflow.defn
async def shout(text: str) -> str:
    return f"{await ask(echo, text)}!"


@workflow.defn
async def chain(n: int) -> list[int]:
    return [await ask(double, i) for i in range(n)]


@workflow.defn
async def chain_then_signal(n: int, key: str) -> list[Any]:
    for i in range(n):
        await ask(double, i)
    return [n, await workflow.wait_for(key)]


@workflow.defn
async def fan(n: int, queue: str | None = None) -> list[int]:
    return list(await asyncio.gather(*[ask(double, i, task_queue=queue) for i in range(n)]))


@workflow.defn
async def pids(n: int, queue: str | None = None) -> list[int]:
    return list(await asyncio.gather(*[ask(who, task_queue=queue) for _ in range(n)]))


@workflow.defn
async def sleepers(n: int, options: dict[str, Any]) -> list[int]:
    return list(await asyncio.gather(*[ask(sleeps_a_little, **options) for _ in range(n)]))


@workflow.defn
async def fan_then_signal(n: int, queue: str, key: str) -> list[Any]:
    found = await asyncio.gather(*[ask(double, i, task_queue=queue) for i in range(n)])
    return [len(found), await workflow.wait_for(key)]


@workflow.defn
async def first_failure(n: int, good: str, bad: str, collect: bool) -> Any:
    """n activities of one queue and one, which fails, of another."""
    calls = [ask(double, i, task_queue=good) for i in range(n)]
    calls.append(ask(never_again, task_queue=bad))
    try:
        found = await asyncio.gather(*calls, return_exceptions=collect)
    except ActivityError as error:
        return f"failed early: {error.cause.message}"  # type: ignore[union-attr]
    return [str(f.cause.message) if isinstance(f, ActivityError) else f for f in found]  # type: ignore[union-attr]


@workflow.defn
async def listen(key: str, n: int = 1) -> list[Any]:
    return [await workflow.wait_for(key) for _ in range(n)]


@workflow.defn
async def collate(*keys: str) -> list[Any]:
    return list(await asyncio.gather(*[workflow.wait_for(k) for k in keys]))


@workflow.defn
async def two_gathers(*keys: str) -> list[Any]:
    """Each of the first two tells when it has both of its signals."""

    async def both(first: str, second: str, done: str) -> list[Any]:
        found = await asyncio.gather(workflow.wait_for(first), workflow.wait_for(second))
        await workflow.signal(done)
        return list(found)

    return list(await asyncio.gather(both(*keys[:2], "the first is done"), both(*keys[2:], "the second is done")))


@workflow.defn
async def gives_up(queue: str, key: str) -> Any:
    """Asks for an activity, does not want it any more, and waits for a signal."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            await ask(double, 1, task_queue=queue)
    return await workflow.wait_for(key)


@workflow.defn
async def patient(key: str, timeout: str) -> list[Any]:
    """Waits, gives up, and waits again: whatever was sent, it gets."""
    try:
        return ["in time", await workflow.wait_for(key, timeout=timeout)]
    except TimeoutError:
        return ["late", await workflow.wait_for(key)]


@workflow.defn
async def impatient(key: str, timeout: str) -> Any:
    try:
        return await workflow.wait_for(key, timeout=timeout)
    except TimeoutError:
        return None


@workflow.defn
async def nap(seconds: float) -> bool:
    return await workflow.sleep_for(seconds) >= seconds


@workflow.defn
async def weekly(rounds: int) -> int:
    done = 0
    while done < rounds and await workflow.sleep_for("1 week"):
        done += await ask(echo, 1)
    return done


@workflow.defn
async def ping_pong(me: str, other: str, rounds: int) -> int:
    """Signals to and fro between two workflows."""
    for i in range(rounds):
        await workflow.signal(f"{other}/{i}", me)
        assert await workflow.wait_for(f"{me}/{i}") == other
    return rounds


@workflow.defn
async def call(name: str, args: list[Any], options: dict[str, Any]) -> Any:
    """One activity, by name, under the given options."""
    if "retry_policy" in options:
        options = options | {"retry_policy": RetryPolicy(**options["retry_policy"])}
    return await ask(name, *args, **options)


@workflow.defn
async def mixture(name: str) -> list[Any]:
    """A bit of everything, as a worker sees it on a working day."""
    both = await asyncio.gather(ask(echo, name), ask(third_time, retry_policy=QUICK))
    await workflow.sleep_for(0.05)
    await workflow.signal(f"mixture {name}", {"b": 1, "a": both})
    return [both, await workflow.wait_for(f"mixture {name}"), await ask(double, 21)]


# For replay: what these return shows what their code saw, in type and order.


@workflow.defn
async def kaleidoscope(values: list[Any]) -> str:
    seen = [await ask(echo, value) for value in values]
    seen += await asyncio.gather(*[ask(echo, value) for value in reversed(values)])
    await workflow.signal(f"k{workflow.info().workflow_id}", values)
    seen.append(await workflow.wait_for(f"k{workflow.info().workflow_id}"))
    return repr(seen)


@workflow.defn
async def races(n: int) -> str:
    """Who comes first, in the order in which the code was told."""
    order_seen: list[Any] = []
    pending = {asyncio.ensure_future(ask(double, i)) for i in range(n)}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        order_seen.append([f.result() for f in done])
        order_seen.append(workflow.now().isoformat())
    for first in asyncio.as_completed([asyncio.ensure_future(_named(i)) for i in range(n)]):
        order_seen.append(await first)
    return repr(order_seen)


async def _named(i: int) -> tuple[int, Any]:
    return i, await ask(echo, i)


@workflow.defn
async def groups(n: int) -> str:
    seen: list[Any] = []

    async def member(i: int) -> None:
        seen.append((i, await ask(double, i)))
        if i % 3 == 0:
            await workflow.sleep_for(0.01)
        seen.append((i, await ask(echo, str(i))))

    async with asyncio.TaskGroup() as group:
        for i in range(n):
            group.create_task(member(i))
    return repr(seen)


@workflow.defn
async def timeouts() -> str:
    seen: list[Any] = []
    try:
        async with asyncio.timeout(0.05):
            await workflow.wait_for("nobody sends this")
    except TimeoutError as error:
        seen.append(type(error).__name__)
    async with asyncio.timeout(3600):
        seen.append(await ask(echo, 1))
    try:
        await workflow.wait_for("nor this", timeout=0.02)
    except TimeoutError as error:
        seen.append(str(error))
    done, pending = await asyncio.wait([asyncio.ensure_future(_slow(t)) for t in (0.01, 3600.0)], timeout=0.05)
    seen.append((len(done), len(pending)))
    for task in pending:
        task.cancel()
    await asyncio.sleep(0.01)
    return repr(seen)


async def _slow(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@workflow.defn
async def chances(n: int) -> str:
    seen: list[Any] = []
    for _ in range(n):
        seen += [workflow.random().random(), str(workflow.uuid4()), workflow.now().isoformat()]
        await ask(echo, workflow.random().randrange(1000))
    return repr(seen)


@workflow.defn
async def survivor() -> str:
    """Fails, is told, cleans up and goes on."""
    seen: list[Any] = []
    for name in ("Broken", "Other"):
        try:
            await ask(fails, name, retry_policy=ONCE)
        except ActivityError as error:
            cause = error.cause
            assert isinstance(cause, ApplicationError)
            seen.append((cause.type, cause.message, cause.details))
        finally:
            seen.append(await ask(echo, f"after {name}"))
    outcome = await asyncio.gather(ask(fails, retry_policy=ONCE), ask(echo, 1), return_exceptions=True)
    seen.append([type(o).__name__ for o in outcome])
    return repr(seen)


@workflow.defn
async def conditions() -> str:
    seen: list[Any] = []

    async def work(i: int) -> None:
        seen.append(await ask(double, i))

    tasks: list[Awaitable[None]] = [asyncio.ensure_future(work(i)) for i in range(5)]
    await workflow.wait_condition(lambda: len(seen) >= 3)
    seen.append("three are there")
    await asyncio.gather(*tasks)
    return repr(seen)


@workflow.defn
async def doomed() -> Any:
    return await ask(fails, retry_policy=ONCE)


ACTIVITIES = [
    echo, double, who, sleeps_a_little, fails, never_again, divides, third_time, later_by_its_own_wish, endless,
    tells_its_end, endless_in_thread, held, deadly, deadly_in_time, silent_once, always_silent, beats, blocks_the_loop,
    blocks_until, effect,
]  # fmt: skip
WORKFLOWS = [
    shout, chain, chain_then_signal, fan, pids, sleepers, fan_then_signal, first_failure, listen, collate, two_gathers, gives_up,
    patient, impatient, nap, weekly, ping_pong, call, mixture, kaleidoscope, races, groups, timeouts, chances, survivor,
    conditions, doomed, order,
]  # fmt: skip
