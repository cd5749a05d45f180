"""How a migration runs, for `alembic` in a checkout and for `hotmesh db` alike.

An upgrade is one transaction, all or nothing. It begins by waiting for an advisory lock, so of
several processes that upgrade at once one does the work, and the others find nothing left to do.

The version stands in a schema of its own, `hotmesh_migration`: revision 0001 creates the two
schemas of the engine and its downgrade drops them whole, and alembic has to write the version
after that. The migration that leaves no version behind drops this schema too, so that after a
downgrade to `base` the database is what it was before the first upgrade.
"""

import os

from alembic import context
from sqlalchemy import Connection

from pyhotmesh import migrate

VERSION_SCHEMA = migrate.VERSION_SCHEMA

# Settings of the role must neither cut a long migration nor the wait for another one; and an object
# without a schema in the SQL must fail, not land in somebody's first schema.
PREAMBLE = f"""\
set local statement_timeout = 0;
set local lock_timeout = 0;
set local idle_in_transaction_session_timeout = 0;
set local search_path = pg_catalog;
select pg_advisory_xact_lock({migrate.LOCK});
create schema if not exists {VERSION_SCHEMA};
"""


def run_online(connection: Connection) -> None:
    context.configure(
        connection=connection,
        version_table="version",
        version_table_schema=VERSION_SCHEMA,
        transaction_per_migration=False,
    )
    with connection.begin():
        migrate.execute(connection, PREAMBLE)
        context.run_migrations()
        if not context.get_context().get_current_heads():
            migrate.execute(connection, f"drop schema {VERSION_SCHEMA} cascade")


def run_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(
        dialect_name="postgresql",
        version_table="version",
        version_table_schema=VERSION_SCHEMA,
        literal_binds=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.get_context().impl.static_output(PREAMBLE)
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
elif (connection := context.config.attributes.get("connection")) is not None:
    run_online(connection)
else:
    dsn = context.get_x_argument(as_dictionary=True).get("dsn") or os.environ.get("HOTMESH_DATABASE_URL")
    with migrate.connect(dsn) as connection:
        run_online(connection)
