"""Payloads: what goes in comes back equal in value, type and key order, or is refused with its path."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import math
import uuid
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyhotmesh import payloads
from pyhotmesh.errors import ActivityError, ApplicationError, HotMeshError, PayloadError, TimeoutError

# What JSON of 64-bit integers in PostgreSQL can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
@example({"b": 1, "a": 2.0, "c": -0.0, "d": 2**53 + 1, "e": 1e16, "f": [None, True, "\u2028\U0001f600"]})
@example("\\u0000 is text too")
def test_values_come_back_as_they_were(value: Any) -> None:
    found = payloads.decode(payloads.encode(value))
    assert repr(found) == repr(value), "type, value, sign and key order"


@given(VALUES)
def test_other_readers_read_the_same(value: Any) -> None:
    assert json.loads(payloads.encode(value)) == value


ANYTHING = st.recursive(
    VALUES
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=3)
    | st.decimals()
    | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()) | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@given(ANYTHING)
def test_anything_else_is_refused_and_never_changed(value: Any) -> None:
    try:
        data = payloads.encode(value)
    except PayloadError:
        return
    assert repr(payloads.decode(data)) == repr(value)


@dataclasses.dataclass
class Point:
    x: float
    name: str = "p"


class Model:
    """Like one of pydantic's."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return self.fields


class Colour(enum.Enum):
    RED = "red"
    NUL = "\0"


MOMENT = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, (2,)), [1, [2]]),
        (Point(1.5), {"x": 1.5, "name": "p"}),
        (Model(b=[1], a=None), {"b": [1], "a": None}),
        (Colour.RED, "red"),
        (MOMENT, "2026-03-29T01:30:00+00:00"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_richer_values_become_plain_ones(value: Any, read: Any) -> None:
    assert payloads.decode(payloads.encode({"it": value})) == {"it": read}


@pytest.mark.parametrize(
    ("value", "path", "word"),
    [
        (math.nan, "$", "nan"),
        ({"a": [1, math.inf]}, "$.a[1]", "inf"),
        ({"a": [None, {"b": "x\0"}]}, "$.a[1].b", "NUL"),
        ({"k\0": 1}, "$.'k", "NUL"),
        (["\ud800"], "$[0]", "surrogate"),
        (2**64, "$", "64 bits"),
        ([-(2**63) - 1], "$[0]", "64 bits"),
        ({1: 2}, "$", "keys are text"),
        ({None: 2}, "$", "keys are text"),
        ({"s": {1}}, "$.s", "list"),
        ([b"x"], "$[0]", "base64"),
        ([decimal.Decimal("1.5")], "$[0]", "text"),
        (Point(math.nan), "$.x", "nan"),
        ([Point(1, "\0")], "$[0].name", "NUL"),
        ({"m": Model(x=[math.nan])}, "$.m.x[0]", "nan"),
        ([Model(x="\0")], "$[0].x", "NUL"),
        ([Colour.NUL], "$[0]", "NUL"),
        ([object()], "$[0]", "object"),
        ([print], "$[0]", "dict"),
        ("x" * payloads.MAX_BYTES, "$", "at most"),
    ],
)
def test_what_cannot_be_held_is_refused_with_its_path(value: Any, path: str, word: str) -> None:
    with pytest.raises(PayloadError) as caught:
        payloads.encode(value)
    assert caught.value.path.startswith(path)
    assert word in str(caught.value)


def test_nesting_has_an_end() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PayloadError):
        payloads.encode(deep)
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(PayloadError):
        payloads.encode(itself)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_limit_is_exact(over: int) -> None:
    text = "x" * (payloads.MAX_BYTES - 2 + over)  # and two quotes
    if over > 0:
        with pytest.raises(PayloadError):
            payloads.encode(text)
    else:
        assert len(payloads.encode(text)) == payloads.MAX_BYTES + over


def test_a_large_one_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    payloads.encode("x" * payloads.WARN_BYTES)
    assert "payload of" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[1,]", '"\\ud800"', "nan", "\ud800", "[" * 100_000])
def test_what_nobody_of_us_wrote_is_refused(text: str) -> None:
    with pytest.raises(PayloadError):
        payloads.decode(text)


# ------------------------------------------------------------------------------------- failures --


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [ValueError("a\0b"), ValueError("\ud800"), Unspeakable(), ApplicationError("x", {1, 2}, object()), ValueError("x" * 10**6)],
)
def test_a_failure_is_always_recorded(error: BaseException) -> None:
    data = payloads.encode_failure(raised(error))
    assert b"\\u0000" not in data and len(data) < 100_000
    assert orjson.loads(data)["type"] == type(error).__name__
    assert isinstance(payloads.decode_failure(data), ApplicationError)


@given(st.text(st.characters()), st.text(st.characters()), st.lists(VALUES, max_size=3), st.booleans())
def test_an_application_error_keeps_what_it_says(message: str, kind: str, details: list[Any], final: bool) -> None:
    error = payloads.decode_failure(
        payloads.encode_failure(ApplicationError(message, *details, type=kind or "T", non_retryable=final))
    )
    assert isinstance(error, ApplicationError)
    assert error.message == payloads.clean(message) and error.type == payloads.clean(kind or "T")
    assert repr(list(error.details)) == repr(details) and error.non_retryable == final


def test_causes_are_kept_in_a_chain() -> None:
    inner = ApplicationError("inner", type="Inner")
    middle = ActivityError("middle", cause=inner, activity="act")
    middle.__cause__ = inner
    outer = ValueError("outer")
    outer.__cause__ = middle
    found = payloads.decode_failure(payloads.encode_failure(outer))
    assert isinstance(found, ApplicationError) and found.type == "ValueError"
    cause = found.__cause__
    assert isinstance(cause, ActivityError) and cause.activity == "act"
    assert isinstance(cause.cause, ApplicationError) and cause.cause.type == "Inner"


def test_a_circle_of_causes_has_an_end() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert len(payloads.encode_failure(one)) < 10_000


def test_the_errors_of_a_group_are_told() -> None:
    group = BaseExceptionGroup("in a TaskGroup", [raised(KeyError("a")), ExceptionGroup("inner", [ValueError("b")])])
    found = payloads.decode_failure(payloads.encode_failure(group))
    assert "KeyError: 'a'" in str(found) and "ValueError: b" in str(found)
    assert isinstance(found.__cause__, ApplicationError) and found.__cause__.type == "KeyError"
    many = payloads.decode_failure(payloads.encode_failure(ExceptionGroup("x", [ValueError(str(i)) for i in range(100)])))
    assert str(many).endswith("ValueError: 4; and 95 more")


def test_a_failure_keeps_its_advice() -> None:
    with pytest.raises(HotMeshError) as refused:
        payloads.encode({1})
    found = payloads.decode_failure(payloads.encode_failure(refused.value))
    assert "use a list" in str(found)


def test_timeouts_keep_their_kind() -> None:
    found = payloads.decode_failure(payloads.encode_failure(TimeoutError("late", kind="heartbeat")))
    assert isinstance(found, TimeoutError) and found.kind == "heartbeat"


@pytest.mark.parametrize("data", [b"", b"null", b"[1]", b"{", b"7", b'{"message": 7}', b'{"details": 7}', b'{"details": "ab"}'])
def test_any_record_is_read_as_a_failure(data: bytes) -> None:
    assert isinstance(payloads.decode_failure(data), HotMeshError)
