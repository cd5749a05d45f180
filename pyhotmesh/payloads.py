"""Payloads: values as JSON, refused rather than changed, and failures as JSON, always.

orjson writes the JSON. What it would change silently (NaN and infinity become null) or PostgreSQL
cannot hold (NUL) is found by a cheap look at the output, and only then by a walk for its path.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import math
import traceback
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import orjson

from .errors import ActivityError, ApplicationError, HotMeshError, PayloadError
from .errors import TimeoutError as HotMeshTimeout

log = logging.getLogger("pyhotmesh")

WARN_BYTES = 512 * 1024
MAX_BYTES = 2 * 1024 * 1024
EXACT = orjson.OPT_PASSTHROUGH_DATETIME
_MAX_TEXT = 20_000  # characters of a recorded message or stack


def moment(value: date | time) -> str:
    """As ISO 8601. It has no form for an offset with seconds (as places had before there were zones): such a moment is
    written in UTC."""
    if isinstance(value, datetime) and (value.utcoffset() or timedelta()) % timedelta(minutes=1):
        value = value.astimezone(UTC)
    return value.isoformat()


def _default(value: Any) -> Any:
    if type(value) in (datetime, date) or (type(value) is time and value.tzinfo is None):
        return moment(value)
    dump = getattr(value, "model_dump", None)  # pydantic
    if callable(dump):
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")


def encode(value: Any, options: int | None = None) -> bytes:
    """The value as JSON, UTF-8. ``PayloadError`` says which part cannot be held, and what to do.

    ``EXACT``: moments as ``moment`` writes them. orjson rounds offsets to minutes, and ten times as fast: an argument
    or a result with an offset such as +00:53:28 of 1890 comes back with +00:53.
    """
    try:
        data = orjson.dumps(value, _default, options)
    except (TypeError, ValueError, RecursionError) as error:
        path, reason, advice = _find(value, "$", 0) or ("$", str(error), "use JSON values")
        raise PayloadError(path, reason, advice) from None
    if data.find(b"null") >= 0 or data.find(b"\\u0000") >= 0:  # `in` makes and drops a TypeError first: half a µs
        found = _find(value, "$", 0)
        if found is not None:
            raise PayloadError(*found)
    if len(data) > WARN_BYTES:
        if len(data) > MAX_BYTES:
            raise PayloadError("$", f"{len(data)} bytes of JSON, at most {MAX_BYTES}", "store it elsewhere and pass its id")
        log.warning("a payload of %d bytes: workflows journal it, and replay reads it again", len(data))
    return data


def decode(data: bytes | str) -> Any:
    """The value of JSON as ``encode`` writes it."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise PayloadError("$", f"cannot be read back: {error}", "it was written by something else") from None


def text_bytes(text: str, what: str) -> bytes:
    """A name as UTF-8; refuses what PostgreSQL's text cannot hold."""
    if not isinstance(text, str):
        raise PayloadError(what, f"must be text, this is {type(text).__name__}")
    if "\0" in text:
        raise PayloadError(what, "contains a NUL character", "remove it")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise PayloadError(what, "contains a lone surrogate, which UTF-8 cannot hold", "decode it properly") from None


def check_name(text: str, what: str) -> str:
    """An id, a name or a key as the engine takes it: text of 1 to 1,000 bytes."""
    if not 1 <= len(text_bytes(text, what)) <= 1000:
        raise PayloadError(what, f"must have 1 to 1000 bytes, this is {text!r:.100}", "use a shorter one, for example a hash")
    return text


