"""What happens to workflows, as it happens, read from the views."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection

from . import output

if TYPE_CHECKING:
    from rich.text import Text

# Rows commit a little after the time that they carry, and not in its order: each look goes this far
# back, and what was seen is remembered for as long.
OVERLAP = "10 seconds"

_HISTORY = f"""
select h.run_id, h.seq, h.at, h.workflow_id, w.workflow_type, h.event, h.payload, h.commands, w.input
  from hotmesh.history h join hotmesh.workflows w on w.run_id = h.run_id
 where h.at > hotmesh.now() - interval '{OVERLAP}'
 order by h.at, h.run_id, h.seq nulls last
"""
_RETRIES = """
select run_id, command, attempt, hotmesh.now() as at, workflow_id, activity, due_at, last_failure
  from hotmesh.activities where last_failure is not null
"""

_KINDS = {"a": "activity", "t": "timer", "w": "signal", "s": "send signal"}
_FAILURES = ("activity_failed", "failed", "timed_out", "interrupted", "cancelled")
_STYLES = {"started": "bold", "activity_failed": "red", "signal_received": "magenta", "timer_fired": "blue"}


class Follower:
    """Turns new rows of the views into lines."""

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self._conn = conn
        self._seen: dict[tuple[Any, ...], None] = {}

    async def look(self) -> list[Text]:
        """Lines of what is new since the last look."""
        lines: list[tuple[datetime, Text]] = []
        present: dict[tuple[Any, ...], None] = {}
        for run, seq, at, workflow_id, kind, event, payload, commands, given in await self._rows(_HISTORY):
            key = run, seq, event
            present[key] = None
            if key not in self._seen:
                what = self._describe(kind, event, payload, commands, given)
                lines.append((at, _line(at, workflow_id, event, what)))
        for run, command, attempt, at, workflow_id, activity, due, last in await self._rows(_RETRIES):
            retry = (run, command, attempt, "retry")
            present[retry] = None
            if retry not in self._seen:
                what = f"{activity}, attempt {attempt}: {failure(last)}; again at {due.astimezone():%H:%M:%S}"
                lines.append((at, _line(at, workflow_id, "attempt_failed", what)))
        self._seen = present
        return [line for _, line in sorted(lines, key=lambda pair: pair[0])]

    async def _rows(self, query: str) -> list[tuple[Any, ...]]:
        cursor = await self._conn.execute(query.encode())
        return await cursor.fetchall()

    def _describe(self, kind: str, event: str, payload: Any, commands: Any, given: Any) -> str:
        said = []
        if event == "started":
            said.append(f"{kind}({', '.join(output.short(output.as_json(part), 40) for part in given)})")
        elif payload is not None:
            said.append(told(event, payload))
        if commands:
            said.append(f"→ {asked(commands)}")
        return " ".join(said)


def asked(commands: list[Any] | None) -> str | None:
    """What code asked for, of a row's commands ([number, kind, name, digest]): `1 activity greet, 2 timer`."""
    if not commands:
        return None
    words = [(number, _KINDS.get(kind, kind), *name[:1]) for number, kind, *name in commands]
    return ", ".join(" ".join(str(part) for part in command if part is not None) for command in words)


def told(event: str, payload: Any, width: int = 70) -> str:
    """A row's payload in little space: a failure as `type: message`, else JSON."""
    if event in _FAILURES and isinstance(payload, dict) and "type" in payload:
        return failure(payload)
    return "" if payload is None else output.short(output.as_json(payload), width)


def failure(payload: dict[str, Any]) -> str:
    """A recorded failure as `type: message`."""
    message = str(payload.get("message") or "").splitlines()
    return f"{payload['type']}: {message[0]}" if message else str(payload["type"])


def _line(at: datetime, workflow_id: str, event: str, what: str) -> Text:
    from rich.text import Text

    style = _STYLES.get(event) or output.STATUS_STYLES.get(event) or ("yellow" if event == "attempt_failed" else "")
    time = at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    return Text.assemble((time, "dim"), "  ", (output.short(workflow_id, 36), "cyan"), "  ", (event, style), "  ", what)
