"""Reading jobs back: the queue at start, the history and its pages."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.exc import DatabaseError

from limner.errors import LimnerError
from limner.store.db.tables import job_items, job_results, jobs, queue_state
from limner.store.records import FINAL, JobRecord, JobSummary, Status

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select

    from limner.store.db.connect import Database

_WHOLE = jobs.join(job_items, job_items.c.id == jobs.c.id).join(job_results, job_results.c.id == jobs.c.id)
_ENTRY = select(jobs.c.prompt_id, job_items.c.item, job_results.c.outputs, job_results.c.status, job_results.c.meta)
_DONE = jobs.c.finished.is_not(None)
_ONE = (
    _ENTRY.select_from(_WHOLE)
    .where(_DONE & (jobs.c.prompt_id == bindparam("name")))
    .order_by(jobs.c.finished.desc())
    .limit(1)
)
_SUMMARIES = (
    select(*jobs.c, job_results.c.outputs, job_results.c.status.label("status_json"))
    .join(job_results, job_results.c.id == jobs.c.id)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)))
)
_RECORD = _ONE.add_columns(jobs.c.status.label("state"), jobs.c.create_time, jobs.c.attempts, jobs.c.owner)


class Reader:
    """Statements that read, each on a connection of its own (or in turns, where all threads share one)."""

    def __init__(self, database: Database, turns: threading.Lock | None, capacity: int) -> None:
        self._engine = database.engine
        self._turns: contextlib.AbstractContextManager[Any] = turns or contextlib.nullcontext()
        self._capacity = capacity

    @contextlib.contextmanager
    def _connect(self) -> Iterator[Connection]:
        try:
            with self._turns, self._engine.connect() as connection:
                yield connection
        except DatabaseError as error:
            raise LimnerError(
                "The job database cannot be read.",
                why=str(error.orig),
                do="If it is damaged, move it away and restart; a new one is made.",
            ) from error

    def counters(self) -> tuple[int, int]:
        """The highest row id and the highest place in the history; 0 where there are none."""
        with self._connect() as connection:
            row = connection.execute(select(func.max(jobs.c.id), func.max(jobs.c.finished))).one()
        return row[0] or 0, row[1] or 0

    def unfinished(self) -> list[tuple[int, JobRecord]]:
        """Row ids and records of jobs that have not ended, in queue order."""
        query = (
            select(jobs.c.id, job_items.c.item, jobs.c.create_time, jobs.c.attempts, jobs.c.owner, jobs.c.queue_rank)
            .join(job_items, job_items.c.id == jobs.c.id)
            .where(jobs.c.finished.is_(None) & jobs.c.status.in_(("pending", "running")))
        )
        with self._connect() as connection:
            rows = connection.execute(query).all()
        found = [(row.id, _record(row, rank=row.id if row.queue_rank is None else row.queue_rank)) for row in rows]
        return sorted(found, key=lambda pair: (pair[1].number, pair[1].rank or 0, pair[0]))

    def state(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """What the queue remembers of itself; what it does not know yet is written down as its default."""
        with self._turns, self._engine.begin() as connection:
            known = {row.name: json.loads(row.value) for row in connection.execute(select(queue_state))}
            new = [{"name": name, "value": json.dumps(value)} for name, value in defaults.items() if name not in known]
            if new:
                connection.execute(insert(queue_state), new)
        return {**defaults, **known}

    def recover(self, *, orderly: bool = False) -> None:
        """Make running jobs pending; `orderly` when the process ends as it should, which is not the job's fault."""
        attempts = jobs.c.attempts - 1 if orderly else jobs.c.attempts
        with self._turns, self._engine.begin() as connection:
            connection.execute(
                update(jobs)
                .where(jobs.c.finished.is_(None) & (jobs.c.status == "running"))
                .values(status="pending", start_time=None, attempts=attempts)
            )

    def history_text(self, max_items: int | None, offset: int, owner: str | None = None) -> str:
        """The history as one JSON object, put together from the stored texts; of one owner, or whole."""
        wanted = _of(owner)
        most = self._capacity if max_items is None else max(0, min(max_items, self._capacity))
        # Which jobs are on the page is read from an index alone; their texts are read for these only.
        page = select(jobs.c.id, jobs.c.prompt_id, jobs.c.finished).where(wanted).limit(most)
        with self._connect() as connection:
            if offset < 0:
                page = page.order_by(jobs.c.finished.desc())
            else:
                count = connection.scalar(select(func.count()).select_from(jobs).where(wanted)) or 0
                page = page.order_by(jobs.c.finished).offset(max(0, count - self._capacity) + offset)
            rows = connection.execute(_entries_of(page)).all()
        return "{" + ",".join(f"{json.dumps(row.prompt_id)}:{_entry(row)}" for row in rows) + "}"

    def entry_text(self, prompt_id: str, owner: str | None = None) -> str | None:
        """One history entry as JSON text; None also when it is not of that owner."""
        with self._connect() as connection:
            row = connection.execute(_ONE.where(_of(owner)), {"name": prompt_id}).one_or_none()
        return None if row is None else _entry(row)

    def record(self, prompt_id: str, owner: str | None = None) -> JobRecord | None:
        """One finished job; None also when it is not of that owner."""
        with self._connect() as connection:
            row = connection.execute(_RECORD.where(_of(owner)), {"name": prompt_id}).one_or_none()
        if row is None:
            return None
        return _record(
            row,
            status=row.state,
            outputs=json.loads(row.outputs),
            meta=json.loads(row.meta),
            status_json=json.loads(row.status),
        )

    def summaries(
        self,
        statuses: Sequence[Status],
        workflow_id: str | None,
        sort_by: str,
        *,
        descending: bool,
        limit: int | None,
        offset: int,
        owner: str | None = None,
    ) -> tuple[list[JobSummary], int]:
        """A page of finished jobs and their whole number."""
        wanted = _of(owner)
        if set(statuses) < set(FINAL):
            wanted &= jobs.c.status.in_(statuses)
        if workflow_id is not None:
            wanted &= jobs.c.workflow_id == workflow_id
        key = jobs.c.duration if sort_by == "execution_duration" else jobs.c.create_time
        with self._connect() as connection:
            total = connection.scalar(select(func.count()).select_from(jobs).where(wanted)) or 0
            start = max(0, offset)
            size = max(0, min(total - start, self._capacity if limit is None else limit))
            # A page of the second half is read from the other end, so that no page is far from where reading begins.
            from_end = start > total // 2
            first, second = (key, jobs.c.finished.desc()) if from_end else (key.desc(), jobs.c.finished)
            if not descending:
                first, second = (key.desc(), jobs.c.finished.desc()) if from_end else (key, jobs.c.finished)
            page = select(jobs.c.id).where(wanted).order_by(first, second)
            page = page.limit(size).offset(total - start - size if from_end else start)
            ids = list(connection.scalars(page))
            places = {row_id: place for place, row_id in enumerate(ids[::-1] if from_end else ids)}
            rows = [row for part in _parts(list(places)) for row in connection.execute(_SUMMARIES, {"ids": part})]
        return [_summary(row) for row in sorted(rows, key=lambda row: places[row.id])], total

    def explanation(self, prompt_id: str, owner: str | None = None) -> str | None:
        """Why each node of a finished job ran, as JSON text."""
        query = _ONE.with_only_columns(job_results.c.explanation).where(_of(owner))
        with self._connect() as connection:
            found: str | None = connection.scalar(query, {"name": prompt_id})
        return found


