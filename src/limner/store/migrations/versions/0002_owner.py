"""Whose API key brought a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; jobs of before have no owner."""
    comment = "name of the API key that brought it; null without keys"
    op.add_column("jobs", sa.Column("owner", sa.String(64), nullable=True, comment=comment))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("jobs", "owner")
