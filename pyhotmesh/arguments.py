"""Arguments as a function's annotations want them.

A payload is JSON: lists, dicts, texts, numbers. A function that says that it takes a dataclass, a
pydantic model, an enum, a datetime, ... is given one; what its annotations leave open stays as it is.
The conversion is msgspec's.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from .errors import ApplicationError

Convert = Callable[[list[Any]], list[Any]]

_JSON = (Any, object, str, int, float, bool, type(None), list, dict, inspect.Parameter.empty)


def converter(fn: Callable[..., Any]) -> Convert | None:
    """What turns decoded arguments into those that ``fn`` wants; None if they are that already."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
        hints = typing.get_type_hints(_annotated(fn))
    except (TypeError, ValueError, NameError):  # a builtin, or an annotation that cannot be resolved
        return None
    wanted: list[Any] = []
    rest: Any = Any
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            rest = hint
        elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            wanted.append(hint)
    if all(map(_is_json, wanted)) and _is_json(rest):
        return None
    names = [p.name for p in parameters]

    def convert(args: list[Any]) -> list[Any]:
        return [
            _convert(arg, wanted[i] if i < len(wanted) else rest, names[min(i, len(names) - 1)]) for i, arg in enumerate(args)
        ]

    return convert


def _annotated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What has the annotations of something that can be called."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn if inspect.isroutine(fn) or inspect.isclass(fn) else type(fn).__call__


def _is_json(hint: Any) -> bool:
    """Whether decoded JSON is what this annotation wants, as far as it goes."""
    if hint in _JSON if isinstance(hint, typing.Hashable) else False:
        return True
    origin = typing.get_origin(hint)
    if origin in (list, dict, typing.Union, types.UnionType):
        return all(map(_is_json, typing.get_args(hint)))
    return origin is typing.Literal


def _convert(value: Any, hint: Any, name: str) -> Any:
    if _is_json(hint):
        return value
    try:
        return msgspec.convert(value, hint, dec_hook=_other)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ApplicationError(f"argument {name!r}: {error}", type="BadArgument", non_retryable=True) from error


def _other(hint: type[Any], value: Any) -> Any:
    """A type that msgspec does not know: pydantic's models make themselves."""
    validate = getattr(hint, "model_validate", None)
    if callable(validate):
        return validate(value)
    raise TypeError(f"{hint.__name__} cannot be made from JSON")
