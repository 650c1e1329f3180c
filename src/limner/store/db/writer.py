"""One thread that writes: changes that arrive while it commits share the next commit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from limner.errors import LimnerError
from limner.store.db.statements import ORDER

if TYPE_CHECKING:
    from sqlalchemy import Executable

    from limner.store.db.connect import Database

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
LINGER_SECONDS = 0.03
"""How long after a commit a change that need not be written at once waits for the next one."""

Row = tuple["Executable", Mapping[str, Any]]


class Commit:
    """The promise that a change is on disk: `await` it on the loop that asked, or `wait()` on any other thread.

    Nobody has to do either; changes are written in the order in which they were asked for.
    row: the row of an added job, which is its place of arrival; 0 for other changes.
    """

    def __init__(self) -> None:
        self.row = 0
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._future: asyncio.Future[None] | None = self._loop.create_future() if self._loop else None
        self._done = threading.Event() if self._loop is None else None
        self._error: BaseException | None = None

    def __await__(self) -> Generator[Any, None, None]:
        if self._future is None:
            raise RuntimeError("This change was asked for outside an event loop: use wait().")
        yield from self._future.__await__()
        if self._error is not None:
            raise self._error

    def wait(self, timeout: float | None = None) -> None:
        """Block until the change is on disk. Raises what kept it from being written, or TimeoutError."""
        if self._done is None:
            raise RuntimeError("This change was asked for on an event loop: await it.")
        if not self._done.wait(timeout):
            raise TimeoutError("The database has not written in time.")
        if self._error is not None:
            raise self._error

    @staticmethod
    def settle(commits: Iterable[Commit], error: BaseException | None = None) -> None:
        """Fulfil, or fail with `error`; wakes each event loop once for all of its commits."""
        by_loop: defaultdict[asyncio.AbstractEventLoop, list[Commit]] = defaultdict(list)
        for commit in commits:
            commit._error = error
            if commit._done is not None:
                commit._done.set()
            elif commit._loop is not None:
                by_loop[commit._loop].append(commit)
        for loop, own in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is left to hear it
                loop.call_soon_threadsafe(Commit._wake, own)

    @staticmethod
    def _wake(commits: list[Commit]) -> None:
        for commit in commits:
            if commit._future is not None and not commit._future.done():
                commit._future.set_result(None)


class Change:
    """Rows for statements of `statements.ORDER`.

    undo: called when the change could not be written; a change without one is tried again later instead.
    """

    __slots__ = ("commit", "rows", "undo")

    def __init__(self, rows: Iterable[Row] = (), undo: Callable[[], None] | None = None) -> None:
        self.rows = tuple(rows)
        self.undo = undo
        self.commit = Commit()


class Writer:
    """Commits changes in groups. A failing change fails alone: the others of its group are written without it."""

    def __init__(self, database: Database, turns: threading.Lock | None) -> None:
        self._database = database
        self._turns: contextlib.AbstractContextManager[Any] = turns or contextlib.nullcontext()
        self._incoming: SimpleQueue[Change | None] = SimpleQueue()
        self._backlog: list[Change] = []
        self._held: list[Change] = []
        self._lingering = False
        self._asked = 0
        self._settled = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="limner-jobs", daemon=True)
        self._thread.start()

    def put(self, change: Change, *, soon: bool = False) -> Commit:
        """Ask for a change; the answer may be awaited.

        soon: it need not be written at once. Shortly after another it waits a little, so that both share a commit.
        """
        with self._counting:
            self._asked += 1
            if soon and self._lingering:
                self._held.append(change)
            else:
                self._let_go()
                self._incoming.put(change)
        return change.commit

    def _let_go(self) -> None:
        """Hand over what was held back, before what is asked for next."""
        for held in self._held:
            self._incoming.put(held)
        self._held.clear()

    def flush(self, timeout: float = 10.0) -> None:
        """Block until everything asked for so far is written (or has failed); returns at once when it is."""
        if self._settled == self._asked:
            return
        barrier = Change()
        barrier.commit._done, barrier.commit._loop = threading.Event(), None
        self.put(barrier)
        barrier.commit.wait(timeout)

    def close(self) -> None:
        """Write what is left and end the thread."""
        with self._counting:
            self._let_go()
            self._incoming.put(None)
        self._thread.join()
        if self._backlog:
            log.error("%d changes to the job database could not be written and are lost.", len(self._backlog))

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._take()
            if batch or self._backlog:
                self._write(batch)

    def _take(self) -> tuple[list[Change], bool]:
        """Everything that waits, at least one change; and whether the store stays open."""
        batch: list[Change] = []
        try:
            change = self._next()
            while change is not None:
                batch.append(change)
                change = self._incoming.get_nowait()
        except Empty:
            return batch, True
        return batch, False

    def _next(self) -> Change | None:
        """The next change that is asked for. Raises Empty when it is time to try the backlog again."""
        self._lingering = True
        try:
            return self._incoming.get(timeout=LINGER_SECONDS)
        except Empty:
            with self._counting:
                self._lingering = False
                self._let_go()
            return self._incoming.get(timeout=RETRY_SECONDS if self._backlog else None)

    def _write(self, batch: list[Change]) -> None:
        older, self._backlog = self._backlog, []
        try:
            self._commit(older + batch)
            Commit.settle(change.commit for change in batch)
        except Exception as error:
            if not isinstance(error, SQLAlchemyError):
                log.exception("A group of changes to the job database failed; trying them one by one.")
            for change in older:
                self._write_alone(change)
            for change in batch:
                Commit.settle([change.commit], self._write_alone(change))
        self._settled += len(batch)

    def _write_alone(self, change: Change) -> LimnerError | None:
        """Write one change; one that cannot be undone is kept for later when its failure may pass."""
        try:
            self._commit([change])
        except Exception as error:
            reason = getattr(error, "orig", None) or error
            passing = isinstance(error, OperationalError)
            if change.undo is None and passing:
                if not self._backlog:
                    log.warning("The job database cannot be written now (%s); trying again.", reason)
                self._backlog.append(change)
                return None
            log.error("A change to the job database failed: %s", reason)
            if change.undo is not None:
                change.undo()
            return LimnerError(
                "The job database could not be written, so the prompt was not accepted.",
                why=str(reason),
                do="Free disk space, or end the program that holds the database, and try again.",
            )
        return None

    def _commit(self, changes: list[Change]) -> None:
        gathered: defaultdict[Executable, list[Mapping[str, Any]]] = defaultdict(list)
        for change in changes:
            for statement, row in change.rows:
                gathered[statement].append(row)
        if not gathered:
            return
        with self._turns, self._database.engine.begin() as connection:
            for statement in ORDER:
                if rows := gathered.get(statement):
                    connection.execute(statement, rows)
