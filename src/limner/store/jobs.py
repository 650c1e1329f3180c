"""The durable queue and history: what was accepted is never lost, and ends exactly once in the history."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from limner.errors import BadInput
from limner.store.db import statements as sql
from limner.store.db.connect import Database, open_database
from limner.store.db.reader import Reader
from limner.store.db.tables import KEY_LENGTH
from limner.store.db.writer import Change, Commit, Row, Writer
from limner.store.records import FINAL, JobRecord, JobSummary, Number, Status, encode, event_time

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)

CAPACITY = 100_000
"""Finished jobs that are kept unless another number is asked for."""
PRUNE_EVERY = 64
STATE = {"paused": False, "probe": 0}
"""What the queue remembers of itself over restarts, and what it is at first."""


class JobStore:
    """Accepted prompts on disk, from acceptance to history.

    Changes are asked for in order and written by one thread, many to a commit; each returns a `Commit` that may be
    awaited or left alone. Reads see every change asked for before. Any thread may call anything.
    """

    def __init__(self, database: Database, capacity: int = CAPACITY) -> None:
        turns = threading.Lock() if database.shared else None
        self._database = database
        self._reader = Reader(database, turns, capacity)
        self._state = self._reader.state(STATE)
        self._unfinished = self._reader.unfinished()
        self._reader.recover()
        self._capacity = capacity
        last_id, last_place = self._reader.counters()
        self._next_id = last_id + 1
        self._next_place = last_place + 1
        self._open: dict[str, dict[int, Number]] = {}
        for row_id, record in self._unfinished:
            self._open.setdefault(record.prompt_id, {})[row_id] = record.number
        self._running: dict[str, int] = {}
        self._lock = threading.Lock()
        self._writer = Writer(database, turns)

    @classmethod
    def open(cls, url: str, synchronous: str = "normal", capacity: int = CAPACITY) -> JobStore:
        """Open the database at an SQLAlchemy URL; see `open_database` for what can go wrong."""
        database = open_database(url, synchronous)
        try:
            return cls(database, capacity)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Write what was asked for; a job still running is pending again, and that is no failed attempt of it."""
        self._writer.close()
        try:
            self._reader.recover(orderly=True)
        except SQLAlchemyError as error:
            log.warning(
                "The running job could not be marked as waiting (%s); it will be when the store is opened.", error
            )
        finally:
            self._database.close()

    def __enter__(self) -> JobStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Changes

    def load_unfinished(self) -> list[JobRecord]:
        """The jobs that were waiting or running when the store was last closed or died, in queue order, all pending.

        Lower number first, equal numbers in order of arrival. Meant to be called once, after opening; the records are
        then given away, not kept.
        """
        given, self._unfinished = self._unfinished, []
        return [record for _, record in given]

    def add(self, record: JobRecord) -> Commit:
        """Take a prompt in; it is accepted once the commit is awaited.

        Raises BadInput for an id that no database could index and for what JSON does not have (NaN), and from the
        commit LimnerError when it was not written.
        """
        check_prompt_id(record.prompt_id)
        try:
            item = json.dumps(record.item(), separators=(",", ":"), allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInput(
                "The prompt cannot be kept as JSON.", f"{error}.", "NaN and Infinity are no JSON."
            ) from error
        workflow = record.workflow_id()
        row = {
            "prompt_id": record.prompt_id,
            "number": json.dumps(record.number),
            "status": "pending",
            "attempts": 0,
            "workflow_id": workflow if workflow is not None and _is_key(workflow) else None,
            "create_time": record.create_time,
            "start_time": None,
            "end_time": None,
            "finished": None,
            "owner": record.owner,
        }
        with self._lock:
            row["id"] = row_id = self._next_id
            self._next_id += 1
            self._open.setdefault(record.prompt_id, {})[row_id] = record.number
            rows: list[Row] = [(sql.INSERT_JOB, row), (sql.INSERT_ITEM, {"id": row_id, "item": item})]
            change = Change(rows, undo=lambda: self._refuse(record.prompt_id, row_id))
            change.commit.row = row_id
            return self._writer.put(change)

    def place(self, prompt_id: str, number: Number, rank: float, item: list[Any] | None = None) -> Commit:
        """Another place in the queue for a waiting job: its number, and its order among equal ones.

        item: the queue item with the new number, where that has changed.
        """
        with self._lock:
            row_id = None if prompt_id in self._running else self._first(prompt_id)
            if row_id is None:
                return self._writer.put(Change())
            self._open[prompt_id][row_id] = number
            rows: list[Row] = [(sql.PLACE, {"job": row_id, "new_number": json.dumps(number), "new_rank": rank})]
            if item is not None:
                rows.append((sql.REWRITE_ITEM, {"job": row_id, "new_item": json.dumps(item, separators=(",", ":"))}))
            return self._writer.put(Change(rows))

    def state(self, name: str) -> Any:
        """What the queue remembers of itself: a value of `STATE`."""
        return self._state[name]

    def set_state(self, name: str, value: Any) -> Commit:
        """Remember a value of `STATE` over restarts."""
        with self._lock:
            self._state[name] = value
            return self._writer.put(Change([(sql.SET_STATE, {"key": name, "new_value": json.dumps(value)})]))

    def probe(self) -> Commit:
        """A small change that shows whether the database can be written; its commit fails when it cannot."""
        with self._lock:
            row = {"key": "probe", "new_value": json.dumps(_now())}
            return self._writer.put(Change([(sql.SET_STATE, row)], undo=_nothing))

    def start(self, prompt_id: str) -> Commit:
        """The job runs now. Should the process die before `finish`, it is pending again, one attempt richer."""
        with self._lock:
            row_id = None if prompt_id in self._running else self._first(prompt_id)
            if row_id is None:
                return self._writer.put(Change())
            self._running[prompt_id] = row_id
            # A short job has ended before this must be known: both are then one commit.
            return self._writer.put(Change([(sql.START, {"job": row_id, "at": _now()})]), soon=True)

    def finish(
        self,
        prompt_id: str,
        status: Status,
        outputs: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
        status_json: dict[str, Any] | None = None,
        explanation: dict[str, Any] | None = None,
    ) -> Commit:
        """The job ended and moves to the history, in place of an older entry of the same id.

        status: completed, failed or cancelled. explanation: why each node ran. Finishing a job that is not open
        changes nothing, so an end that is reported twice is recorded once.
        """
        if status not in FINAL:
            raise BadInput(f"A job cannot end as {status!r}.", why=f"It must be one of {', '.join(FINAL)}.")
        result = {"outputs": encode(outputs or {}), "meta": encode(meta or {}), "status": encode(status_json)}
        told = None if explanation is None else encode(explanation)
        started, ended = event_time(status_json, start=True), event_time(status_json, start=False) or _now()
        with self._lock:
            row_id = self._running.pop(prompt_id, None) or self._first(prompt_id)
            if row_id is None:
                return self._writer.put(Change())
            self._close_job(prompt_id, row_id)
            place = self._next_place
            self._next_place += 1
            end = {"job": row_id, "new_status": status, "started": started, "ended": ended, "place": place}
            rows: list[Row] = [(sql.FINISH, end), (sql.INSERT_RESULT, {"id": row_id, **result, "explanation": told})]
            rows += [(statement, {"name": prompt_id, "place": place - 1}) for statement in sql.FORGET]
            if place % PRUNE_EVERY == 0:
                rows += [(statement, {"capacity": self._capacity}) for statement in sql.PRUNE]
            return self._writer.put(Change(rows))

    def remove(self, prompt_ids: Iterable[str]) -> Commit:
        """Take waiting jobs out of the queue without a trace; unknown and running ones are left alone."""
        rows: list[Row] = []
        with self._lock:
            for prompt_id in prompt_ids:
                row_id = None if prompt_id in self._running else self._first(prompt_id)
                if row_id is not None:
                    self._close_job(prompt_id, row_id)
                    rows += [(statement, {"job": row_id}) for statement in sql.REMOVE]
            return self._writer.put(Change(rows))

    def delete(self, prompt_ids: Iterable[str], owner: str | None = None) -> Commit:
        """Take finished jobs out of the history, with an owner only that owner's; unknown ids are ignored."""
        with self._lock:
            place = self._next_place - 1
            names = [name for name in prompt_ids if isinstance(name, str) and _is_key(name)]
            forget, own = (sql.FORGET, {}) if owner is None else (sql.FORGET_OWN, {"own": owner})
            rows = [(statement, {"name": name, "place": place, **own}) for name in names for statement in forget]
            return self._writer.put(Change(rows))

    def clear(self, owner: str | None = None) -> Commit:
        """Empty the history as it is now, with an owner only of that owner's jobs."""
        with self._lock:
            place = self._next_place - 1
            clear, own = (sql.CLEAR, {}) if owner is None else (sql.CLEAR_OWN, {"own": owner})
            return self._writer.put(Change([(statement, {"place": place, **own}) for statement in clear]))

    def _refuse(self, prompt_id: str, row_id: int) -> None:
        with self._lock:
            if row_id in self._open.get(prompt_id, ()):
                self._close_job(prompt_id, row_id)

    def _first(self, prompt_id: str) -> int | None:
        """The row of the open job of this id; of several, the one that the queue gives out first."""
        rows = self._open.get(prompt_id)
        return min(rows, key=lambda row_id: (rows[row_id], row_id)) if rows else None

    def _close_job(self, prompt_id: str, row_id: int) -> None:
        rows = self._open[prompt_id]
        del rows[row_id]
        if not rows:
            del self._open[prompt_id]

    # Reads

    def history(self, max_items: int | None = None, offset: int = -1, owner: str | None = None) -> dict[str, Any]:
        """Finished jobs by prompt id, oldest first: `{id: {"prompt", "outputs", "status", "meta"}}`.

        A negative offset takes the newest `max_items`; otherwise that many of the oldest are skipped.
        owner: only the jobs of that API key; every read takes it.
        """
        return dict(json.loads(self.history_text(max_items, offset, owner)))

    def history_text(self, max_items: int | None = None, offset: int = -1, owner: str | None = None) -> str:
        """`history` as JSON text, joined from what is stored: nothing is parsed."""
        self._writer.flush()
        return self._reader.history_text(max_items, offset, owner)

    def get(self, prompt_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """The history entry of one finished job, or None."""
        text = self.get_text(prompt_id, owner)
        return None if text is None else dict(json.loads(text))

    def get_text(self, prompt_id: str, owner: str | None = None) -> str | None:
        """`get` as JSON text."""
        self._writer.flush()
        return self._reader.entry_text(prompt_id, owner) if _is_key(prompt_id) else None

    def find(self, prompt_id: str, owner: str | None = None) -> JobRecord | None:
        """A finished job with everything known of it, or None."""
        self._writer.flush()
        return self._reader.record(prompt_id, owner) if _is_key(prompt_id) else None

    def explanation(self, prompt_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """Why each node of a finished job ran; None where that was not written down."""
        self._writer.flush()
        text = self._reader.explanation(prompt_id, owner) if _is_key(prompt_id) else None
        return None if text is None else dict(json.loads(text))

    def finished(
        self,
        statuses: Sequence[Status] = FINAL,
        workflow_id: str | None = None,
        sort_by: str = "created_at",
        *,
        descending: bool = True,
        limit: int | None = None,
        offset: int = 0,
        owner: str | None = None,
    ) -> tuple[list[JobSummary], int]:
        """A page of finished jobs without their prompts, and how many there are in all.

        sort_by: `created_at` or `execution_duration` (0 when a time is missing); ties in order of completion.
        """
        self._writer.flush()
        return self._reader.summaries(
            statuses, workflow_id, sort_by, descending=descending, limit=limit, offset=offset, owner=owner
        )

    def flush(self) -> None:
        """Block until every change asked for is written."""
        self._writer.flush()


def check_prompt_id(prompt_id: str) -> None:
    """Raise BadInput unless the id is 1 to 255 characters of valid text."""
    if not _is_key(prompt_id):
        raise BadInput(
            f"The prompt id {prompt_id[:40]!r} cannot be used.",
            why=f"It must be 1 to {KEY_LENGTH} characters of valid Unicode.",
            do="Leave prompt_id out to have one made.",
        )


def _is_key(text: str) -> bool:
    if not 0 < len(text) <= KEY_LENGTH or "\0" in text:
        return False
    with contextlib.suppress(UnicodeEncodeError):
        text.encode()
        return True
    return False


def _nothing() -> None:
    """There is nothing to undo."""


def _now() -> int:
    return time.time_ns() // 1_000_000
