"""Durations: what is understood, and what is refused by name."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhotmesh import durations
from pyhotmesh.errors import InvalidDuration

UNITS = {
    "ms": 0.001, "millisecond": 0.001, "milliseconds": 0.001, "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60,
    "minutes": 60, "h": 3600, "hr": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400, "w": 604800, "wk": 604800,
    "week": 604800, "weeks": 604800, "month": 30 * 86400, "y": 365 * 86400, "years": 365 * 86400,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1 week", 604800.0), ("15 minutes", 900.0), ("1 day", 86400.0), ("500 ms", 0.5), ("1h 30m", 5400.0), ("1h30m", 5400.0),
        ("2 hours and 5 minutes", 7500.0), ("1 day, 2 hours", 93600.0), ("  1.5 MIN ", 90.0), ("90", 90.0), ("0.25", 0.25),
        ("0 s", 0.0), ("infinity", math.inf), ("Infinity", math.inf), (0, 0.0), (7, 7.0), (0.1, 0.1), (math.inf, math.inf),
        (timedelta(weeks=1, microseconds=1), 604800.000001),
    ],
)  # fmt: skip
def test_what_is_understood(text: durations.Duration, seconds: float) -> None:
    assert durations.parse(text) == seconds


@given(st.integers(0, 10**13).map(lambda micros: micros / 1e6) | st.just(math.inf))
def test_what_is_written_is_understood(seconds: float) -> None:
    assert durations.parse(durations.written(seconds)) == pytest.approx(seconds, abs=1e-6)


def test_what_is_written_is_for_people() -> None:
    written = {0: "0 seconds", 0.1: "0.1 seconds", 1: "1 second", 900: "15 minutes", 5400: "1 hour 30 minutes", 86400: "1 day"}
    assert {seconds: durations.written(seconds) for seconds in written} == written


@given(
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "])), min_size=1, max_size=4)
)
def test_parts_add_up(parts: list[tuple[int, str, str]]) -> None:
    text = " ".join(f"{number}{gap}{unit}" for number, unit, gap in parts)
    assert durations.parse(text) == pytest.approx(sum(number * UNITS[unit] for number, unit, _ in parts), rel=1e-12)


@given(st.timedeltas(timedelta(0), timedelta(days=365 * 999)))
def test_timedeltas_are_exact(delta: timedelta) -> None:
    assert durations.parse(delta) == delta.total_seconds()


@pytest.mark.parametrize(
    "nonsense",
    [
        "", " ", "1 dya", "week", "1 week 3", "1 2 weeks", "1,5 min", "one day", "1 day!", "nan", "1e400", "9" * 400 + " s",
        "1001 years", "\0", "1 s\0", None, b"1 s", [1], True, math.nan, 10**400, timedelta.max, 1000 * 366 * 86400.0,
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_name(nonsense: object) -> None:
    with pytest.raises(InvalidDuration) as caught:
        durations.parse(nonsense)  # type: ignore[arg-type]
    assert caught.value.code == "HM026"
    assert repr(nonsense)[:40] in str(caught.value) or str(nonsense)[:40] in str(caught.value)


@pytest.mark.parametrize("negative", ["-5 min", "-1", "-infinity", -1, -0.001, -math.inf, timedelta(seconds=-1)])
def test_negative_ones_are_refused(negative: durations.Duration) -> None:
    with pytest.raises(InvalidDuration, match="negative"):
        durations.parse(negative)


def test_a_slip_gets_a_suggestion() -> None:
    with pytest.raises(InvalidDuration, match="did you mean 1 day"):
        durations.parse("1 dya")


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        seconds = durations.parse(text)
    except InvalidDuration:
        return
    assert seconds >= 0 and (seconds <= 1000 * 365 * 86400 or text.strip().lower() in ("infinity", "inf"))
