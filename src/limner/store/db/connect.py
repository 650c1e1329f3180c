"""Open the database behind a URL: SQLite with write-ahead log, or any other that SQLAlchemy speaks."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import StaticPool

from limner.errors import BadInput, LimnerError
from limner.store.db.lock import ProcessLock
from limner.store.db.migrate import bring_up_to_date
from limner.store.db.tables import job_items, jobs

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

BUSY_SECONDS = 5.0
CHECKED_BYTES = 16 << 20
"""Files up to this size are checked page by page at every start (60 MB take 0.6 s from a cold disk); of larger ones
only what the queue needs is read."""


@dataclass(frozen=True)
class Database:
    """An open database. `shared` says that every thread uses one connection (SQLite in memory) and must take turns."""

    engine: Engine
    shared: bool
    lock: ProcessLock | None

    def close(self) -> None:
        """Close every connection and give the process lock back."""
        self.engine.dispose()
        if self.lock is not None:
            self.lock.close()


def open_database(url: str, synchronous: str = "normal") -> Database:
    """Open, check and bring up to date the database at `url`.

    synchronous: SQLite's `normal` (survives the process being killed) or `full` (survives power loss).

    A SQLite file that is damaged is moved aside with a log line, and a new one made. Raises BadInput for a URL that
    cannot be used and LimnerError when another process owns the file.
    """
    if synchronous.lower() not in {"off", "normal", "full", "extra"}:
        raise BadInput(f"--database-synchronous {synchronous!r} is not one of normal, full.")
    try:
        parsed = make_url(url)
        engine_class = parsed.get_dialect()
        engine_class.import_dbapi()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise BadInput(f"--database-url {url!r} cannot be used.", why=str(error)) from error
    if engine_class.name != "sqlite":
        engine = sqlalchemy.create_engine(parsed, pool_pre_ping=True)
        bring_up_to_date(engine)
        return Database(engine, shared=False, lock=None)
    if not parsed.database or parsed.database == ":memory:":
        engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        bring_up_to_date(engine)
        return Database(engine, shared=True, lock=None)
    return _open_file(url, Path(parsed.database), synchronous)


def _open_file(url: str, path: Path, synchronous: str) -> Database:
    try:
        lock = ProcessLock(path.with_name(path.name + ".lock"))
    except OSError as error:
        raise LimnerError(f"The database {path} cannot be written.", why=str(error), do=_OTHER_FILE) from error
    try:
        try:
            engine = _checked_engine(url, path, synchronous)
        except DatabaseError as error:
            if not is_damage(error):
                raise
            _move_aside(path, error)
            engine = _checked_engine(url, path, synchronous)
    except OperationalError as error:
        lock.close()
        raise LimnerError(f"The database {path} cannot be opened.", why=str(error.orig), do=_OTHER_FILE) from error
    except BaseException:
        lock.close()
        raise
    return Database(engine, shared=False, lock=lock)


_OTHER_FILE = "Close the program that holds it, make its folder writable, or choose another with --database-url."


def _checked_engine(url: str, path: Path, synchronous: str) -> Engine:
    """The engine of a SQLite file that opens, has the newest tables, and passes SQLite's own check."""
    engine = sqlalchemy.create_engine(
        url, connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS, "cached_statements": 64}
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(
            "PRAGMA wal_autocheckpoint=4000"
        )  # 16 MB: a checkpoint is the only write that waits for disk

    try:
        bring_up_to_date(engine)
        with engine.begin() as connection:
            if path.stat().st_size <= CHECKED_BYTES:
                verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                if verdict != "ok":
                    raise DatabaseError("PRAGMA quick_check", None, sqlite3.DatabaseError(f"malformed: {verdict}"))
            connection.execute(select(func.max(jobs.c.id), func.max(jobs.c.finished))).all()
            waiting = select(func.length(job_items.c.item)).join(jobs, jobs.c.id == job_items.c.id)
            connection.execute(waiting.where(jobs.c.finished.is_(None))).all()
    except BaseException:
        engine.dispose()
        raise
    return engine


def is_damage(error: DatabaseError) -> bool:
    """Whether the file's content is at fault, not a lock, a full disk or a missing permission."""
    text = str(error.orig).lower()
    return any(sign in text for sign in ("malformed", "not a database", "file is encrypted", "corrupt"))


def _move_aside(path: Path, error: DatabaseError) -> None:
    """Rename the damaged file and its log so that nothing of it is lost and a new one can be made."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{stamp}-{os.getpid()}")
    for suffix in ("", "-wal", "-shm"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            source.replace(f"{aside}{suffix}")
    log.error(
        "The database %s is damaged (%s). It was moved to %s and a new, empty one is used: "
        "prompts that were waiting and the history are only in the moved file. "
        "Models, pictures and workflows are not affected.",
        path,
        error.orig,
        aside,
    )
