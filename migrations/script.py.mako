"""${message}

Domain files that this revision changes are in frozen/${up_revision} (`make freeze REV=${up_revision}`);
what it does to tables and to old signatures of functions stands here.
"""

from pyhotmesh import migrate

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrate.apply_frozen(revision)


def downgrade() -> None:
    ${downgrades if downgrades else 'raise migrate.MigrationError(f"Revision {revision} cannot be undone.")'}
