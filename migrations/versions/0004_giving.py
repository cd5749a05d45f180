"""A single start gives its run to a worker that is asleep."""

from pyhotmesh import migrate

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrate.run("create index live_given on hotmesh_engine.live (holder) where fence = 0 and holder is not null;")
    migrate.apply_frozen(revision)


def downgrade() -> None:
    migrate.restore(revision)
    migrate.run(
        "drop function hotmesh_engine.give(bigint, int, timestamptz, text, text, json);"
        "drop function hotmesh_engine.given(bigint, bigint[]);"
        "drop index hotmesh_engine.live_given;"
    )
