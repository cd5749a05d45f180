"""What is given as a schedule's interval: a duration, or a cron expression; checked before it is sent.

croniter is the judge of expressions. What it refuses is looked for part by part, so that the error can say in
which field, at which position, and what would do instead. The engine reads them anew (``sql/cron.sql``). croniter is
imported with the first expression: most processes have none.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from . import payloads
from .durations import parse as parse_duration
from .errors import InvalidDuration, InvalidSchedule

SHORTEST: Final = 0.1  # seconds

_FIELDS: Final = ("second", "minute", "hour", "day of month", "month", "day of week")
_BOUNDS: Final = {
    "second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day of month": (1, 31), "month": (1, 12), "day of week": (0, 7),
}  # fmt: skip
_NAMES: Final = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_SHORTHANDS: Final = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
# A unit after each number; what looks like it and is wrong is a wrong duration.
_DURATION: Final = re.compile(r"\s*([-+]?\d[\d.]*\s*[a-z]+[\s,]*(and\s+)?)+(ago)?\s*", re.IGNORECASE)
_CHANCE: Final = re.compile(r"[hr](\(\d+-\d+\))?(/\d+)?", re.IGNORECASE)


class _Part(NamedTuple):
    """An element of a field's list, and where it stands (from 1)."""

    text: str
    position: int


def check_interval(interval: Any) -> str | float:
    """The cron expression, as text, or the seconds of a duration.

    Raises:
        InvalidSchedule: not an expression, one that never comes, or an interval of less than 0.1 s.
        InvalidDuration: not a duration.
    """
    if isinstance(interval, str) and is_cron(interval):
        return check_cron(payloads.text_bytes(interval, "interval").decode())
    seconds = parse_duration(interval)
    if not SHORTEST <= seconds < float("inf"):
        raise InvalidSchedule(
            f"not an interval: {interval!r:.200}: it lasts {'for ever' if seconds > 1 else f'{seconds:g} s'}",
            hint="use 0.1 s or more, for example '1 day', or a cron expression such as '0 3 * * *'",
        )
    return seconds


def is_cron(text: str) -> bool:
    """Whether a text is meant as a cron expression. No text is both: a duration has a unit after each number,
    or is one number."""
    return bool(re.search(r"[*?#@]", text)) or (len(text.split()) >= 3 and not _DURATION.fullmatch(text))


def check_cron(text: str) -> str:
    """The expression as it is, if it is one; else ``InvalidSchedule`` with field, position and advice."""
    stripped = text.strip()
    if stripped.startswith("@"):
        if stripped.lower() not in _SHORTHANDS:
            near = difflib.get_close_matches(stripped.lower(), _SHORTHANDS, 1)
            raise InvalidSchedule(
                f"not a cron expression: {text!r:.200}",
                hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(_SHORTHANDS)}",
            )
        return text
    found = list(re.finditer(r"[^ \t\n\r\f\v]+", text))
    if len(found) not in (5, 6):
        raise InvalidSchedule(
            f"a cron expression has 5 fields, or 6 with seconds first; {text!r:.200} has {len(found)}",
            hint="minute, hour, day of month, month, day of week: '30 3 * * mon-fri'",
        )
    names = _FIELDS[6 - len(found) :]
    for number, match in enumerate(found):
        for part in _parts(match):
            if _CHANCE.fullmatch(part.text):
                raise _refusal(text, names, number, part, "chance is no schedule", "write a time, and set jitter")
    from croniter import CroniterBadDateError, CroniterError, croniter

    try:
        croniter.expand(stripped, second_at_beginning=True)
    except CroniterError as error:
        raise _explained(text, names, found, error) from None
    try:
        croniter(stripped, datetime.now(UTC), second_at_beginning=True).get_next(datetime)
    except CroniterBadDateError:
        day = len(found) - 3
        raise _refusal(
            text, names, day, _Part(found[day][0], found[day].start() + 1), "it never comes",
            "no day of the next 50 years fits; L in this field is the last day of any month",
        ) from None  # fmt: skip
    return text


