"""The statements of the job store, in the order in which one commit runs them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Delete, ScalarSelect, bindparam, delete, func, insert, select, update

from limner.store.db.tables import job_items, job_results, jobs, queue_state

INSERT_JOB = insert(jobs)
INSERT_ITEM = insert(job_items)
PLACE = (
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(number=bindparam("new_number"), queue_rank=bindparam("new_rank"))
)
REWRITE_ITEM = update(job_items).where(job_items.c.id == bindparam("job")).values(item=bindparam("new_item"))
SET_STATE = update(queue_state).where(queue_state.c.name == bindparam("key")).values(value=bindparam("new_value"))
START = (
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(status="running", start_time=bindparam("at"), attempts=jobs.c.attempts + 1)
)
FINISH = (
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        status=bindparam("new_status"),
        start_time=func.coalesce(bindparam("started"), jobs.c.start_time),
        end_time=bindparam("ended"),
        duration=func.coalesce(bindparam("ended") - func.coalesce(bindparam("started"), jobs.c.start_time), 0),
        finished=bindparam("place"),
    )
)
INSERT_RESULT = insert(job_results)


def _three(condition: Any) -> tuple[Delete, Delete, Delete]:
    """Delete the jobs that meet a condition, with their items and results, which name them and so go first."""
    doomed = select(jobs.c.id).where(condition)
    return (
        delete(job_results).where(job_results.c.id.in_(doomed)),
        delete(job_items).where(job_items.c.id.in_(doomed)),
        delete(jobs).where(condition),
    )


def _capacity_line() -> ScalarSelect[int]:
    """The place of the newest finished job that no longer fits; null when all do."""
    line = (
        select(jobs.c.finished)
        .where(jobs.c.finished.is_not(None))
        .order_by(jobs.c.finished.desc())
        .limit(1)
        .offset(bindparam("capacity"))
        .subquery()  # twice nested: MySQL refuses to read directly from the table it deletes from
    )
    return select(line.c.finished).scalar_subquery()


REMOVE = _three(jobs.c.id == bindparam("job"))
_NAMED = (jobs.c.prompt_id == bindparam("name")) & (jobs.c.finished <= bindparam("place"))
_ENDED = jobs.c.finished <= bindparam("place")
_OWN = jobs.c.owner == bindparam("own")
FORGET = _three(_NAMED)
FORGET_OWN = _three(_NAMED & _OWN)
CLEAR = _three(_ENDED)
CLEAR_OWN = _three(_ENDED & _OWN)
PRUNE = _three(jobs.c.finished <= _capacity_line())

ORDER = (
    INSERT_JOB,
    INSERT_ITEM,
    PLACE,
    REWRITE_ITEM,
    SET_STATE,
    START,
    FINISH,
    INSERT_RESULT,
    *REMOVE,
    *FORGET,
    *FORGET_OWN,
    *CLEAR,
    *CLEAR_OWN,
    *PRUNE,
)
"""Every row names its job by number and every deletion its last place, so changes of different kinds may be gathered
and run kind by kind: a job's own changes keep their order, and those of different jobs do not touch."""
