"""The FT.SEARCH query language, parsed by a grammar into the tree that lists and dicts become.

    @active:{yes | maybe}  @created:[(100 +inf]  @first:"jo*"  -@x:{y}  (@a:{b} | @c:{d})  word  "two words"

Parts side by side all have to hold, and bind more tightly than ``|``; ``-`` negates what follows. In braces
stand tags (``{jo*}``: their beginning), in brackets a range (``(``: without the bound itself), after a text
field words, of which all must occur; in quotes they follow one another; ``*`` at the end is a beginning.
Words without a field are looked for in every text field; those that a field's language leaves out (``the``) say
nothing. A backslash takes the next character as it is.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput, UnexpectedToken, VisitError

from ..errors import InvalidQuery
from .query import Tree, open_ends
from .schema import Boolean, Schema, Tag, Text

# In its expressions no backslash stands before a double quote: Lark would take it away.
GRAMMAR: Final = r"""
    start: "*" -> everything
         | union

    ?union: both ("|" both)*
    ?both: part+
    ?part: "-" part -> negation
         | "(" union ")"
         | "@" NAME ":" "{" tag ("|" tag)* "}" -> tags
         | "@" NAME ":" "[" bound ","? bound "]" -> range
         | "@" NAME ":" words -> field
         | (STRING | WORD) -> anywhere

    words: (STRING | WORD) -> word
         | "(" alternative ("|" alternative)* ")" -> alternatives
    alternative: (STRING | WORD)+
    tag: (STRING | WORD | NUMBER)+
    bound: OPEN? (STRING | NUMBER | MOMENT | INFINITY)

    OPEN: "("
    NAME: /[A-Za-z_][A-Za-z0-9_]*/
    INFINITY.4: /[+-]?inf/
    MOMENT.3: /\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?/
    NUMBER.2: /[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?(?=[\s,\]|}]|$)/
    STRING: /"(\\.|[^"\\])*"/
    WORD: /(\\.|[^\s'"(){}\[\]|@:,*~%\\-])(\\.|[^\s'"(){}\[\]|@:,*~%\\])*(\*(?![^\s"'(){}\[\]|@:,~%-]))?/
    %ignore /\s+/
"""

_MOST: Final = 5_000  # characters of a query
_parser = Lark(GRAMMAR, parser="lalr")


def parse(text: str, schema: Schema) -> Tree:
    """The tree of a query. ``InvalidQuery`` says where it cannot be read."""
    if not isinstance(text, str):
        raise InvalidQuery(f"a query must be text, this is {type(text).__name__}", hint="find_where takes lists of conditions")
    if len(text) > _MOST:
        raise InvalidQuery(f"the query has {len(text)} characters, at most {_MOST}")
    if not text.strip():
        raise InvalidQuery("the query is empty", hint="'*' finds everything")
    try:
        tree: Tree = _Builder(schema).transform(_parser.parse(text))
    except UnexpectedInput as error:
        if isinstance(error, UnexpectedToken) and error.token.type == "$END":
            raise InvalidQuery(f"the query ends where something is missing: {text[-40:]!r}") from None
        at = int(error.pos_in_stream or 0)
        hint = r"""quote text, or put a backslash before a sign: @first:"O'Neil" @mail:{a\@b}"""
        if text[at] == "*":
            hint = r"a * goes last, after the beginning of a word; \* is the sign itself"
        raise InvalidQuery(
            f"the query cannot be read at character {at + 1}: {text[max(0, at - 20) : at + 20]!r}", hint=hint
        ) from None
    except VisitError as error:
        if isinstance(error.orig_exc, InvalidQuery):
            raise error.orig_exc from None
        raise
    except RecursionError:
        raise InvalidQuery(f"the query is nested too deeply: {text[:40]!r}") from None
    return tree


def _plain(token: Token) -> tuple[str, bool]:
    """A token's text without quotes and backslashes, and whether it only begins a word."""
    raw = str(token)
    if token.type == "STRING":
        raw = raw[1:-1]
    signs = re.findall(r"\\.|.", raw, re.DOTALL)
    begins = signs[-1:] == ["*"]
    return "".join(sign[-1] for sign in signs[: len(signs) - begins]), begins


def _number(text: str) -> int | float | str:
    """A number's value; text where 64 bits would lose digits, which the engine counts as a number too."""
    if len(text) < 20 and text.lstrip("+-").isdigit():
        return int(text)
    value = float(text)
    if "e" in text.lower() or ("." in text and Decimal(text) == Decimal(repr(value))):
        return value
    return format(Decimal(text), "f")


def _condition(field: str, operator: str, value: Any) -> Tree:
    return {"field": field, "is": operator, "value": value}


def _any(parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else {"or": parts}


def _all(parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else {"and": parts}


class _Builder(Transformer[Token, Any]):
    """From the grammar's tree to conditions."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self._schema = schema

    def start(self, parts: list[Tree]) -> Tree:
        return parts[0]

    def everything(self, _: list[Any]) -> Tree:
        return {"all": True}

    def union(self, parts: list[Tree]) -> Tree:
        return _any(parts)

    def both(self, parts: list[Tree]) -> Tree:
        return _all(parts)

    def negation(self, parts: list[Tree]) -> Tree:
        return {"not": parts[0]}

    def tag(self, tokens: list[Token]) -> tuple[str, bool]:
        words = [_plain(token) for token in tokens]
        if any(begins for _, begins in words[:-1]):
            raise InvalidQuery("in a tag, * may stand at the end only")
        return " ".join(word for word, _ in words), words[-1][1]

    def tags(self, parts: list[Any]) -> Tree:
        name, *tags = parts
        found = [_condition(str(name), "prefix" if begins else "=", tag) for tag, begins in tags]
        return _any(found)

    def bound(self, tokens: list[Token]) -> tuple[bool, Any]:
        token = tokens[-1]
        if token.type == "NUMBER":
            return len(tokens) == 2, _number(str(token))
        if token.type == "INFINITY":
            return len(tokens) == 2, float(token)
        return len(tokens) == 2, _plain(token)[0]

    def range(self, parts: list[Any]) -> Tree:
        name, (low_open, low), (high_open, high) = parts
        return _condition(str(name), f"{'(' if low_open else '['}{')' if high_open else ']'}", open_ends([low, high]))

    def word(self, tokens: list[Token]) -> list[tuple[str, bool]]:
        return [_plain(tokens[0])]

    def alternative(self, tokens: list[Token]) -> list[tuple[str, bool]]:
        return [_plain(token) for token in tokens]

    def alternatives(self, parts: list[list[tuple[str, bool]]]) -> list[list[tuple[str, bool]]]:
        return parts

    def field(self, parts: list[Any]) -> Tree:
        return self._words(str(parts[0]), parts[1])

    def anywhere(self, parts: list[Any]) -> Tree:
        fields = self._schema.texts()
        if not fields:
            raise InvalidQuery("words without a field need a Text field in the schema", hint="@field:{tag}, @field:[1 2]")
        return _any([_match(field, *_plain(parts[0])) for field in fields])

    def _words(self, field: str, found: list[Any]) -> Tree:
        known = self._schema.fields.get(field)
        if known is not None and known.type != Text.type:
            raise InvalidQuery(
                f"words are looked for in Text fields, and {field!r} is {known.type}",
                hint=f"@{field}:{{value}}" if known.type in (Tag.type, Boolean.type) else f"@{field}:[from to]",
            )
        if found and isinstance(found[0], list):
            return _any([_all([_match(field, *word) for word in words]) for words in found])
        return _match(field, *found[0])


def _match(field: str, text: str, begins: bool) -> Tree:
    return _condition(field, "prefix" if begins else "match", text)