def check_time_zone(name: str) -> str:
    """The name of a time zone, if there is one of it; ``InvalidSchedule`` names the nearest."""
    payloads.text_bytes(name, "time_zone")
    known = zoneinfo.available_timezones()
    if known and name not in known:  # without a database of zones here, the engine judges
        near = difflib.get_close_matches(name, known, 1, 0.5) or [z for z in known if z.lower().endswith(f"/{name.lower()}")]
        raise InvalidSchedule(
            f"unknown time zone {name!r:.200}",
            hint=f"did you mean {near[0]}?" if near else "for example Europe/Berlin; UTC without it",
        )
    return name


def _parts(field: re.Match[str]) -> list[_Part]:
    parts, at = [], field.start() + 1
    for text in field[0].split(","):
        parts.append(_Part(text, at))
        at += len(text) + 1
    return parts


def _explained(text: str, names: tuple[str, ...], found: list[re.Match[str]], error: Exception) -> InvalidSchedule:
    """The first part that croniter refuses by itself, with everything else open."""
    from croniter import croniter

    for number, match in enumerate(found):
        for part in [*_parts(match), _Part(match[0], match.start() + 1)]:
            fields = ["*"] * len(found)
            fields[number] = part.text or ","
            if not croniter.is_valid(" ".join(fields), second_at_beginning=True):
                return _refusal(text, names, number, part, *_reason(names[number], part.text))
    return InvalidSchedule(f"not a cron expression: {text!r:.200}: {error}")


def _reason(name: str, part: str) -> tuple[str, str]:
    """Why a part is none of its field, and what would be."""
    low, high = _BOUNDS[name]
    words = _NAMES.get(name, ())
    takes = f"{name} takes {low} to {high}" + (f" or {words[0]} to {words[-1]}" if words else "")
    if part.startswith("-"):
        return "a value cannot be negative", takes
    if not part:
        return "an element of the list is missing", takes
    if "?" in part:
        return "? stands alone, for any day", "use * for any"
    if re.search(r"/0+$", part):
        return "a step cannot be 0", f"write */2 for every second {name}"
    if "," in part:
        return "these cannot be mixed", "make two schedules"
    if "#" in part and name == "day of week":
        return "a month has no such weekday", "write fri#1 to fri#5, or L5 for the last Friday"
    for value in re.findall(r"\d+", part.partition("/")[0]):
        if not low <= int(value) <= high:
            return f"{value} is out of range", takes
    for word in re.findall(r"[a-z]+", part.lower()):
        if word not in words:
            same = [known for known in words if sorted(known) == sorted(word)]
            near = same or difflib.get_close_matches(word, words, 1, 0.4)
            return f"{word!r} is no {name}", f"did you mean {near[0]}?" if near else takes
    return "it cannot be understood", f"write *, {low}, {low}-{high}, */2, or a list of these"


def _refusal(text: str, names: tuple[str, ...], number: int, part: _Part, reason: str, hint: str) -> InvalidSchedule:
    shown = re.sub(r"[\t\n\r\f\v]", " ", text)[:200]
    return InvalidSchedule(
        f"not a cron expression: {text!r:.200}: {names[number]} (field {number + 1}, position {part.position}): {reason}",
        detail=f"{shown}\n{' ' * (min(part.position, 200) - 1)}{'^' * max(1, min(len(part.text), 50))}",
        hint=hint,
    )


def seconds(what: str, value: Any, *, endless: bool = False) -> float | str:
    """A duration as the engine takes it in JSON; an error says which one is wrong."""
    try:
        found = parse_duration(value)
    except InvalidDuration as error:
        raise InvalidDuration(f"{what}: {error.message}", hint=error.hint) from None
    if found < float("inf"):
        return found
    if not endless:
        raise InvalidDuration(f"{what} cannot be endless", hint="use a duration such as '1 hour'")
    return "infinity"
