"""Queue control, explanations, and indexes for pages of a long history."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FINISHED = "finished IS NOT NULL"


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Add the columns, the state table and the indexes; say of finished jobs how long they took."""
    long_text = sa.Text().with_variant(sa.Text(2**31 - 1), "mysql", "mariadb")
    rank, took = (
        "order among equal numbers; null: order of arrival",
        "milliseconds from start to end; 0 where one is missing",
    )
    op.add_column("jobs", sa.Column("queue_rank", sa.Float(53), nullable=True, comment=rank))
    op.add_column("jobs", sa.Column("duration", sa.BigInteger, nullable=True, comment=took))
    told = sa.Column("explanation", long_text, nullable=True, comment="JSON: why each node ran, or null")
    op.add_column("job_results", told)
    op.execute("UPDATE jobs SET duration = COALESCE(end_time - start_time, 0) WHERE finished IS NOT NULL")
    op.create_table(
        "queue_state",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", long_text, nullable=False, comment="JSON"),
    )
    op.drop_index("ix_jobs_status", "jobs")
    op.create_index("ix_jobs_open", "jobs", ["status"], **_where("finished IS NULL"))
    newest, longest = sa.text("create_time DESC"), sa.text("duration DESC")
    op.create_index("ix_jobs_created", "jobs", [newest, "finished", "status"], **_where(FINISHED))
    op.create_index("ix_jobs_duration", "jobs", [longest, "finished", "status"], **_where(FINISHED))
    op.create_index("ix_jobs_workflow", "jobs", ["workflow_id", "finished"], **_where("workflow_id IS NOT NULL"))
    op.create_index("ix_jobs_owner", "jobs", ["owner", "finished"], **_where("owner IS NOT NULL"))


def downgrade() -> None:
    """Take them away again."""
    for name in ("owner", "workflow", "duration", "created", "open"):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.drop_table("queue_state")
    with op.batch_alter_table("job_results") as batch:
        batch.drop_column("explanation")
    with op.batch_alter_table("jobs") as batch:
        for name in ("duration", "queue_rank"):
            batch.drop_column(name)
