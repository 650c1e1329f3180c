"""POST /prompt?wait=true: the answer comes when the prompt has ended."""

import asyncio
import contextlib

import pytest

from tests.contract.jobs.make import BAD, only, served, shown, until


async def post(s, prompt, query="", **more):
    return await s.post(f"/prompt?wait=true{query}", {"prompt": prompt, **more})


async def test_the_answer_has_the_outputs(tmp_path):
    async with served(tmp_path) as s:
        status, answer = await post(s, only("Quick", text="x"), prompt_id="a")
        assert status == 200
        assert (answer["prompt_id"], answer["number"], answer["node_errors"]) == ("a", 0, {})
        assert answer["outputs"] == {"1": {"text": ["x"]}}
        assert answer["status"]["status_str"] == "success"
        assert answer["meta"]["1"]["node_id"] == "1"


async def test_a_failure_is_told_in_the_status(tmp_path):
    async with served(tmp_path) as s:
        status, answer = await post(s, BAD)
        assert (status, answer["status"]["status_str"], answer["outputs"]) == (200, "error", {})
        assert answer["status"]["messages"][-1][0] == "execution_error"


async def test_a_prompt_that_cannot_run_is_refused_at_once(tmp_path):
    async with served(tmp_path) as s:
        assert (await post(s, {}))[0] == 400


async def test_others_are_answered_meanwhile(tmp_path):
    async with served(tmp_path) as s:
        task = asyncio.create_task(post(s, shown("Wait", text="x"), prompt_id="a"))
        await until(lambda: "a" in s.bench.engine.queue)
        for path in ("/prompt", "/queue", "/history", "/api/jobs"):
            assert (await s.get(path))[0] == 200
        assert not task.done()
        await s.post("/api/jobs/a/cancel")
        assert (await task)[1]["status"]["completed"] is False


async def test_after_the_timeout_the_prompt_goes_on(tmp_path):
    async with served(tmp_path) as s:
        status, answer = await post(s, shown("Wait", text="x"), "&timeout=0.05", prompt_id="a")
        assert (status, answer["status"], answer["outputs"]) == (202, None, {})
        assert "a" in s.bench.engine.queue


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", ""])
async def test_a_timeout_must_be_a_span_of_time(tmp_path, text):
    async with served(tmp_path) as s:
        status, answer = await post(s, only("Quick", text="x"), f"&timeout={text}")
        assert (status, answer["error"]["type"]) == (400, "invalid_prompt")
        assert s.bench.engine.queue.remaining() == 0


async def test_a_prompt_that_is_taken_out_of_the_queue_ends_the_wait(tmp_path):
    async with served(tmp_path, started=False) as s:
        task = asyncio.create_task(post(s, only("Quick", text="x"), prompt_id="a"))
        await until(lambda: "a" in s.bench.engine.queue)
        await s.post("/queue", {"delete": ["a"]})
        status, answer = await task
        assert (status, answer["status"]["completed"], answer["outputs"]) == (200, False, {})


async def leave(s, query):
    """Post, wait until it runs, and close the connection."""
    task = asyncio.create_task(post(s, shown("Wait", text="x"), query, prompt_id="a", client_id="me"))
    await s.bench.until("executing")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_client_that_leaves_does_not_cancel_its_prompt(tmp_path):
    async with served(tmp_path) as s:
        await leave(s, "")
        await asyncio.sleep(0.3)
        assert s.bench.engine.queue.find("a")[1]


async def test_a_client_that_says_so_cancels_its_prompt_by_leaving(tmp_path):
    async with served(tmp_path) as s:
        await leave(s, "&cancel_on_disconnect=true")
        entry = await asyncio.wait_for(s.bench.engine.wait("a"), 5)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
