"""What really happened, written down outside of the database, a line each with fsync.

A callback appends its effect before it returns; a client appends what it is about to do, and then
that it was acknowledged. Afterwards the checker compares the ledger with what the engine recorded.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

ENV = "HOTMESH_LEDGER"


class Effect(NamedTuple):
    """A callback that ran to its end. ``token`` is unique to this effect and part of its result."""

    workflow: str
    step: str
    attempt: int
    pid: int
    token: str
    at: float


class Ledger:
    """Appends and reads; many processes may append at once (lines are short, O_APPEND)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    @classmethod
    def from_environment(cls) -> Ledger:
        return cls(os.environ[ENV])

    def append(self, *words: object) -> None:
        os.write(self._fd, (" ".join(str(w) for w in words) + "\n").encode())
        os.fsync(self._fd)

    def effect(self, workflow: str, step: str, attempt: int) -> str:
        token = f"{os.getpid()}-{os.urandom(6).hex()}"
        self.append("effect", workflow, step, attempt, os.getpid(), token, time.time())
        return token

    def lines(self, kind: str) -> list[list[str]]:
        return [words[1:] for words in map(str.split, self.path.read_text().splitlines()) if words[0] == kind]

    def effects(self) -> list[Effect]:
        return [Effect(w, s, int(a), int(p), t, float(at)) for w, s, a, p, t, at in self.lines("effect")]

    def count(self) -> int:
        """Lines so far."""
        return self.path.read_bytes().count(b"\n")


@dataclass
class Report:
    """The checker's line. Of what follows ``closed`` only ``extra_effects`` (callbacks that ran again) may be
    above zero. ``log_lines``: warnings and errors of the workers that lived to the end."""

    started: int = 0
    acked: int = 0
    closed: int = 0
    lost: int = 0
    wrong_result: int = 0
    double_recorded: int = 0
    extra_effects: int = 0
    stale_accepted: int = 0
    stuck: int = 0
    p99_ms: int = 0
    log_lines: int = 0
    wrongs: list[Any] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.wrong_result or self.double_recorded or self.stale_accepted or self.stuck or self.wrongs)

    def __str__(self) -> str:
        line = " ".join(f"{k}={v}" for k, v in vars(self).items() if k != "wrongs")
        return "\n".join([line, *(f"  {w}" for w in self.wrongs[:20])])


def recorded_tokens(conn: psycopg.Connection[Any]) -> list[str]:
    """The tokens of all activity results that the engine has accepted: in the journals, or on their way there."""
    rows = conn.execute(
        "select payload ->> 1 from hotmesh_engine.journal where kind = 2"
        " union all select payload ->> 1 from hotmesh_engine.inbox where kind = 2"
    )
    return [token for (token,) in rows]


def check(ledger: Ledger, dsn: str, results: dict[str, Any], expected: dict[str, Any], forbidden: Iterable[str] = ()) -> Report:
    """Compares ledger, database and what clients got.

    ``results``: workflow id → the value, or the error; missing: it did not close in time.
    ``forbidden``: tokens of effects whose worker had lost its lease before they were recorded.
    """
    report = Report(started=len(ledger.lines("intent")), acked=len(ledger.lines("acked")), closed=len(results))
    acked = [words[0] for words in ledger.lines("acked")]
    effects = ledger.effects()
    with psycopg.connect(dsn, autocommit=True) as conn:
        known = {w for (w,) in conn.execute("select workflow_id from hotmesh.workflows")}
        journal = recorded_tokens(conn)
        report.wrongs += conn.execute("select * from hotmesh.check_invariants()").fetchall()
        late = conn.execute(
            "select coalesce(percentile_disc(0.99) within group (order by extract(epoch from closed_at - created_at)), 0)"
            " from hotmesh.workflows where closed_at is not null"
        ).fetchone()
    report.p99_ms = round(float(late[0]) * 1000) if late else 0
    report.lost = sum(w not in known for w in acked)
    report.stuck = sum(w in known and w not in results for w in acked)
    for workflow, result in results.items():
        values = strip(result)
        if values != expected[workflow]:
            report.wrong_result += 1
            report.wrongs.append((workflow, result))
    counts = Counter(journal)
    report.double_recorded = sum(n - 1 for n in counts.values())
    made = {e.token for e in effects}
    report.wrongs += [("a result without an effect", t) for t in counts if t not in made]
    final = {token for result in results.values() for token in tokens(result)}
    report.wrongs += [("a result that changed after it was recorded", t) for t in final if t not in counts]
    report.extra_effects = len(effects) - len(counts)
    report.stale_accepted = sum(token in counts for token in forbidden)
    return report


def strip(value: Any) -> Any:
    """A workflow's result without the tokens: each [value, token] becomes its value."""
    return [v[0] for v in value] if isinstance(value, list) else value


def tokens(value: Any) -> list[str]:
    return [v[1] for v in value if v[1]] if isinstance(value, list) else []
