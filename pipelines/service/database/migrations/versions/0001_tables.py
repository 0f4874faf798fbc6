"""Tables of the first release of the service."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("team", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("is_revoked", sa.Boolean, nullable=False),
        sa.Column("max_requests", sa.Integer, nullable=False),
        sa.Column("max_gpu_hours", sa.Float, nullable=False),
    )
    op.create_table(
        "label_sets",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("archive", sa.String(256), nullable=False, unique=True),
        sa.Column("flags", sa.JSON, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until", sa.Float),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(24), primary_key=True),
        sa.Column("labels", sa.String(32), sa.ForeignKey("label_sets.id"), nullable=False, index=True),
        sa.Column("first_view", sa.Integer, nullable=False),
        sa.Column("stop_view", sa.Integer, nullable=False),
        sa.Column("team", sa.String(64), nullable=False),
        sa.Column("token", sa.String(16), sa.ForeignKey("tokens.id"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("is_followed", sa.Boolean, nullable=False),
        sa.Column("is_cancelled", sa.Boolean, nullable=False),
        sa.Column("gives_way", sa.Boolean, nullable=False),
        sa.Column("approved_by", sa.String(64)),
        sa.Column("plan", sa.JSON),
        sa.Column("progress", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kills", sa.Integer, nullable=False),
        sa.Column("times_done", sa.Integer, nullable=False),
        sa.Column("gpu_hours", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("ended", sa.Float),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job", sa.String(24), sa.ForeignKey("jobs.id"), nullable=False, index=True),
        sa.Column("token", sa.String(16), sa.ForeignKey("tokens.id"), nullable=False, index=True),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("webhook", sa.String(1024)),
        sa.Column("is_told", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.UniqueConstraint("job", "token"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("token", sa.String(16)),
        sa.Column("name", sa.String(64)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(64)),
        sa.Column("details", sa.Text),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("audit", "requests", "jobs", "label_sets", "tokens"):
        op.drop_table(table)
