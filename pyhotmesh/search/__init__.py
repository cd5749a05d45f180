"""Searching records: schemas, and the queries that are asked of them."""

from .query import Tree, conditions
from .schema import Boolean, Numeric, Schema, Tag, Text, Timestamp

__all__ = ["Boolean", "Numeric", "Schema", "Tag", "Text", "Timestamp", "conditions", "parse"]


def parse(text: str, schema: Schema) -> Tree:
    """The tree of a query in the FT.SEARCH language (see ``pyhotmesh.search.language``)."""
    # Importing it makes the parser, which only those should wait for who ask in this language.
    from .language import parse

    return parse(text, schema)
