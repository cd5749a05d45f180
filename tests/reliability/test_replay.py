"""A run whose code is run again from its journal sees what it saw live; code that does not fit is stopped.

That each closed workflow of these tests can be replayed to its end is checked after each of them (conftest).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyhotmesh import Client, migrate, workflow
from tests.reliability import flows
from tests.reliability.flows import ask, double, echo
from tests.reliability.kit import Database, serve, until
from tests.reliability.replays import replay_closed

VALUES: list[Any] = [
    {"zeta": 1, "alpha": 2, "middle": {"b": None, "a": [1, 1.0, True]}}, 1, 1.0, -0.0, 1e16, 10**18, 2**53 + 1, 2**64 - 1,
    -(2**63), 0.1 + 0.2, 5e-324, True, None, "", "é\u2028😀\\u0000\"", [], {}, [[[[]]]], {"": {"": ""}}, [None, False, 0, ""],
]  # fmt: skip

# Workflow, arguments, and the signals that it needs.
CASES: list[tuple[Any, list[Any], list[tuple[str, Any]]]] = [
    (flows.shout, ["héllo"], []),
    (flows.chain, [30], []),
    (flows.fan, [50], []),
    (flows.fan, [20, "helpers"], []),
    (flows.fan_then_signal, [10, "helpers", "after the fan"], [("after the fan", {"b": 1, "a": 2})]),
    (flows.chain_then_signal, [3, "after the chain"], [("after the chain", "x")]),
    (flows.pids, [3], []),
    (flows.sleepers, [3, {}], []),
    (flows.first_failure, [3, "helpers", "helpers", True], []),
    (flows.listen, ["listened", 3], [("listened", 1), ("listened", [2.0]), ("listened", None)]),
    (flows.collate, ["c1", "c2", "c3"], [("c3", 3), ("c2", 2), ("c1", 1)]),
    (flows.two_gathers, ["g1", "g2", "g3", "g4"], [("g4", 4), ("g1", 1), ("g2", 2), ("g3", 3)]),
    (flows.patient, ["patience", "20 ms"], []),
    (flows.impatient, ["nobody", "20 ms"], []),
    (flows.nap, [0.02], []),
    (flows.ping_pong, ["A", "B", 10], []),
    (flows.ping_pong, ["B", "A", 10], []),
    (flows.call, ["third_time", [], {"retry_policy": {"initial_interval": 0.01}}], []),
    (flows.mixture, ["m"], []),
    (flows.kaleidoscope, [VALUES], []),
    (flows.groups, [10], []),
    (flows.timeouts, [], []),
    (flows.survivor, [], []),
    (flows.conditions, [], []),
    (flows.races, [12], []),
    (flows.chances, [5], []),
]
# What these return depends on the clock, on the run's id, or on who was quicker.
OF_THE_MOMENT = {flows.races, flows.chances, flows.groups, flows.conditions}
# They fail, or need the clock or a file: the tests that run them replay them.
ELSEWHERE = {flows.doomed, flows.weekly, flows.gives_up, flows.order}


async def run_all(dsn: str, cache: int | None) -> list[Any]:
    async with (
        Client(dsn) as client,
        serve(client, cache_size=cache),
        serve(client, task_queue="helpers", workflows=[]),
    ):
        handles = [
            await client.workflow.start(code, args=args, workflow_id=f"{i} {code.__name__}")
            for i, (code, args, _) in enumerate(CASES)
        ]
        for _, _, signals in CASES:
            for name, value in signals:
                await client.signal(name, value)
        await asyncio.sleep(0.1)
        await client.signal("patience", "late")
        return await asyncio.gather(*[h.result(timeout=50) for h in handles])


def test_no_workflow_is_left_out() -> None:
    assert {code for code, *_ in CASES} | ELSEWHERE == set(flows.WORKFLOWS)


async def test_results_do_not_depend_on_the_cache(dsn: str, db: Database, empty_dsn: str) -> None:
    """Every workflow, live, and replayed from its journal at each single step."""
    live = await run_all(dsn, None)
    migrate.upgrade(empty_dsn)
    replayed = await run_all(empty_dsn, 0)
    for (code, args, _), one, other in zip(CASES, live, replayed, strict=True):
        if code not in OF_THE_MOMENT:
            assert repr(one) == repr(other), (code.__name__, args)
    assert replay_closed(db, flows.WORKFLOWS) == len(CASES)
    with Database(empty_dsn) as other_db:
        other_db.check()
        assert replay_closed(other_db, flows.WORKFLOWS) == len(CASES)
    expected = repr([*VALUES, *reversed(VALUES), VALUES])
    assert live[[c for c, *_ in CASES].index(flows.kaleidoscope)] == expected, "type, sign and key order"


async def test_a_run_may_move_between_workers_that_cache_and_that_do_not(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client, cache_size=0), serve(client), serve(client, cache_size=3):
        handles = [await client.workflow.start(flows.mixture, args=[str(i)]) for i in range(40)]
        results = await asyncio.gather(*[h.result(timeout=50) for h in handles])
    for i, (both, signal, answer) in enumerate(results):
        assert both == [str(i), 3] and signal == {"b": 1, "a": both} and list(signal) == ["b", "a"] and answer == 42


async def test_a_long_history_is_fetched_in_pages(dsn: str, db: Database) -> None:
    """The engine hands out 5,000 journal rows with a lease; the rest is fetched."""
    async with Client(dsn) as client:
        async with serve(client):
            handle = await client.workflow.start(flows.chain_then_signal, args=[5200, "go"], workflow_id="long")
            await until(lambda: db.waits("long"), "it waits", 50)
        assert db.value("select count(*) from hotmesh.history where workflow_id = 'long'") > 5200
        async with serve(client):
            await client.signal("go", "on")
            assert await handle.result(timeout=30) == [5200, "on"]


# ------------------------------------------------------------------------------ code that changed --


async def _fits(key: str) -> list[Any]:
    one = await ask(echo, "one")
    two = await ask(double, 2)
    return [one, two, await workflow.wait_for(key), await ask(echo, "three")]


async def _removed(key: str) -> list[Any]:
    two = await ask(double, 2)
    return [two, await workflow.wait_for(key), await ask(echo, "new effect")]


async def _added(key: str) -> list[Any]:
    one = await ask(echo, "one")
    await ask(echo, "new effect")
    return [one, await ask(double, 2), await workflow.wait_for(key)]


async def _reordered(key: str) -> list[Any]:
    two = await ask(double, 2)
    return [await ask(echo, "one"), two, await workflow.wait_for(key), await ask(echo, "new effect")]


async def _renamed(key: str) -> list[Any]:
    one = await ask("repeat", "one")
    return [one, await ask(double, 2), await workflow.wait_for(key), await ask(echo, "new effect")]


async def _ended(key: str) -> list[Any]:
    return [await ask(echo, "one")]


async def _waits_elsewhere(key: str) -> list[Any]:
    one = await ask(echo, "one")
    return [one, await ask(double, 2), await workflow.wait_for("elsewhere"), await ask(echo, "new effect")]


CHANGES: dict[Callable[..., Any], str] = {
    _removed: "command 1: activity echo, the code asks for command 1: activity double",
    _added: "command 2: activity double, the code asks for command 2: activity echo",
    _reordered: "command 1: activity echo, the code asks for command 1: activity double",
    _renamed: "command 1: activity echo, the code asks for command 1: activity repeat",
    _ended: "the code ended before row",
    _waits_elsewhere: "wait for signal go, the code asks for command 3: wait for signal elsewhere",
}


def under(name: str, code: Callable[..., Any]) -> Any:
    """The code as a workflow of that name."""

    async def main(key: str) -> Any:
        return await code(key)

    return workflow.defn(name=name)(main)


@pytest.mark.parametrize("cache", [None, 0], ids=["live", "replay"])
async def test_code_that_does_not_fit_is_stopped_and_goes_on_when_it_fits(dsn: str, db: Database, cache: int | None) -> None:
    names = [change.__name__ for change in CHANGES]
    right = [under(name, _fits) for name in names]
    wrong = [under(change.__name__, change) for change in CHANGES]
    effects: list[str] = []

    async def echo(text: str) -> str:
        effects.append(text)
        return text

    def worker(workflows: list[Any]) -> Any:
        return serve(client, workflows=[*workflows, flows.shout], activities=[echo, double], cache_size=cache)

    async with Client(dsn) as client:
        async with worker(right):
            handles = [await client.workflow.start(name, args=["go"], workflow_id=name) for name in names]
            await until(lambda: all(db.waits(name) for name in names), "all wait")
        assert sorted(effects) == ["one"] * len(names)
        journal = db.rows("select * from hotmesh_engine.journal order by run_id, seq")

        await client.signal("go", "went")
        async with worker(wrong):
            await until(lambda: all(db.status(name) == "troubled" for name in names), "all are stopped")
            # Its neighbours go on.
            assert await client.workflow.execute(flows.shout, args=["on"], timeout=20) == "on!"
        for name, says in zip(names, CHANGES.values(), strict=True):
            described = await client.get_handle(name).describe()
            assert described["trouble_code"] == "HM025"
            assert says in described["trouble"], described["trouble"]
        assert sorted(effects) == ["on", *["one"] * len(names)], "nothing new was done"
        shouted = "(select run_id from hotmesh_engine.run where workflow_type = 'shout')"
        assert db.rows(f"select * from hotmesh_engine.journal where run_id not in {shouted} order by run_id, seq") == journal

        db.skip("10 minutes")  # longer than any back-off
        async with worker(right):
            assert await asyncio.gather(*[h.result(timeout=20) for h in handles]) == [["one", 4, "went", "three"]] * len(names)
    assert db.rows("select * from hotmesh_engine.trouble") == []
    assert replay_closed(db, right) == len(names)


async def test_one_that_goes_on_is_woken_as_any_other(dsn: str, db: Database) -> None:
    """Its trouble is over with the first thing that went well."""
    async with Client(dsn) as client:
        async with serve(client, workflows=[]):
            handle = await client.workflow.start(flows.listen, args=["k", 2], workflow_id="w")
            await until(lambda: db.status("w") == "troubled", "nobody knows its code")
        db.skip("1 hour")
        async with serve(client, cache_size=0):
            await until(lambda: db.waits("w") and db.parked("w"), "somebody knows it, and nothing is wrong with it any more")
            await client.signal("k", 1)
            await until(lambda: "signal_received" in db.events("w") and db.parked("w"), "it has seen one")
            await client.signal("k", 2)
            assert await handle.result(timeout=20) == [1, 2]


async def test_a_stopped_one_goes_on_at_once_if_told_so(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with serve(client, workflows=[under("w", _fits)]):
            handle = await client.workflow.start("w", args=["go"], workflow_id="w")
            await until(lambda: db.waits("w"), "it waits")
        async with serve(client, workflows=[under("w", _renamed)]):
            await client.signal("go")
            await until(lambda: db.status("w") == "troubled", "it is stopped")
        async with serve(client, workflows=[under("w", _fits)]):
            assert db.value("select hotmesh.resume('w')") is True
            assert await handle.result(timeout=20) == ["one", 4, None, "three"]