def _entries_of(page: Select[Any]) -> Select[Any]:
    """The history entries of the jobs on a page, in order of completion."""
    one = page.subquery("page")
    return (
        select(one.c.prompt_id, job_items.c.item, job_results.c.outputs, job_results.c.status, job_results.c.meta)
        .join_from(one, job_items, job_items.c.id == one.c.id)
        .join(job_results, job_results.c.id == one.c.id)
        .order_by(one.c.finished)
    )


def _parts(ids: list[int]) -> list[list[int]]:
    """The ids in groups that every database takes as parameters of one statement."""
    return [ids[start : start + 500] for start in range(0, len(ids), 500)]


def _of(owner: str | None) -> ColumnElement[bool]:
    """The finished jobs of an owner; of everyone when there is none."""
    return _DONE if owner is None else _DONE & (jobs.c.owner == owner)


def _entry(row: Any) -> str:
    return f'{{"prompt":{row.item},"outputs":{row.outputs},"status":{row.status},"meta":{row.meta}}}'


def _record(row: Any, **more: Any) -> JobRecord:
    number, prompt_id, prompt, extra_data, outputs = json.loads(row.item)
    return JobRecord(
        prompt_id,
        number,
        prompt,
        extra_data,
        outputs,
        create_time=row.create_time,
        attempts=row.attempts,
        owner=row.owner,
        **more,
    )


def _summary(row: Any) -> JobSummary:
    return JobSummary(
        row.prompt_id,
        json.loads(row.number),
        row.status,
        row.workflow_id,
        row.create_time,
        row.start_time,
        row.end_time,
        json.loads(row.outputs),
        json.loads(row.status_json),
    )
