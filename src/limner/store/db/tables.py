"""The tables of the job store, split so that a change of state never rewrites a large prompt."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text, text

HEAD = "0003"
"""The migration that this file corresponds to; a test holds it against the migrations folder."""

KEY_LENGTH = 255
"""Longest prompt id and workflow id in characters; MySQL cannot index longer ones."""

metadata = MetaData()

_LONG_TEXT = Text().with_variant(Text(2**31 - 1), "mysql", "mariadb")
_ROW_ID = BigInteger().with_variant(Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    """The options of an index that holds only some rows, where the database knows such."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


jobs = Table(
    "jobs",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=False, comment="order of arrival"),
    Column("prompt_id", String(KEY_LENGTH), nullable=False),
    Column("number", String(64), nullable=False, comment="queue number as JSON, so that 3 and 3.0 stay apart"),
    Column("status", String(16), nullable=False, comment="pending, running, completed, failed or cancelled"),
    Column("attempts", Integer, nullable=False, comment="how often it was started"),
    Column("workflow_id", String(KEY_LENGTH), nullable=True),
    Column("create_time", BigInteger, nullable=False, comment="milliseconds since 1970"),
    Column("start_time", BigInteger, nullable=True),
    Column("end_time", BigInteger, nullable=True),
    Column("finished", BigInteger, nullable=True, comment="order of completion; null until then"),
    Column("owner", String(64), nullable=True, comment="name of the API key that brought it; null without keys"),
    Column("queue_rank", Float(53), nullable=True, comment="order among equal numbers; null: order of arrival"),
    Column("duration", BigInteger, nullable=True, comment="milliseconds from start to end; 0 where one is missing"),
    Index("ix_jobs_prompt_id", "prompt_id"),
    Index("ix_jobs_finished", "finished"),
    Index("ix_jobs_open", "status", **_where("finished IS NULL")),
    Index("ix_jobs_workflow", "workflow_id", "finished", **_where("workflow_id IS NOT NULL")),
    Index("ix_jobs_owner", "owner", "finished", **_where("owner IS NOT NULL")),
)

# Pages of finished jobs are read from these alone, newest or longest first, however many jobs there are.
_finished = _where("finished IS NOT NULL")
Index("ix_jobs_created", jobs.c.create_time.desc(), jobs.c.finished, jobs.c.status, **_finished)
Index("ix_jobs_duration", jobs.c.duration.desc(), jobs.c.finished, jobs.c.status, **_finished)

job_items = Table(
    "job_items",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=False),
    Column("item", _LONG_TEXT, nullable=False, comment="JSON [number, prompt_id, prompt, extra_data, outputs]"),
)

job_results = Table(
    "job_results",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=False),
    Column("outputs", _LONG_TEXT, nullable=False),
    Column("meta", _LONG_TEXT, nullable=False),
    Column("status", _LONG_TEXT, nullable=False, comment="JSON status of the history entry, or null"),
    Column("explanation", _LONG_TEXT, nullable=True, comment="JSON: why each node ran, or null"),
)

queue_state = Table(
    "queue_state",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", _LONG_TEXT, nullable=False, comment="JSON"),
)

revision = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""Alembic's own table, read and stamped without importing alembic when nothing has to be migrated."""
