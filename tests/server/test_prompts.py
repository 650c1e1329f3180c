"""Prompts, queue, history and jobs over HTTP."""

import io
from pathlib import Path

import pytest

from tests.server.make import PROMPT, Running, server

JOB = "0b1c2d3e-4f50-4a6b-8c7d-9e0f1a2b3c4d"


@pytest.mark.parametrize("path", ["/prompt", "/api/prompt"])
async def test_a_prompt_is_taken_bare_and_under_api(here: Running, path: str) -> None:
    assert await here.post(path, json={"prompt": PROMPT, "prompt_id": "mine", "number": 3.5}) == (
        200,
        {"prompt_id": "mine", "number": 3.5, "node_errors": {}},
    )


async def test_a_rejected_prompt_gets_400_and_the_whole_report(here: Running) -> None:
    text = "No prompt provided"
    assert await here.post("/prompt", json={}) == (
        400,
        {
            "error": {"type": "no_prompt", "message": text, "details": text, "extra_info": {}},
            "node_errors": {},
        },
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        b'"text"',
        b'{"prompt": NaN}',
        b'{"prompt": {"1": {"inputs": {"x": Infinity}}}}',
        b'{"prompt": -Infinity}',
        b'{"prompt_id": "\\ud800"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"number": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_a_body_that_holds_no_prompt_is_refused_in_the_protocols_form(here: Running, body: bytes) -> None:
    status, answer = await here.post("/prompt", data=body)

    assert status == 400
    assert answer["error"]["type"] == "invalid_prompt"
    assert answer["error"]["message"]
    assert answer["node_errors"] == {}
    assert not here.engine.calls


async def test_not_a_number_is_called_by_its_name(here: Running) -> None:
    _, answer = await here.post("/prompt", data=b'{"prompt": {"1": {"inputs": {"cfg": NaN}}}}')

    assert "NaN is not a JSON value" in answer["error"]["details"]


async def test_a_body_over_the_limit_gets_413(tmp_path: Path) -> None:
    async with server(tmp_path, max_upload_size=0.001) as here:
        assert (await here.post("/prompt", data=b" " * 2000))[0] == 413
        assert (await here.post("/upload/image", data={"image": io.BytesIO(b"x" * 2000)}))[0] == 413
        assert (await here.post("/userdata/a.txt", data=b"x" * 2000))[0] == 413

        async def chunks():  # type: ignore[no-untyped-def]
            for _ in range(4):
                yield b" " * 1000

        assert (await here.post("/prompt", data=chunks()))[0] == 413


async def test_how_many_remain(here: Running) -> None:
    here.engine.queue.waiting.append([0, "a", {}, {}, []])

    found = {"exec_info": {"queue_remaining": 1}}
    assert await here.get("/prompt") == (200, {**found, "status": found})


async def test_the_queue_shows_running_and_pending(here: Running) -> None:
    here.engine.queue.now.append([0, "a", PROMPT, {}, ["1"]])

    assert await here.get("/api/queue") == (
        200,
        {"queue_running": [[0, "a", PROMPT, {}, ["1"]]], "queue_pending": []},
    )


async def test_the_queue_is_cleared_before_single_prompts_are_deleted(here: Running) -> None:
    assert await here.post("/queue", json={"delete": ["a"], "clear": True}) == (200, b"")
    assert here.engine.queue.calls == ["clear", ("delete", ["a"])]


@pytest.mark.parametrize("path", ["/queue", "/history"])
@pytest.mark.parametrize("body", [b"", b"[]", b'{"delete": 7}', b'{"delete": [7]}', b"{"])
async def test_changes_that_make_no_sense_are_refused(here: Running, path: str, body: bytes) -> None:
    status, answer = await here.post(path, data=body)

    assert (status, bool(answer["what"])) == (400, True)


@pytest.mark.parametrize(
    ("body", "asked"),
    [(b"", None), (b"no json", None), (b'{"prompt_id": "a"}', "a"), (b"[]", None), (b'{"prompt_id": 7}', "7")],
)
async def test_interrupt_takes_any_body(here: Running, body: bytes, asked: str | None) -> None:
    assert await here.post("/interrupt", data=body) == (200, b"")
    assert here.engine.calls == [("interrupt", asked)]


async def test_free_unloads_models_along_with_memory_unless_told_otherwise(here: Running) -> None:
    await here.post("/free", json={"free_memory": True})
    await here.post("/free", json={"unload_models": True})

    assert here.engine.calls == [("free", True, True), ("free", True, False)]


async def test_history_is_asked_in_pages(here: Running) -> None:
    here.engine.history.entries["a"] = {"outputs": {}}

    assert await here.get("/history?max_items=5&offset=2") == (200, {"a": {"outputs": {}}})
    assert await here.get("/history") == (200, {"a": {"outputs": {}}})
    assert here.engine.history.calls == [("list", 5, 2), ("list", None, -1)]


async def test_one_history_entry_or_nothing(here: Running) -> None:
    here.engine.history.entries["a"] = {"outputs": {}}

    assert await here.get("/history/a") == (200, {"a": {"outputs": {}}})
    assert await here.get("/history/b") == (200, {})


async def test_a_page_that_is_no_number_is_refused(here: Running) -> None:
    assert (await here.get("/history?max_items=many"))[0] == 400


async def test_jobs_are_asked_in_pages(here: Running) -> None:
    here.engine.jobs.jobs = [{"id": "a"}]
    query = "?status=In_Progress,%20pending&limit=200&offset=0"

    assert await here.get("/api/jobs" + query) == (
        200,
        {"jobs": [{"id": "a"}], "pagination": {"offset": 0, "limit": 200, "total": 1, "has_more": False}},
    )
    assert here.engine.jobs.calls == [(["in_progress", "pending"], None, "created_at", "desc", 200, 0)]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (
            "status=x,done",
            "Invalid status value(s): x, done. Valid values: pending, in_progress, completed, failed, cancelled",
        ),
        ("sort_by=name", "sort_by must be 'created_at' or 'execution_duration'"),
        ("sort_order=up", "sort_order must be 'asc' or 'desc'"),
        ("limit=0", "limit must be a positive integer"),
        ("limit=a", "limit must be an integer"),
        ("offset=a", "offset must be an integer"),
    ],
)
async def test_a_wrong_question_for_jobs_is_refused_by_name(here: Running, query: str, text: str) -> None:
    assert await here.get(f"/api/jobs?{query}") == (400, {"error": text})


