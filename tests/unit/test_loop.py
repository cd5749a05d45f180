"""The deterministic event loop: asyncio's ways to wait, in one order, live and on each replay."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhotmesh import ActivityError, workflow
from pyhotmesh.replay import listed
from tests.unit.driver import Live, failure

ask = workflow.execute_activity


async def act(i: int) -> int:
    return i


@workflow.defn
async def gathered(n: int) -> list[Any]:
    return list(await asyncio.gather(*[ask(act, i) for i in range(n)]))


def test_gather_returns_in_the_order_of_asking() -> None:
    live = Live(gathered, 4)
    assert live.asked == [] and [c.number for c in live.pending] == [1, 2, 3, 4]
    for number in (3, 1, 4, 2):
        live.answer(number, number * 10)
    assert live.result == [10, 20, 30, 40]
    assert live.replayed().outcome == live.instance.outcome


def test_gather_fails_with_the_first_failure_that_arrives() -> None:
    live = Live(gathered, 3)
    live.answer(2, failure("second"))
    assert "second" in str(live.result)
    assert live.replayed().outcome == live.instance.outcome


@pytest.mark.parametrize(
    ("consume", "groups"),
    [
        (lambda *f: asyncio.gather(*f), {1: 1, 2: 1, 3: 1}),  # wakes when all are there, or one has failed
        (lambda *f: asyncio.gather(*f, return_exceptions=True), {1: -1, 2: -1, 3: -1}),  # only when all are
        (lambda *f: asyncio.wait(f), {1: -1, 2: -1, 3: -1}),
        (lambda *f: asyncio.wait(f, return_when=asyncio.FIRST_EXCEPTION), {1: 1, 2: 1, 3: 1}),
        (lambda *f: asyncio.wait(f, return_when=asyncio.FIRST_COMPLETED), {1: 1, 2: 2, 3: 3}),
        (lambda *f: asyncio.gather(*map(_awaited, f)), {1: 1, 2: 2, 3: 3}),  # code comes after each
        (lambda a, b, c: asyncio.gather(asyncio.gather(a, b), c), {1: 1, 2: 1, 3: 3}),
        (lambda a, b, c: asyncio.gather(a, b), {1: 1, 2: 1, 3: 3}),
    ],
)
def test_what_is_wanted_together_is_a_group(consume: Any, groups: dict[int, int]) -> None:
    @workflow.defn
    async def consumer() -> None:
        await consume(*[ask(act, i) for i in range(3)])

    assert Live(consumer).instance.groups() == groups


async def _awaited(future: Any) -> Any:
    return await future


@pytest.mark.parametrize(
    ("when", "expected"),
    [(asyncio.FIRST_COMPLETED, [[1]]), (asyncio.FIRST_EXCEPTION, [[1, 3]]), (asyncio.ALL_COMPLETED, [[1, 2, 3]])],
)
def test_wait(when: str, expected: list[list[int]]) -> None:
    @workflow.defn
    async def waiter() -> list[list[int]]:
        futures = [ask(act, i) for i in (1, 2, 3)]
        done, _ = await asyncio.wait(futures, return_when=when)
        return [sorted(futures.index(f) + 1 for f in done)]  # type: ignore[arg-type]

    live = Live(waiter)
    for number, value in ((1, 1), (3, failure()), (2, 2)):
        if live.instance.outcome is None:
            live.answer(number, value)
    assert live.result == expected
    assert live.replayed().outcome == live.instance.outcome


def test_one_event_a_drain() -> None:
    """Two results that came in one batch are still seen one after the other, as in replay."""

    @workflow.defn
    async def eager() -> list[int]:
        pending: Any = {asyncio.ensure_future(ask(act, i)) for i in range(3)}
        sizes = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            sizes.append(len(done))
        return sizes

    live = Live(eager)
    for number in (2, 1, 3):
        live.answer(number)
    assert live.result == [1, 1, 1]


def test_task_groups_end_in_the_order_of_creation() -> None:
    @workflow.defn
    async def group(n: int) -> list[Any]:
        seen: list[Any] = []

        async def member(i: int) -> None:
            try:
                await ask(act, i)
                seen.append(("done", i))
                await ask(act, 100 + i)
            except asyncio.CancelledError:
                seen.append(("cancelled", i))
                raise

        try:
            async with asyncio.TaskGroup() as tasks:
                for i in range(n):
                    tasks.create_task(member(i))
        except* ActivityError as errors:
            seen.append(len(errors.exceptions))
        return seen

    live = Live(group, 20)
    live.answer(5)
    live.answer(17, failure())
    cancelled = [i for i in range(20) if i != 16]
    assert live.result == [["done", 4], *[["cancelled", i] for i in cancelled], 1]
    for _ in range(5):
        gc.collect()
        assert live.replayed().outcome == live.instance.outcome


def test_timeouts_end_what_they_bound() -> None:
    @workflow.defn
    async def bounded() -> list[Any]:
        seen: list[Any] = []
        try:
            async with asyncio.timeout(5):
                await ask(act, 1)
        except TimeoutError:
            seen.append("late")
        async with asyncio.timeout(60):
            seen.append(await ask(act, 2))
        return seen

    live = Live(bounded)
    assert sorted(c.kind for c in live.pending) == ["a", "t"]
    live.fire_due()
    assert sorted(c.kind for c in live.pending) == ["a", "t"], "the late one is given up"
    live.answer(next(c.number for c in live.pending if c.kind == "a"), "in time")
    assert live.result == ["late", "in time"]
    assert live.pending == [], "its timer is given up"
    assert live.replayed().outcome == live.instance.outcome


def test_time_stands_still_between_events() -> None:
    @workflow.defn
    async def clock() -> list[float]:
        loop = asyncio.get_running_loop()
        times = [loop.time(), loop.time()]
        await asyncio.sleep(10)
        times.append(loop.time())
        slept = await workflow.sleep_for("1 week")
        return [times[1] - times[0], round(times[2] - times[0]), round(slept)]

    live = Live(clock)
    live.fire_due()
    live.fire_due()
    assert live.result == [0, 10, 604800]
    assert live.replayed().outcome == live.instance.outcome


def test_cancellation_runs_finally_and_cleanup() -> None:
    @workflow.defn
    async def careful() -> str:
        task = asyncio.ensure_future(inner())
        await ask(act, 1)
        task.cancel("enough")
        try:
            await task
        except asyncio.CancelledError:
            return await ask(act, "told")  # type: ignore[no-any-return]
        return "never"

    async def inner() -> None:
        try:
            await workflow.wait_for("nothing")
        finally:
            await ask(act, "cleanup")

    live = Live(careful)
    live.answer(next(c.number for c in live.pending if c.kind == "a"))
    live.answer(live.pending[0].number)
    live.answer(live.pending[0].number, "told")
    assert live.result == "told"
    assert [name for _, _, name, _ in live.asked] == ["act", "nothing", "act", "act"]
    assert live.replayed().outcome == live.instance.outcome


def test_conditions_settle_before_the_next_event() -> None:
    @workflow.defn
    async def counting() -> list[str]:
        seen: list[str] = []

        async def watch(name: str, at: int) -> None:
            await workflow.wait_condition(lambda: len(seen) >= at)
            seen.append(name)

        watchers = [asyncio.ensure_future(watch("b", 2)), asyncio.ensure_future(watch("c", 3))]
        await ask(act, 1)
        seen.append("first")
        await ask(act, 2)
        seen.append("a")
        await asyncio.gather(*watchers)
        return seen

    live = Live(counting)
    live.answer(1)
    live.answer(2)
    assert live.result == ["first", "a", "b", "c"]
    assert live.replayed().outcome == live.instance.outcome


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: asyncio.get_running_loop().run_in_executor(None, print),
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.create_subprocess_shell("true"),
    ],
)
def test_what_cannot_be_replayed_is_refused(forbidden: Any) -> None:
    @workflow.defn
    async def wrong() -> None:
        await forbidden()

    error = Live(wrong).result
    assert error.type == "RuntimeError" and "activity" in error.message


def test_eviction_runs_finally_and_asks_for_nothing() -> None:
    seen = []

    @workflow.defn
    async def tidy() -> None:
        try:
            await workflow.wait_for("never")
        finally:
            seen.append("finally")
            ask(act, 1)

    live = Live(tidy)
    live.instance.issued.clear()
    live.instance.evict()
    assert seen == ["finally"] and live.instance.issued == [] and live.instance.outcome is None


# A workflow made of random parts, fed in a random order: replay takes the same way.

KINDS = ["chain", "gather", "group", "first", "bounded", "shield"]
PLANS = st.recursive(
    st.sampled_from(["act", "sleep", "signal", "send", "chance"]),
    lambda part: st.tuples(st.sampled_from(KINDS), st.lists(part, min_size=1, max_size=4)),
    max_leaves=12,
)


@workflow.defn
async def random_parts(plan: Any) -> list[Any]:
    seen: list[Any] = []

    async def run(part: Any, path: str) -> Any:
        if isinstance(part, list):
            kind, inner = part
            parts = [partial(run, p, f"{path}{i}") for i, p in enumerate(inner)]
            if kind == "chain":
                for p in parts:
                    await p()
            elif kind == "gather":
                seen.append([type(r).__name__ for r in await asyncio.gather(*[p() for p in parts], return_exceptions=True)])
            elif kind == "group":
                try:
                    async with asyncio.TaskGroup() as group:
                        for p in parts:
                            group.create_task(p())
                except* Exception as errors:
                    seen.append([path, len(errors.exceptions)])
            elif kind == "first":
                tasks = [asyncio.ensure_future(p()) for p in parts]
                done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                seen.append([path, len(done), len(rest)])
                for task in rest:
                    task.cancel()
                await asyncio.gather(*done, *rest, return_exceptions=True)
            elif kind == "bounded":
                try:
                    async with asyncio.timeout(3):
                        for p in parts:
                            await p()
                except TimeoutError:
                    seen.append([path, "late"])
            else:
                for p in parts:
                    await asyncio.shield(p())
            return None
        try:
            if part == "act":
                await ask(act, path)
            elif part == "sleep":
                await asyncio.sleep(2)
            elif part == "signal":
                await workflow.wait_for(path, timeout=5)
            elif part == "send":
                await workflow.signal(path)
            else:
                seen.append([workflow.random().random(), str(workflow.uuid4()), workflow.now().isoformat()])
        finally:
            seen.append(path)
        return path

    try:
        await run(plan, "p")
    except Exception as error:
        seen.append(type(error).__name__)
    return seen


@given(PLANS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_replay_takes_the_same_way(plan: Any, chance: Any) -> None:
    live = Live(random_parts, plan)
    while live.instance.outcome is None:
        assert live.pending, "it waits for nothing"
        command = chance.choice(live.pending)
        if command.kind == "t":
            live.fire_due()
        elif command.kind == "a" and chance.random() < 0.3:
            live.answer(command.number, failure())
        else:
            live.answer(command.number, chance.random())
    first = live.replayed()
    assert first.outcome == live.instance.outcome and not first.issued
    # From any row on, a fresh coroutine asks for what the first one asked for, and goes on with it.
    cut = chance.randrange(len(live.journal)) + 1
    part = live.replayed_to(cut)
    assert listed(part.issued) == live.asked_after(cut)
