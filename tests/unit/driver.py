"""Drives a workflow's coroutine without a database: live, with a journal; then again from that journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyhotmesh import payloads, workflow
from pyhotmesh.errors import ApplicationError
from pyhotmesh.replay import (
    ACTIVITY_COMPLETED,
    ACTIVITY_FAILED,
    COMMANDS,
    SIGNAL_RECEIVED,
    STARTED,
    TIMER_FIRED,
    Command,
    Info,
    Instance,
    Row,
    listed,
)

START = 1_700_000_000_000_000  # µs
Answer = Callable[[Command], Any]


def instance(target: Any, *args: Any) -> Instance:
    """The coroutine, not yet begun."""
    info = Info("w", 7, "w", "default", "default", START)
    return Instance(workflow.definition_of(target), info, payloads.encode(list(args)))


class Live:
    """A run as a worker drives it: each event gets a journal row and is then delivered."""

    def __init__(self, target: Any, *args: Any) -> None:
        self.target = target
        self.args = args
        self.instance = instance(target, *args)
        self.journal: list[Row] = []
        self.asked: list[list[Any]] = []  # every command in the order of asking
        self.clock = START
        self.deliver(STARTED)

    @property
    def pending(self) -> list[Command]:
        return list(self.instance.pending.values())

    def deliver(self, kind: int, command: int | None = None, payload: bytes | None = None) -> None:
        """One event; a millisecond has passed."""
        self.clock += 1000
        self._list()
        self.journal.append(Row(len(self.journal) + 1, kind, command, self.clock, payload, self._listing))
        self.instance.deliver(kind, command, self.clock, payload)
        if self.instance.outcome is not None:
            self._list()
            if self._listing is not None:
                self.journal.append(Row(len(self.journal) + 1, COMMANDS, None, self.clock, None, self._listing))

    def _list(self) -> None:
        self.asked += listed(self.instance.issued)
        self.instance.issued.clear()
        self.instance.ended.clear()
        self._listing = self.instance.listing()

    def answer(self, number: int, value: Any = None) -> None:
        """Ends a command: an exception as the value fails it; a timer fires, at its time."""
        command = self.instance.pending[number]
        if command.kind == "t":
            self.clock = max(self.clock, command.spec)
            self.deliver(TIMER_FIRED, number)
        elif isinstance(value, BaseException):
            self.deliver(ACTIVITY_FAILED, number, payloads.encode_failure(value))
        else:
            self.deliver(SIGNAL_RECEIVED if command.kind == "w" else ACTIVITY_COMPLETED, number, payloads.encode(value))

    def fire_due(self) -> None:
        """The next timer."""
        due = self.instance.next_due()
        assert due is not None
        self.answer(due[1])

    @property
    def result(self) -> Any:
        assert self.instance.outcome is not None, "it has not ended"
        status, payload = self.instance.outcome
        if status == 1:
            return payloads.decode(payload)
        return payloads.decode_failure(payload)

    def replayed(self, target: Any = None) -> Instance:
        """A new coroutine (of other code, if given), fed with the journal."""
        again = instance(target or self.target, *self.args)
        for row in self.journal:
            again.replay(row)
        return again

    def replayed_to(self, seq: int) -> Instance:
        """A new coroutine, fed with the first rows of the journal."""
        again = instance(self.target, *self.args)
        for row in self.journal[:seq]:
            again.replay(row)
        return again

    def asked_after(self, seq: int) -> list[list[Any]]:
        """What the code asked for in answer to row ``seq``, as the next row lists it."""
        if seq >= len(self.journal):
            return []
        listed = self.journal[seq].commands
        return [] if listed is None else payloads.decode(listed)  # type: ignore[no-any-return]


def failure(text: str = "no") -> ApplicationError:
    return ApplicationError(text)
