"""From where on a worker looks for due runs."""

from __future__ import annotations

from datetime import UTC, datetime

from pyhotmesh.looks import Floor


def second(n: float) -> datetime:
    return datetime.fromtimestamp(n, UTC)


def test_the_floor_follows_looks_that_left_nothing_and_no_others() -> None:
    floor = Floor()
    assert floor.at(0.0) is None, "nothing is known"
    for now in range(13):  # seconds of the monotonic clock; the engine's is a thousand ahead
        floor.took_all(now, (1000 + now) * 1_000_000, floor.at(now))
    assert floor.at(13.0) == second(1002 - 1)
    assert floor.at(15.0) == second(1004 - 1), "it was there 10 s before"
    assert floor.at(16.1) is None, "all is looked at once more"
    assert floor.at(60.0) is None, "until that has left nothing"
    floor.took_all(60.0, 1060_000_000, None)
    assert floor.at(61.0) == second(1012 - 1), "and meanwhile it has not moved"
    assert floor.at(65.0) == second(1012 - 1)


def test_the_floor_does_not_stay_above_a_clock_that_steps_back() -> None:
    floor = Floor()
    for now in range(13):
        floor.took_all(now, (1000 + now) * 1_000_000, None)
    assert floor.at(13.0) == second(1002 - 1)
    floor.took_all(13.0, 500_000_000, second(1002 - 1))
    assert floor.at(14.0) is None
    for now in range(14, 25):
        floor.took_all(now, (487 + now) * 1_000_000, None)
    assert floor.at(25.0) == second(500 - 1)


def test_the_floor_is_not_that_of_queues_that_were_not_looked_at() -> None:
    floor = Floor()
    for now in range(13):
        floor.took_all(now, (1000 + now) * 1_000_000, None)
    floor.forget()
    assert floor.at(13.0) is None
