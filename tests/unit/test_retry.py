"""Retry policies: the delay before each try, against a plain calculation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhotmesh import ApplicationError, RetryPolicy
from pyhotmesh.errors import InvalidDuration

LONGEST = 1000 * 365 * 86400.0


def expected(initial: float, coefficient: float, most: float, tries: int) -> float:
    """Multiplied step by step, as one would on paper."""
    delay = initial
    for _ in range(tries - 1):
        delay *= coefficient
        if delay >= most:
            break
    return min(delay, most, LONGEST)


@given(
    st.floats(0, 1e6), st.floats(1, 1e3), st.floats(0, 1e9) | st.just(math.inf), st.integers(1, 2000)
)  # fmt: skip
def test_delays_grow_to_the_maximum(initial: float, coefficient: float, most: float, tries: int) -> None:
    policy = RetryPolicy(initial_interval=initial, backoff_coefficient=coefficient, maximum_interval=most)
    delay = policy.delay(tries, ValueError())
    assert delay is not None
    assert delay == pytest.approx(expected(initial, coefficient, most, tries), rel=1e-9)
    assert 0 <= delay <= LONGEST, "the database can hold the time at which it ends"


def test_the_default_policy() -> None:
    assert [RetryPolicy().delay(n, None) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 64, 100, 100]


@given(st.integers(1, 50), st.integers(1, 60))
def test_attempts_count_all_tries(limit: int, tries: int) -> None:
    delay = RetryPolicy(maximum_attempts=limit).delay(tries, ValueError())
    assert (delay is None) == (tries >= limit)


def test_zero_attempts_means_no_limit() -> None:
    assert RetryPolicy(maximum_attempts=0).delay(10**9, ValueError()) == 100


class Refused(KeyError):
    pass


@pytest.mark.parametrize(
    ("names", "error", "again"),
    [
        (["Refused"], Refused(), False),
        (["KeyError"], Refused(), False),  # a class of its family
        (["LookupError"], Refused(), False),
        (["ValueError"], Refused(), True),
        (["Broken"], ApplicationError("x", type="Broken"), False),
        (["Broken"], ApplicationError("x", type="Other"), True),
        (["ApplicationError"], ApplicationError("x"), False),
        ([], ApplicationError("x", non_retryable=True), False),
        ([], ApplicationError("x"), True),
    ],
)
def test_what_is_not_tried_again(names: list[str], error: BaseException, again: bool) -> None:
    assert (RetryPolicy(non_retryable_error_types=names).delay(1, error) is not None) == again


@pytest.mark.parametrize(("wish", "seconds"), [("1 hour", 3600), (0, 0), (2.5, 2.5), ("infinity", LONGEST), ("1 dya", 1.0)])
def test_the_failure_may_say_when(wish: object, seconds: float) -> None:
    error = ApplicationError("later", next_retry_delay=wish)
    assert RetryPolicy(maximum_interval=2).delay(3, error) == seconds
    assert RetryPolicy(maximum_attempts=3).delay(3, error) is None


@pytest.mark.parametrize(
    "options",
    [
        {"initial_interval": "-1 s"}, {"initial_interval": "1 dya"}, {"maximum_interval": -1}, {"maximum_attempts": -1},
        {"maximum_attempts": 1.5}, {"maximum_attempts": True}, {"backoff_coefficient": 0.5}, {"backoff_coefficient": math.nan},
        {"non_retryable_error_types": "ValueError"}, {"initial_interval": "infinity"},
    ],
)  # fmt: skip
def test_bad_policies_are_refused(options: dict[str, object]) -> None:
    with pytest.raises((ValueError, InvalidDuration)):
        RetryPolicy(**options)  # type: ignore[arg-type]


@given(
    st.floats(0, 1e6), st.floats(1, 1e3), st.floats(0, 1e9) | st.just(math.inf), st.integers(0, 100),
    st.lists(st.text(max_size=5)),
)  # fmt: skip
def test_a_stored_policy_is_the_same(initial: float, coefficient: float, most: float, attempts: int, names: list[str]) -> None:
    policy = RetryPolicy(initial, coefficient, most, attempts, names)
    assert RetryPolicy.from_dict(policy.to_dict()) == policy
