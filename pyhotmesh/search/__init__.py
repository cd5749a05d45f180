"""Searching records: schemas, and the queries that are asked of them."""

from .language import parse
from .query import conditions
from .schema import Boolean, Numeric, Schema, Tag, Text, Timestamp

__all__ = ["Boolean", "Numeric", "Schema", "Tag", "Text", "Timestamp", "conditions", "parse"]
