"""Errors: one tree, stable codes, and words that help."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyhotmesh import errors
from pyhotmesh.errors import HotMeshError

# Programs rely on these; a code is never given to another error.
CODES = {
    "HM000": "HotMeshError", "HM001": "WorkflowAlreadyStarted", "HM002": "WorkflowNotFound", "HM003": "PayloadError",
    "HM004": "WorkerLost", "HM005": "NotInTransaction", "HM006": "SchemaVersionError", "HM007": "RunBusy",
    "HM020": "WorkflowFailed", "HM021": "WorkflowInterrupted", "HM022": "WorkflowCancelled", "HM023": "ActivityError",
    "HM024": "TimeoutError", "HM025": "NonDeterminismError", "HM026": "InvalidDuration", "HM027": "InvalidSchedule",
    "HM029": "ScheduleNotFound", "HM030": "OutcomeUnknown", "HM031": "NotConnected", "HM032": "ApplicationError",
    "HM033": "CallFailed", "HM034": "WrongLoop", "HM040": "InvalidQuery", "HM041": "RecordError",
}  # fmt: skip


def family(cls: type[HotMeshError]) -> Iterator[type[HotMeshError]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


def test_each_error_has_its_own_code() -> None:
    found = {cls.__name__: cls.code for cls in family(HotMeshError)}
    assert found == {name: code for code, name in CODES.items()}


def test_the_hint_is_part_of_the_message() -> None:
    error = errors.WorkflowAlreadyStarted("taken", detail="7", hint="choose another")
    assert str(error) == "taken (choose another)"
    assert (error.message, error.detail, error.hint) == ("taken", "7", "choose another")
    assert str(HotMeshError("only this")) == "only this"


def test_our_timeout_is_caught_as_the_builtin_one() -> None:
    with pytest.raises(builtins.TimeoutError):
        raise errors.TimeoutError("late", kind="wait_for")


@pytest.mark.parametrize("cls", [errors.InvalidDuration, errors.InvalidSchedule])
def test_wrong_words_are_value_errors_too(cls: type[HotMeshError]) -> None:
    assert issubclass(cls, ValueError)


def test_every_state_that_the_engine_raises_is_documented() -> None:
    sql = Path(__file__).parents[2] / "sql"
    raised = {code for file in sql.glob("*.sql") for code in re.findall(r"'(HM\d\d\d)'", file.read_text())}
    told = set(re.findall(r"^\| (HM\d\d\d) \|", (sql / "README.md").read_text(), re.MULTILINE))
    assert raised <= told


@pytest.mark.parametrize("code", ["HM001", "HM002", "HM003", "HM004", "HM005", "HM006", "HM007", "HM020"])
def test_states_come_back_as_their_errors(code: str) -> None:
    error = errors.from_sqlstate(code, "what happened", "detail", "what to do")
    assert type(error).__name__ == CODES[code] and error.code == code
    assert "what happened" in str(error) and error.hint
    assert type(errors.from_sqlstate("HM999", "new")) is HotMeshError


def test_an_application_error_tells_its_type() -> None:
    assert str(errors.ApplicationError("no", type="Broken")) == "Broken: no"
    assert str(errors.ApplicationError("no")) == "no"
    assert str(errors.ApplicationError(type="Broken")) == "Broken"
