"""What is given as an interval: told apart, and refused at the call with its place and what would do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhotmesh import HotMeshError, InvalidDuration, InvalidSchedule
from pyhotmesh.cron import check_interval, check_time_zone, is_cron
from tests.schedules.expressions import expressions

SCHEDULES = [
    ("60 * * * *", "minute (field 1, position 1): 60 is out of range", "minute takes 0 to 59"),
    ("0 24 * * *", "hour (field 2, position 3): 24 is out of range", "0 to 23"),
    ("61 0 0 * * *", "second (field 1, position 1): 61 is out of range", "0 to 59"),
    ("0 0 30 2 *", "day of month (field 3, position 5): it never comes", "L in this field"),
    ("0 0 31 2,4,6,9,11 *", "day of month (field 3, position 5): it never comes", "50 years"),
    ("0 0 * * mno", "day of week (field 5, position 9): 'mno' is no day of week", "did you mean mon?"),
    ("0 0 * jna *", "month (field 4, position 7): 'jna' is no month", "did you mean jan?"),
    ("0 0 * 1,2,sept *", "month (field 4, position 11): 'sept' is no month", "did you mean sep?"),
    ("*/0 * * * *", "minute (field 1, position 1): a step cannot be 0", "*/2"),
    ("0 0 1,,3 * *", "day of month (field 3, position 7): an element of the list is missing", "1 to 31"),
    ("0 0 * * fri#6", "day of week (field 5, position 9): a month has no such weekday", "fri#1 to fri#5"),
    ("0 0 * * 1,fri#2", "day of week (field 5, position 9): these cannot be mixed", "two schedules"),
    ("0 -1 * * *", "hour (field 2, position 3): a value cannot be negative", "0 to 23"),
    ("? 0 * * *", "minute (field 1, position 1): ? stands alone", "*"),
    ("R * * * *", "minute (field 1, position 1): chance is no schedule", "jitter"),
    ("0 0 5% * *", "day of month (field 3, position 5): it cannot be understood", "*/2"),
    ("* * * *", "has 4", "30 3 * * mon-fri"),
    ("* * * * * * *", "has 7", "seconds first"),
    ("1 2 3 4", "has 4", "minute, hour"),
    ("@dialy", "'@dialy'", "did you mean @daily?"),
    ("@reboot", "'@reboot'", "@hourly"),
    (0, "not an interval: 0: it lasts 0 s", "0.1 s or more"),
    ("0 seconds", "it lasts 0 s", "0 3 * * *"),
    (timedelta(0), "it lasts 0 s", "0.1 s or more"),
    ("infinity", "it lasts for ever", "0.1 s or more"),
]
DURATIONS = [
    ("1 dya", "'1 dya' (position 3): unknown unit 'dya'", "did you mean 1 day?"),
    ("-5 min", "'-5 min' (position 1): it cannot be negative", "did you mean 5 min?"),
    ("every day", "'every day' (position 1)", "for example '1 week'"),
    ("1 day 2 horus 3 minutes", "(position 9): unknown unit 'horus'", "did you mean 2 hours?"),
    ("", "not a duration: ''", "15 minutes"),
    (None, "not a duration: None", "seconds"),
    (-1, "not a duration: -1: it cannot be negative", "15 minutes"),
    (float("nan"), "not a duration: nan: it is no number", "15 minutes"),
]


@pytest.mark.parametrize(("given_", "said", "advice"), SCHEDULES, ids=[str(case[0]) for case in SCHEDULES])
def test_a_bad_schedule(given_: Any, said: str, advice: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        check_interval(given_)
    assert said in str(caught.value)
    assert advice in str(caught.value)
    assert caught.value.code == "HM027"


@pytest.mark.parametrize(("given_", "said", "advice"), DURATIONS, ids=[str(case[0]) for case in DURATIONS])
def test_a_bad_duration(given_: Any, said: str, advice: str) -> None:
    with pytest.raises(InvalidDuration) as caught:
        check_interval(given_)
    assert said in str(caught.value)
    assert advice in str(caught.value)


def test_marks_stand_under_what_is_wrong() -> None:
    with pytest.raises(InvalidSchedule) as caught:
        check_interval("0\t0 * 1,sept  *")
    assert str(caught.value).splitlines()[1:] == ["0 0 * 1,sept  *", "        ^^^^", "did you mean sep?"]


def test_an_unknown_zone_names_the_nearest() -> None:
    assert check_time_zone("Australia/Lord_Howe") == "Australia/Lord_Howe"
    for given_, near in [("Europe/Berln", "Europe/Berlin"), ("America/NewYork", "America/New_York"), ("berlin", "Europe/Berlin")]:
        with pytest.raises(InvalidSchedule, match=near):
            check_time_zone(given_)
    with pytest.raises(InvalidSchedule, match="UTC without it"):
        check_time_zone("nowhere at all")


def judged(text: str) -> str | float:
    """What is sent, or the code of the refusal."""
    try:
        return check_interval(text)
    except HotMeshError as error:
        return error.code


@settings(max_examples=100, deadline=None)
@given(expressions)
def test_an_expression_is_never_taken_for_a_duration(expression: str) -> None:
    assert is_cron(expression)
    assert judged(expression) in (expression, "HM027")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 99), st.sampled_from([" ", ""]), st.sampled_from(["ms", "s", "min", "hours", "day", "weeks"])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([" ", ", ", " and "]),
)
def test_a_duration_is_never_taken_for_an_expression(parts: list[tuple[int, str, str]], joined: str) -> None:
    text = joined.join(f"{number}{space}{unit}" for number, space, unit in parts)
    assert not is_cron(text)
    assert isinstance(judged(text), float) or "ms" in text  # less than 100 ms is refused


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789*/,-?#lLwWrhjanmofrid @", max_size=20))
def test_nonsense_is_refused_in_words(text: str) -> None:
    found = judged(text)
    assert isinstance(found, float) or found in (text, "HM026", "HM027")
