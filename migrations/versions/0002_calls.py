"""Calls."""

from pyhotmesh import migrate

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrate.apply_frozen(revision)


def downgrade() -> None:
    migrate.restore(revision)
    migrate.run(
        "drop function hotmesh.call(text, json, text, interval, text);"
        "drop function hotmesh_engine.call(text, text, text, json, uuid, interval, bigint, boolean);"
        "drop function hotmesh_engine.cached_call(int, text);"
        "drop function hotmesh_engine.flush_call(text, text, text);"
        "drop function hotmesh_engine.call_id(text, text);"
        "drop function hotmesh_engine.call_retention();"
        "drop function hotmesh_engine.serve(bigint, text, text[]);"
    )
