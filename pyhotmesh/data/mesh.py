"""``MeshData`` itself: the parts together."""

from __future__ import annotations

from .executing import Executing
from .reading import Reading
from .records import Records
from .searching import Searching
from .serving import Serving


class MeshData(Serving, Executing, Records, Searching, Reading):
    """Entities: workflow types whose workflows have a record that can be searched.

    Args:
        connection: a DSN, a psycopg pool (whose DSN is used), a ``Client``, or nothing for
            ``HOTMESH_DATABASE_URL``.
        schema: a ``Schema``, or its dict form.
        namespace: where no call says otherwise; records of different namespaces do not see each other.
        options: for the ``Worker`` of each connected entity.

    All methods raise ``PayloadError`` for names and values that PostgreSQL cannot hold.
    """
