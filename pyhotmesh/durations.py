"""Durations: seconds, ``timedelta``, or text such as ``"1 week"``, ``"500 ms"``, ``"1h 30m"``, ``"infinity"``."""

from __future__ import annotations

import difflib
import math
import re
from datetime import timedelta

from .errors import InvalidDuration

Duration = float | int | str | timedelta

_SECONDS = {
    "ms": 0.001, "millisecond": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0, "w": 604800.0, "wk": 604800.0,
    "week": 604800.0, "month": 2592000.0, "y": 31536000.0, "yr": 31536000.0, "year": 31536000.0,
}  # fmt: skip
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*(?:,|and\b)?", re.IGNORECASE)
LONGEST = 1000 * 31536000.0  # seconds; anything longer is either a slip or meant as 'infinity'


def parse(value: Duration) -> float:
    """The duration in seconds. A month is 30 days, a year 365. ``InvalidDuration`` names what is wrong."""
    if isinstance(value, bool):
        raise InvalidDuration(f"not a duration: {value!r}", hint="use seconds or text such as '15 minutes'")
    endless = False
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int):
        seconds = float(max(-1, min(value, LONGEST + 1)))  # an int may be larger than any float
    elif isinstance(value, float):
        seconds = value
        endless = seconds == math.inf
    elif isinstance(value, str):
        endless = value.strip().lower() in ("infinity", "inf")
        seconds = math.inf if endless else _parse_text(value)
    else:
        raise InvalidDuration(f"not a duration: {value!r}", hint="use seconds, a timedelta, or text such as '15 minutes'")
    if not seconds >= 0:  # or no number
        reason = "it is no number" if math.isnan(seconds) else "it cannot be negative"
        raise InvalidDuration(f"not a duration: {value!r}: {reason}", hint="use seconds or text such as '15 minutes'")
    if seconds > LONGEST and not endless:
        raise InvalidDuration(f"a duration of more than 1000 years: {value!r:.200}", hint="use 'infinity'")
    return seconds


def written(seconds: float) -> str:
    """The duration as a text that ``parse`` reads: ``1 day 12 hours``."""
    if seconds == math.inf:
        return "infinity"
    parts = []
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count:.0f} {unit}{'s' if count > 1 else ''}")
    if seconds or not parts:
        number = f"{seconds:.6f}".rstrip("0").rstrip(".")
        parts.append(f"{number} second{'' if seconds == 1 else 's'}")
    return " ".join(parts)


def _parse_text(text: str) -> float:
    stripped = text.strip().lower()
    lead = len(text) - len(text.lstrip())
    if stripped.startswith("-"):
        raise InvalidDuration(
            f"not a duration: {text!r} (position {lead + 1}): it cannot be negative",
            hint=f"did you mean {stripped.lstrip('- ')}?",
        )
    try:
        return float(stripped)
    except ValueError:
        pass
    total = 0.0
    at = 0
    while at < len(stripped):
        match = _PART.match(stripped, at)
        if match is None:
            raise InvalidDuration(
                f"not a duration: {text!r} (position {lead + at + 1}): {stripped[at : at + 20]!r} is no number with a unit",
                hint="for example '1 week', '15 minutes', '500 ms'",
            )
        unit = match[2].lower()
        scale = _SECONDS.get(unit) or _SECONDS.get(unit.removesuffix("s"))
        if scale is None:
            near = difflib.get_close_matches(unit, [*_SECONDS, *(u + "s" for u in _SECONDS if len(u) > 2)], 1, 0.5)
            raise InvalidDuration(
                f"not a duration: {text!r} (position {lead + match.start(2) + 1}): unknown unit {match[2]!r}",
                hint=f"did you mean {match[1]} {near[0]!s}?" if near else "units: ms, seconds, minutes, hours, days, weeks",
            )
        total += float(match[1]) * scale
        at = match.end()
    if not stripped:
        raise InvalidDuration("not a duration: ''", hint="for example '15 minutes'")
    return total