async def test_one_job_or_404(here: Running) -> None:
    here.engine.jobs.jobs = [{"id": "a"}]

    assert await here.get("/api/jobs/a") == (200, {"id": "a"})
    assert await here.get("/api/jobs/b") == (404, {"error": "Job not found"})


async def test_cancelling_says_whether_it_did_anything(here: Running) -> None:
    here.engine.jobs.jobs = [{"id": JOB}]

    assert await here.post(f"/api/jobs/{JOB}/cancel") == (200, {"cancelled": True})
    assert await here.post("/api/jobs/unknown/cancel") == (200, {"cancelled": False})
    assert await here.post("/api/jobs/cancel", json={"job_ids": [JOB]}) == (200, {"cancelled": True})


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"", {"error": "Request body must be valid JSON"}),
        (b"{}", {"error": "job_ids must be a list"}),
        (b"[]", {"error": "job_ids must be a list"}),
        (
            b'{"job_ids": ["x", 7]}',
            {"error": "job_ids contains invalid id(s)", "invalid_ids": ["x", 7]},
        ),
    ],
)
async def test_a_wrong_list_of_jobs_is_refused(here: Running, body: bytes, answer: dict[str, object]) -> None:
    assert await here.post("/api/jobs/cancel", data=body) == (400, answer)
