"""Queries in SQL, over records and tables of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from .. import direct, payloads
from ..connection import is_connection_trouble, translate
from ..errors import InvalidQuery
from .spaces import Spaces

# What engine connections have otherwise (see ``connection``) would be wrong for queries that nobody foresaw. All
# that a query sets goes with its transaction.
_BEGIN = "begin read only; set local enable_seqscan = on; set local plan_cache_mode = force_custom_plan"
_CANCELLED = "57014"


class Reading(Spaces):
    """``sql``."""

    async def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """One SQL query of yours, over ``hotmesh_data."<entity>"`` and tables of your own; rows as dicts.

        ``%s`` and ``%(name)s`` stand for parameters. It runs in a read-only transaction under your role, for 30 s
        at most: what would change something is refused, and what it locks is released. The view shows the records of
        all namespaces: ``where record_namespace = 'default'``. Raises ``InvalidQuery`` with what PostgreSQL says, and
        for two columns of one name.
        """
        payloads.text_bytes(query, "query")
        if not isinstance(params, Sequence | Mapping) or isinstance(params, str | bytes):
            raise InvalidQuery(f"params must be a list of values or a mapping of them by name, not {params!r:.100}")

        async def call(conn: Any, lost: bool) -> list[dict[str, Any]]:
            await conn.execute(_BEGIN, prepare=False)
            try:
                cursor = conn.cursor(row_factory=psycopg.rows.dict_row)
                await cursor.execute(query.encode(), params, prepare=True)  # prepared: of several statements none runs
                _check_names([column.name for column in cursor.description or ()])
                return await cursor.fetchall() if cursor.description else []
            except (psycopg.Error, UnicodeEncodeError, TypeError) as error:  # the last: %s with a mapping, and the reverse
                if _is_trouble(error):
                    raise
                raise _refused(error) from error
            finally:
                if conn.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                    await direct.fetch(conn, "rollback", ())  # psycopg's own would discard all prepared statements
                if conn.pgconn.transaction_status == TransactionStatus.IDLE:  # a session's locks outlive the transaction
                    await direct.fetch(conn, "select pg_advisory_unlock_all()", ())

        return await self.client._repeated(call)


def _check_names(names: list[str]) -> None:
    """Refuses what a dict would hold but one of."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidQuery(
            f"the query has two columns named {twice!r:.100}, and a row as a dict has one",
            hint="name them apart: select ... as ...",
        )


def _refused(error: Exception) -> InvalidQuery:
    state = getattr(error, "sqlstate", None) or ""
    hint = None
    if state.startswith("HM") and isinstance(error, psycopg.Error):
        error = translate(error)
    elif state == "42P01" and "hotmesh_data." in str(error):
        hint = "create_search_index makes the view of an entity"
    elif isinstance(error, psycopg.ProgrammingError | TypeError) and "placeholder" in str(error):
        hint = "%s and %(name)s stand for parameters, %% for a percent sign"
    return InvalidQuery(f"the query was refused: {str(error).strip()}", hint=hint)


def _is_trouble(error: Exception) -> bool:
    """Whether the connection or the server failed, and not the query."""
    state = getattr(error, "sqlstate", None) or ""
    return is_connection_trouble(error) and not state.startswith("25") and state != _CANCELLED
