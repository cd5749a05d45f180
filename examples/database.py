"""Which database the examples use: HOTMESH_DATABASE_URL, or without it a private PostgreSQL."""

import os

from pyhotmesh import migrate


def prepare() -> str:
    """The DSN, with the schema up to date. A program of your own runs `hotmesh db upgrade` once instead."""
    dsn = os.environ.get("HOTMESH_DATABASE_URL") or "embedded:"
    migrate.upgrade(dsn)
    return dsn
