"""The durable queue and history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the three tables."""
    long_text = sa.Text().with_variant(sa.Text(2**31 - 1), "mysql", "mariadb")
    row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "jobs",
        sa.Column("id", row_id, primary_key=True, autoincrement=False, comment="order of arrival"),
        sa.Column("prompt_id", sa.String(255), nullable=False),
        sa.Column(
            "number", sa.String(64), nullable=False, comment="queue number as JSON, so that 3 and 3.0 stay apart"
        ),
        sa.Column("status", sa.String(16), nullable=False, comment="pending, running, completed, failed or cancelled"),
        sa.Column("attempts", sa.Integer, nullable=False, comment="how often it was started"),
        sa.Column("workflow_id", sa.String(255), nullable=True),
        sa.Column("create_time", sa.BigInteger, nullable=False, comment="milliseconds since 1970"),
        sa.Column("start_time", sa.BigInteger, nullable=True),
        sa.Column("end_time", sa.BigInteger, nullable=True),
        sa.Column("finished", sa.BigInteger, nullable=True, comment="order of completion; null until then"),
    )
    op.create_index("ix_jobs_prompt_id", "jobs", ["prompt_id"])
    op.create_index("ix_jobs_finished", "jobs", ["finished"])
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.create_table(
        "job_items",
        sa.Column("id", row_id, primary_key=True, autoincrement=False),
        sa.Column("item", long_text, nullable=False, comment="JSON [number, prompt_id, prompt, extra_data, outputs]"),
    )
    op.create_table(
        "job_results",
        sa.Column("id", row_id, primary_key=True, autoincrement=False),
        sa.Column("outputs", long_text, nullable=False),
        sa.Column("meta", long_text, nullable=False),
        sa.Column("status", long_text, nullable=False, comment="JSON status of the history entry, or null"),
    )


def downgrade() -> None:
    """Drop the three tables."""
    op.drop_table("job_results")
    op.drop_table("job_items")
    op.drop_table("jobs")
