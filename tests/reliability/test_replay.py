"""Replay: the same code with the same history sees the same, and other code is noticed before it does anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyhotmesh import Client, StartRequest, workflow
from pyhotmesh.replay import Info, Instance, Row
from tests.reliability import flows
from tests.reliability.kit import Database, serve, until

VALUES = [
    {"b": 1, "a": [None, True, {}]}, 1, 1.0, -0.0, 2**53 + 1, -(2**63), 1e300, 1e-7, "", "ü\u2028\n\"\\", "😀",
    [], [[]], None, False, {"1": 1, "": {"z": 1, "y": 2, "x": {"2": 0, "1": 0}}},
]  # fmt: skip

# Each with the same result however often it runs, or whether that depends on time and chance.
SAME: list[tuple[Any, list[Any]]] = [
    (flows.shout, ["a"]), (flows.chain, [4]), (flows.fan, [20]), (flows.first_failure, [3, "default", "default", True]),
    (flows.nap, [0.05]), (flows.call, ["third_time", [], {"retry_policy": {"initial_interval": 0.01}}]),
    (flows.kaleidoscope, [VALUES]), (flows.timeouts, []), (flows.survivor, []), (flows.mixture, ["m"]),
]  # fmt: skip
VARIED: list[tuple[Any, list[Any]]] = [
    (flows.races, [8]), (flows.groups, [9]), (flows.chances, [4]), (flows.conditions, []), (flows.doomed, []),
]  # fmt: skip


def replayed(db: Database, run_id: int) -> tuple[int, Any]:
    """The status and result that code and journal of a closed run lead to."""
    ((workflow_id, kind, text, created),) = db.rows(
        "select workflow_id, workflow_type, input::text, (extract(epoch from created_at) * 1000000)::bigint"
        " from hotmesh_engine.run where run_id = %s",
        run_id,
    )
    definition = next(d for d in map(workflow.definition_of, flows.WORKFLOWS) if d.name == kind)
    instance = Instance(definition, Info(workflow_id, run_id, kind, "default", "default", created), text.encode())
    rows = db.rows(
        "select seq, kind, command, (extract(epoch from at) * 1000000)::bigint, payload::text, commands::text"
        " from hotmesh_engine.journal where run_id = %s order by seq",
        run_id,
    )
    for seq, event, command, at, payload, commands in rows:
        instance.replay(Row(seq, event, command, at, payload and payload.encode(), commands and commands.encode()))
    assert instance.outcome is not None
    status, result = instance.outcome
    instance.evict()
    return status, result.decode()


async def run_all(client: Client, prefix: str) -> list[Any]:
    cases = SAME + VARIED
    requests = [StartRequest(f, args, workflow_id=f"{prefix}{i}") for i, (f, args) in enumerate(cases)]
    handles = await client.workflow.start_many(requests)
    out: list[Any] = []
    for handle in handles:
        try:
            out.append(await handle.result(timeout=40))
        except Exception as error:
            out.append(type(error).__name__)
    return out


async def test_a_cache_of_none_gives_the_same_results(dsn: str, db: Database) -> None:
    """With cache_size 0 every step begins with a replay."""
    async with Client(dsn) as client:
        async with serve(client):
            live = await run_all(client, "live")
        async with serve(client, cache_size=0):
            again = await run_all(client, "again")
    for (function, _), one, other in zip(SAME, live, again, strict=False):
        assert (type(one), _blind(one)) == (type(other), _blind(other)), function


def _blind(result: Any) -> Any:
    """A result without the id of its run."""
    return result.replace("again", "live") if isinstance(result, str) else result


async def test_closed_workflows_replayed_see_values_equal_in_type_and_order(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with serve(client):
            await run_all(client, "live")
        async with serve(client, cache_size=0):
            await run_all(client, "cold")
    closed = db.rows("select run_id, status, payload::text from hotmesh_engine.outcome order by run_id")
    assert len(closed) == 2 * len(SAME + VARIED)
    for run_id, status, result in closed:
        again, found = replayed(db, run_id)
        assert again == status, run_id
        if status == 1:
            assert found == result, run_id


# ------------------------------------------------------------------------------------ changed code --


def version(body: Callable[..., Any]) -> Any:
    """The code of the workflow `changing`, as one deployment has it."""
    return workflow.defn(name="changing")(body)


async def changing(key: str) -> list[Any]:
    first = await flows.ask(flows.echo, 1)
    got = await workflow.wait_for(key)
    return [first, got, await flows.ask(flows.double, 21)]


async def removed(key: str) -> list[Any]:
    return [await workflow.wait_for(key)]


async def added(key: str) -> list[Any]:
    await workflow.sleep_for("1 hour")
    return await changing(key)


async def reordered(key: str) -> list[Any]:
    got = await workflow.wait_for(key)
    return [await flows.ask(flows.echo, 1), got, 42]


async def renamed(key: str) -> list[Any]:
    first = await flows.ask(flows.double, 1)
    return [first, await workflow.wait_for(key), 42]


async def other_argument(key: str) -> list[Any]:
    first = await flows.ask(flows.echo, 2)
    return [first, await workflow.wait_for(key), 42]


async def ended_early(key: str) -> list[Any]:
    await flows.ask(flows.echo, 1)
    return []


@pytest.mark.parametrize("changed", [removed, added, reordered, renamed, other_argument, ended_early])
async def test_changed_code_is_parked_with_its_reason_and_the_right_code_goes_on(
    dsn: str, db: Database, changed: Callable[..., Any]
) -> None:
    async with Client(dsn) as client:
        async with serve(client, workflows=[version(changing)]):
            handle = await client.workflow.start("changing", args=["go"], workflow_id="c")
            await until(lambda: db.waits("c"), "it waits")
        await client.signal("go", "gone")
        trouble = "select code, message from hotmesh_engine.trouble"
        async with serve(client, workflows=[version(changed)]):
            await until(lambda: db.rows(trouble), "it is parked")
        ((code, message),) = db.rows(trouble)
        assert code == "HM025"
        assert "history" in message
        assert db.value("select count(*) from hotmesh_engine.journal where command > 2") == 0, "it has done nothing"
        db.rows("select hotmesh.resume('c')")
        async with serve(client, workflows=[version(changing)]):
            assert await handle.result(timeout=20) == [1, "gone", 42]
        assert db.rows(trouble) == []
