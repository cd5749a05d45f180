"""Workflow code that no longer fits its history is stopped before it asks for anything new."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyhotmesh import NonDeterminismError, workflow
from tests.unit.driver import Live

ask = workflow.execute_activity


async def charge(amount: int) -> int:
    return amount


async def ship(what: str) -> str:
    return what


async def mail(text: str) -> str:
    return text


@workflow.defn
async def shop() -> list[Any]:
    paid = await ask(charge, 10)
    await workflow.sleep_for("1 day")
    both = await asyncio.gather(ask(ship, "box"), ask(mail, "on its way"))
    await workflow.signal("shipped", 1)
    return [paid, both, await workflow.wait_for("received")]


def history() -> Live:
    """All but the last event: it waits for its signal."""
    live = Live(shop)
    live.answer(1, 10)
    live.fire_due()
    live.answer(4, "mail")
    live.answer(3, "box")
    assert [c.kind for c in live.pending] == ["w"]
    # as it is recorded when the run is parked
    live._list()
    live.journal.append(live.journal[-1]._replace(seq=6, kind=6, command=None, payload=None, commands=live._listing))
    return live


def test_code_that_fits_goes_on() -> None:
    again = history().replayed()
    assert again.outcome is None and not again.issued and [c.name for c in again.pending.values()] == ["received"]


async def _rest() -> None:
    await workflow.sleep_for("1 day")
    await asyncio.gather(ask(ship, "box"), ask(mail, "on its way"))
    await workflow.signal("shipped", 1)


@workflow.defn
async def removed() -> Any:
    await workflow.sleep_for("1 day")


@workflow.defn
async def added() -> Any:
    await ask(mail, "thank you")
    await ask(charge, 10)
    await _rest()


@workflow.defn
async def added_beside() -> Any:
    thanks = ask(mail, "thank you")
    await ask(charge, 10)
    await _rest()
    await thanks


@workflow.defn
async def added_later() -> Any:
    await ask(charge, 10)
    await ask(mail, "thank you")
    await _rest()


@workflow.defn
async def reordered() -> Any:
    await workflow.sleep_for("1 day")
    await ask(charge, 10)


@workflow.defn
async def reordered_in_gather() -> Any:
    await ask(charge, 10)
    await workflow.sleep_for("1 day")
    await asyncio.gather(ask(mail, "on its way"), ask(ship, "box"))


@workflow.defn
async def renamed() -> Any:
    await ask("bill", 10)
    await _rest()


@workflow.defn
async def other_arguments() -> Any:
    await ask(charge, 11)
    await _rest()


@workflow.defn
async def other_duration() -> Any:
    await ask(charge, 10)
    await workflow.sleep_for("2 days")


@workflow.defn
async def other_kind() -> Any:
    await ask(charge, 10)
    await workflow.wait_for("1 day")


@workflow.defn
async def other_signal() -> Any:
    await ask(charge, 10)
    await workflow.sleep_for("1 day")
    await asyncio.gather(ask(ship, "box"), ask(mail, "on its way"))
    await workflow.signal("sent", 1)
    await workflow.wait_for("received")


@workflow.defn
async def no_signal() -> Any:
    await ask(charge, 10)
    await workflow.sleep_for("1 day")
    await asyncio.gather(ask(ship, "box"), ask(mail, "on its way"))
    await workflow.wait_for("received")


@workflow.defn
async def other_wait() -> Any:
    await ask(charge, 10)
    await _rest()
    await workflow.wait_for("returned")


@workflow.defn
async def early_end() -> Any:
    return await ask(charge, 10)


@workflow.defn
async def early_failure() -> Any:
    await ask(charge, 10)
    raise ValueError("no more")


@workflow.defn
async def one_after_the_other() -> Any:
    await ask(charge, 10)
    await workflow.sleep_for("1 day")
    await ask(ship, "box")
    await ask(mail, "on its way")


@workflow.defn
async def nothing() -> Any:
    return None


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (removed, "history has command 1: activity charge, the code asks for command 1: timer"),
        (added, "history has command 1: activity charge, the code asks for command 1: activity mail"),
        (added_beside, "history has command 1: activity charge, the code asks for command 1: activity mail"),
        (added_later, "history has command 2: timer, the code asks for command 2: activity mail"),
        (reordered, "history has command 1: activity charge, the code asks for command 1: timer"),
        (reordered_in_gather, "history has command 3: activity ship, the code asks for command 3: activity mail"),
        (renamed, "history has command 1: activity charge, the code asks for command 1: activity bill"),
        (other_arguments, "command 1: activity charge with other arguments"),
        (other_duration, "command 2: timer with other arguments"),
        (other_kind, "history has command 2: timer, the code asks for command 2: wait for signal 1 day"),
        (other_signal, "history has command 5: signal shipped, the code asks for command 5: signal sent"),
        (no_signal, "history has command 5: signal shipped, the code asks for command 5: wait for signal received"),
        (other_wait, "command 6: wait for signal received, the code asks for command 6: wait for signal returned"),
        (early_end, "ended before row 3"),
        (early_failure, "ended before row 3"),
        (one_after_the_other, "history has command 4: activity mail, the code asks for nothing more"),
        (nothing, "ended before row 2"),
    ],
    ids=lambda p: p.__name__ if callable(p) else "",
)
def test_changed_code_is_told_apart(code: Any, says: str) -> None:
    live = history()
    with pytest.raises(NonDeterminismError) as caught:
        live.replayed(code)
    assert caught.value.code == "HM025"
    assert says in str(caught.value)


def test_what_comes_after_the_history_may_change() -> None:
    @workflow.defn
    async def longer() -> Any:
        await ask(charge, 10)
        await _rest()
        await workflow.wait_for("received")
        return await ask(mail, "thank you")

    again = history().replayed(longer)
    again.deliver(5, 6, again.now, b"null")
    assert [c.name for c in again.issued] == ["mail"]