def _find(value: Any, path: str, depth: int) -> tuple[str, str, str] | None:
    """Where in a value the trouble is: path, reason, advice."""
    if depth > 250:
        return path, "nested too deeply", "flatten it"
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            return path, f"{value} has no JSON form", "use None or text"
        return None
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            return path, "an integer of more than 64 bits", "pass it as text"
        return None
    if isinstance(value, str):
        if "\0" in value:
            return (
                path,
                "text with a NUL character, which PostgreSQL cannot hold",
                "remove it, or pass base64",
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            return path, "text with a lone surrogate, which UTF-8 cannot hold", "decode it properly"
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return (
                    path,
                    f"a key of type {type(key).__name__}: {key!r:.50}",
                    "JSON keys are text: use str(key)",
                )
            found = _find(key, f"{path}.{key!r:.50}", depth + 1) or _find(item, f"{path}.{key:.50}", depth + 1)
            if found:
                return found
        return None
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            found = _find(item, f"{path}[{i}]", depth + 1)
            if found:
                return found
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            found = _find(getattr(value, item.name), f"{path}.{item.name}", depth + 1)
            if found:
                return found
        return None
    try:
        orjson.dumps(value, _default)
        if callable(getattr(value, "model_dump", None)):
            return _find(_default(value), path, depth + 1)
    except (TypeError, ValueError, RecursionError):
        advice = {
            "set": "use a list",
            "frozenset": "use a list",
            "bytes": "use base64 text",
            "Decimal": "use text",
        }
        name = type(value).__name__
        return (
            path,
            f"a value of type {name}",
            advice.get(name, "use a dict, a dataclass or a pydantic model"),
        )
    return None


# ------------------------------------------------------------------------------------- failures --


def clean(text: str) -> str:
    """Text that PostgreSQL can hold, whatever it contained: a failure is always recorded."""
    return text[:_MAX_TEXT].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def encode_failure(error: BaseException, depth: int = 0) -> bytes:
    """A failure as JSON: type, message, stack, details, cause. Never raises."""
    return orjson.dumps(_failure(error, depth))


def _failure(error: BaseException, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {"type": type(error).__name__}
    try:
        out["message"] = clean(_message(error))
    except Exception:
        out["message"] = "(its message cannot be shown)"
    if isinstance(error, ApplicationError):
        out["type"] = clean(error.type)
        try:
            out["details"] = orjson.loads(encode(list(error.details)))
        except Exception:
            out["details"] = [clean(repr(d)) for d in error.details]
        if error.non_retryable:
            out["non_retryable"] = True
    elif isinstance(error, HotMeshTimeout):
        out["details"] = [error.kind]
    elif isinstance(error, ActivityError):
        out["activity"] = error.activity
    try:
        out["stack"] = clean("".join(traceback.format_tb(error.__traceback__)))
    except Exception:
        out["stack"] = ""
    cause = error.__cause__
    if cause is None and isinstance(error, BaseExceptionGroup):
        cause = error.exceptions[0]  # without it nobody would learn why a TaskGroup failed
    if cause is not None and depth < 5:
        out["cause"] = _failure(cause, depth + 1)
    return out


def _message(error: BaseException) -> str:
    if isinstance(error, HotMeshError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    if isinstance(error, BaseExceptionGroup):
        parts = [f"{type(e).__name__}: {_message(e)}" for e in error.exceptions[:5]]
        more = [f"and {len(error.exceptions) - 5} more"] if len(error.exceptions) > 5 else []
        return f"{error.message}: {'; '.join([*parts, *more])}"
    return str(error)


def decode_failure(data: bytes | str) -> BaseException:
    """The failure as an exception: ours by its class, user code's as ``ApplicationError``."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        raw = None
    return _rebuild(raw if isinstance(raw, dict) else {"type": "Unknown", "message": str(data)[:1000]})


def _rebuild(raw: dict[str, Any]) -> BaseException:
    message = str(raw.get("message", ""))
    details = raw.get("details")
    if not isinstance(details, list):
        details = [] if details is None else [details]
    cause = raw.get("cause")
    inner = _rebuild(cause) if isinstance(cause, dict) else None
    error: BaseException
    if raw.get("type") == "TimeoutError" and details:
        error = HotMeshTimeout(message, kind=str(details[0]))
    elif raw.get("type") == "ActivityError":
        error = ActivityError(message, cause=inner, activity=raw.get("activity"))
    else:
        error = ApplicationError(
            message,
            *details,
            type=str(raw.get("type", "Unknown")),
            non_retryable=bool(raw.get("non_retryable")),
        )
    error.__cause__ = inner
    return error
