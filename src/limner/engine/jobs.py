"""Jobs: queue and history as one list, the way newer front ends ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limner.engine.queue import Job, Queue
from limner.store import JobRecord, JobSummary

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
FINISHED = ("completed", "failed", "cancelled")

VISUAL = ("images", "video", "audio", "3d", "text")
SHAPES = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
TEXTS = (".txt", ".md", ".json")
LONGEST_TEXT = 1024

Found = list[dict[str, Any]]


class Jobs:
    """Reads jobs from queue and store, and cancels them. Job objects are JSON-ready; null values are left out."""

    def __init__(self, queue: Queue, store: Any) -> None:
        self._queue = queue
        self._store = store

    def list(
        self,
        statuses: Sequence[str] = STATUSES,
        workflow_id: str | None = None,
        sort_by: str = "created_at",
        sort_order: str = "desc",
        limit: int | None = None,
        offset: int = 0,
        owner: str | None = None,
    ) -> tuple[Found, int]:
        """A page of jobs of these statuses and how many there are in all, sorted by `created_at` or by
        `execution_duration` (0 for what has not ended); ties stand as running, waiting, finished.
        owner: only that API key's jobs, here and below.
        """
        descending = sort_order == "desc"
        live = [
            job for job in self._live(statuses, owner) if workflow_id is None or job.get("workflow_id") == workflow_id
        ]
        ended = [status for status in FINISHED if status in statuses]
        if not live:
            return self._finished(ended, workflow_id, sort_by, descending, limit=limit, offset=offset, owner=owner)
        # However the live jobs fall among the finished ones, those before `skipped` all come before the page.
        skipped = max(0, offset - len(live))
        most = None if limit is None else limit + len(live)
        found, total = self._finished(ended, workflow_id, sort_by, descending, limit=most, offset=skipped, owner=owner)
        jobs = sorted([*live, *found], key=lambda job: sort_key(job, sort_by), reverse=descending)
        start = offset - skipped
        return jobs[start : None if limit is None else start + limit], len(live) + total

    def get(self, job_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """One job with everything known of it, or None."""
        record = self._store.find(job_id, owner)
        if record is not None:
            return _full(record)
        found = self._queue.find(job_id, owner)
        if found is not None:
            return _live(*found)
        # It may have ended between the two looks: it is in the history before it leaves the queue.
        record = self._store.find(job_id, owner)
        return None if record is None else _full(record)

    def explain(self, job_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """Why each node of a job ran or was not needed, or None for an unknown job.

        `nodes` is {} until the job has ended, and for jobs that ended before this was written down.
        """
        job = self.get(job_id, owner)
        if job is None:
            return None
        return {"id": job_id, "status": job["status"], "nodes": {}, **(self._store.explanation(job_id, owner) or {})}

    def cancel(self, job_id: str, owner: str | None = None) -> bool:
        """Interrupt the job if it runs, take it out if it waits. Returns whether it did either."""
        return self._queue.cancel(job_id, owner)

    def cancel_many(self, job_ids: Iterable[str], owner: str | None = None) -> bool:
        """Cancel several. Returns whether any of them was still open."""
        return sum(self.cancel(job_id, owner) for job_id in job_ids) > 0

    def _live(self, statuses: Sequence[str], owner: str | None) -> Found:
        jobs: Found = []
        if "in_progress" in statuses:
            jobs += [_live(job, True) for job in self._queue.running_jobs(owner)]
        if "pending" in statuses:
            jobs += [_live(job, False) for job in self._queue.pending_jobs(owner)]
        return jobs

    def _finished(
        self,
        statuses: Sequence[str],
        workflow_id: str | None,
        sort_by: str,
        descending: bool,
        *,
        limit: int | None,
        offset: int,
        owner: str | None,
    ) -> tuple[Found, int]:
        if not statuses:
            return [], 0
        summaries, total = self._store.finished(
            statuses, workflow_id, sort_by, descending=descending, limit=limit, offset=offset, owner=owner
        )
        return [_finished(one) for one in summaries], total


def sort_key(job: Mapping[str, Any], sort_by: str) -> int:
    """What jobs are sorted by."""
    if sort_by == "execution_duration":
        start, end = job.get("execution_start_time"), job.get("execution_end_time")
        return 0 if start is None or end is None else int(end) - int(start)
    return int(job.get("create_time") or 0)


def _without_nulls(job: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}


def _live(job: Job, running: bool) -> dict[str, Any]:
    return _without_nulls(
        {
            "id": job.prompt_id,
            "status": "in_progress" if running else "pending",
            "priority": job.number,
            "create_time": job.create_time,
            "outputs_count": 0,
            "workflow_id": workflow_id(job.extra_data),
        }
    )


def workflow_id(extra_data: Mapping[str, Any]) -> str | None:
    """The id of the UI workflow that the client sent along, or None."""
    found: Any = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) and found else None


def _finished(job: JobSummary) -> dict[str, Any]:
    count, previewable, preview = count_outputs(job.outputs)
    return _without_nulls(
        {
            "id": job.prompt_id,
            "status": job.status,
            "priority": job.number,
            "create_time": job.create_time,
            "execution_start_time": job.start_time,
            "execution_end_time": job.end_time,
            "execution_error": execution_error(job.status_json),
            "outputs_count": count,
            "previewable_outputs_count": previewable,
            "preview_output": preview,
            "workflow_id": job.workflow_id,
        }
    )


def execution_error(status: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What went wrong, from the messages of a history status; node_id is a text always."""
    for event, data in (status or {}).get("messages") or ():
        if event == "execution_error":
            return {**data, "node_id": str(data.get("node_id", ""))}
    return None


