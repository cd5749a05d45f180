"""The durable core: schemas, tables, functions and views."""

from pyhotmesh import migrate

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrate.apply_frozen(revision, tables=True)


def downgrade() -> None:
    migrate.run("drop schema hotmesh cascade; drop schema hotmesh_engine cascade;")
