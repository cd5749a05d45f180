"""From where on a worker looks for due runs, and for messages."""

from __future__ import annotations

from pyhotmesh.looks import Floor


def looked(floor: Floor, seconds: range, ahead: int = 1000) -> Floor:
    """A look a second of the monotonic clock, each of which takes all; the engine's is so much ahead."""
    for now in seconds:
        floor.took_all(now, now + ahead, floor.at(now))
    return floor


def test_the_floor_follows_looks_that_left_nothing_and_no_others() -> None:
    floor = Floor()
    assert floor.at(0.0) is None, "nothing is known"
    looked(floor, range(13))
    assert floor.at(13.0) == 1002
    assert floor.at(15.0) == 1004, "it was there 10 s before"
    assert floor.at(16.1) is None, "all is looked at once more"
    assert floor.at(60.0) is None, "until that has left nothing"
    floor.took_all(60.0, 1060, None)
    assert floor.at(61.0) == 1012, "and meanwhile it has not moved"
    assert floor.at(65.0) == 1012


def test_a_commit_that_is_told_of_has_all_looked_at_soon_and_once() -> None:
    floor = looked(Floor(), range(13))
    floor.told()
    assert floor.at(13.0) is None
    floor.took_all(13.0, 1013, None)
    assert floor.at(13.1) == 1002
    floor.told()
    assert floor.at(13.2) == 1002, "not for each of a thousand a second"
    assert floor.at(13.6) is None


def test_the_floor_does_not_stay_above_a_clock_that_steps_back() -> None:
    floor = looked(Floor(), range(13))
    floor.took_all(13.0, 500, 1002)
    assert floor.at(14.0) is None
    looked(floor, range(14, 25), ahead=487)
    assert floor.at(25.0) == 500


def test_the_floor_is_not_that_of_queues_that_were_not_looked_at() -> None:
    floor = looked(Floor(), range(13))
    floor.forget()
    assert floor.at(13.0) is None