def _full(record: JobRecord) -> dict[str, Any]:
    messages = (record.status_json or {}).get("messages") or ()
    times = {event: data.get("timestamp") for event, data in messages}
    ends = ("execution_success", "execution_error", "execution_interrupted")
    summary = JobSummary(
        prompt_id=record.prompt_id,
        number=record.number,
        status=record.status,
        workflow_id=record.workflow_id(),
        create_time=record.create_time,
        start_time=times.get("execution_start"),
        end_time=next((times[event] for event in ends if event in times), None),
        outputs=record.outputs,
        status_json=record.status_json,
    )
    error = execution_error(record.status_json)
    return {
        **_finished(summary),
        "outputs": {node: _plain_output(shown) for node, shown in record.outputs.items()},
        "execution_status": record.status_json,
        "workflow": {"prompt": record.prompt, "extra_data": record.extra_data},
        "execution_errors": [] if error is None else [error],
    }


def _plain_output(shown: Any) -> Any:
    """A node's output with 3-D file names as file entries and without nulls."""
    if not isinstance(shown, Mapping):
        return shown
    return {
        key: [one if entry is None else entry for one in value if one is not None for entry in (_file_entry(one),)]
        if isinstance(value, list)
        else value
        for key, value in shown.items()
    }


def _file_entry(item: Any) -> dict[str, Any] | None:
    """The file entry of a plain text that names a 3-D file, else None."""
    if isinstance(item, str) and item.lower().endswith(SHAPES):
        return {"filename": item, "type": "output", "subfolder": "", "mediaType": "3d"}
    return None


def count_outputs(outputs: Mapping[str, Any]) -> tuple[int, int, dict[str, Any] | None]:
    """How many things a job shows, how many of them can be previewed, and the one to preview."""
    count = 0
    previewable: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for node, shown in outputs.items():
        for key, items in shown.items() if isinstance(shown, Mapping) else ():
            if key == "animated" or not isinstance(items, list):
                continue
            for item in items:
                entry = item if isinstance(item, Mapping) else _file_entry(item)
                if entry is not None:
                    count += 1
                    if is_previewable(key, entry):
                        previewable.append({"mediaType": key, **entry, "nodeId": node})
                elif key == "text" and isinstance(item, str):
                    texts.append(_text_preview(item, node))
    saved = [one for one in previewable if one.get("type") == "output"]
    media = [one for one in (*saved, *previewable) if not _is_text(one)]
    best = next(iter((*media, *saved, *previewable, *texts)), None)
    return count, len(previewable), best


def _is_text(entry: Mapping[str, Any]) -> bool:
    return entry.get("mediaType") == "text" or str(entry.get("filename", "")).lower().endswith(TEXTS)


def is_previewable(key: str, entry: Mapping[str, Any]) -> bool:
    """Whether a client can show it: by the output's key, the item's format, or its file name."""
    name = str(entry.get("filename", "")).lower()
    kind = str(entry.get("format", ""))
    return key in VISUAL or kind.startswith(("video/", "audio/")) or name.endswith((*SHAPES, *TEXTS))


def _text_preview(text: str, node: str) -> dict[str, Any]:
    preview: dict[str, Any] = {"content": text[:LONGEST_TEXT], "nodeId": node, "mediaType": "text"}
    return {**preview, "truncated": True} if len(text) > LONGEST_TEXT else preview
