import asyncio

import pytest

from limner.engine.jobs import count_outputs
from tests.engine.make import bench, call, say_and_show


async def three(b):
    """A waiting job, a finished one and a failed one, made in that order."""
    bodies = (("good", say_and_show()), ("bad", {"1": call("Fail", message="x"), "2": call("Show", source=["1", 0])}))
    for name, prompt in bodies:
        flow = {"extra_pnginfo": {"workflow": {"id": f"w-{name}"}}}
        await b.run(prompt, prompt_id=name, extra_data=flow)
        await asyncio.sleep(0.002)  # create_time counts milliseconds
    await b.engine.close()
    await b.engine.submit({"prompt": say_and_show(), "prompt_id": "waits"})


@pytest.fixture
async def jobs(tmp_path):
    async with bench(tmp_path, started=False) as b:
        await b.engine.start()
        await three(b)
        yield b.engine.jobs


async def test_newest_first(jobs):
    found, total = jobs.list()
    assert ([job["id"] for job in found], total) == (["waits", "bad", "good"], 3)
    assert [job["status"] for job in found] == ["pending", "failed", "completed"]


async def test_oldest_first(jobs):
    assert [job["id"] for job in jobs.list(sort_order="asc")[0]] == ["good", "bad", "waits"]


async def test_by_status(jobs):
    assert [job["id"] for job in jobs.list(["failed"])[0]] == ["bad"]
    assert [job["id"] for job in jobs.list(["pending", "in_progress"])[0]] == ["waits"]
    assert jobs.list(["cancelled"]) == ([], 0)


async def test_by_workflow(jobs):
    found, total = jobs.list(workflow_id="w-bad")
    assert ([job["id"] for job in found], total) == (["bad"], 1)


async def test_pages_count_what_is_before_the_slice(jobs):
    found, total = jobs.list(limit=1, offset=1)
    assert ([job["id"] for job in found], total) == (["bad"], 3)
    found, total = jobs.list(["completed", "failed"], limit=1, offset=1)
    assert ([job["id"] for job in found], total) == (["good"], 2)


async def test_a_finished_job(jobs):
    job = jobs.get("good")
    assert job["status"] == "completed"
    assert job["execution_start_time"] <= job["execution_end_time"]
    assert job["workflow"]["prompt"] == say_and_show()
    assert job["workflow"]["extra_data"]["extra_pnginfo"] == {"workflow": {"id": "w-good"}}
    assert job["outputs"] == {"2": {"text": ["hi"]}}
    assert job["execution_status"]["completed"] is True
    assert job["execution_errors"] == []
    assert None not in job.values()


async def test_a_failed_job_carries_the_error(jobs):
    job = jobs.get("bad")
    assert job["execution_error"]["node_id"] == "1"
    assert isinstance(job["execution_error"]["traceback"], list)


async def test_a_waiting_job_says_little(jobs):
    assert set(jobs.get("waits")) == {"id", "status", "priority", "create_time", "outputs_count"}


async def test_an_unknown_job(jobs):
    assert jobs.get("nobody") is None


IMAGE = {"filename": "a.png", "subfolder": "", "type": "temp"}


def test_every_file_counts_and_saved_ones_are_preferred():
    saved = {**IMAGE, "filename": "b.png", "type": "output"}
    count, previewable, preview = count_outputs(
        {"1": {"images": [IMAGE]}, "2": {"images": [saved], "animated": [True]}}
    )
    assert (count, previewable) == (2, 2)
    assert preview == {**saved, "nodeId": "2", "mediaType": "images"}


def test_a_name_of_a_shape_is_a_file():
    count, previewable, preview = count_outputs({"1": {"result": ["fox.glb", None, "text"]}})
    assert (count, previewable) == (1, 1)
    assert preview == {"filename": "fox.glb", "type": "output", "subfolder": "", "mediaType": "3d", "nodeId": "1"}


def test_text_is_shown_when_there_is_nothing_else():
    assert count_outputs({"1": {"text": ["hi"]}}) == (0, 0, {"content": "hi", "nodeId": "1", "mediaType": "text"})
    _, _, preview = count_outputs({"1": {"text": ["x" * 2000]}})
    assert (len(preview["content"]), preview["truncated"]) == (1024, True)
    assert count_outputs({"1": {"text": ["hi"]}, "2": {"images": [IMAGE]}})[2]["nodeId"] == "2"


@pytest.mark.parametrize("shown", [{}, {"1": None}, {"1": {"images": "x"}}, {"1": {"images": [None, 5]}}])
def test_odd_outputs_count_nothing(shown):
    assert count_outputs(shown) == (0, 0, None)
