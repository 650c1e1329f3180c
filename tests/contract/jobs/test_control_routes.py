"""The queue and jobs over HTTP: control, cancelling, explanations."""

import pytest

from tests.contract.jobs.make import only, served, shown


async def three(s):
    for name in "abc":
        await s.queue(only("Quick", text=name), name)


async def order(s):
    _, state = await s.get("/api/queue/state")
    return "".join(one["prompt_id"] for one in state["pending"])


async def test_the_queue_tells_its_state(tmp_path):
    async with served(tmp_path, started=False) as s:
        await three(s)
        status, state = await s.get("/queue/state")
        assert (status, state["paused"], state["running"]) == (200, False, [])
        first = state["pending"][0]
        assert (first["prompt_id"], first["number"], first["position"]) == ("a", 0, 0)
        assert isinstance(first["create_time"], int)


async def test_pause_and_resume_answer_with_the_state(tmp_path):
    async with served(tmp_path) as s:
        assert (await s.post("/api/queue/pause"))[1]["paused"] is True
        await s.queue(only("Quick", text="x"), "a")
        status, queue = await s.get("/queue")
        assert (status, queue["queue_running"], [item[1] for item in queue["queue_pending"]]) == (200, [], ["a"])
        status, state = await s.post("/api/queue/resume")
        assert (status, state["paused"]) == (200, False)
        await s.bench.engine.wait("a")


@pytest.mark.parametrize(
    ("where", "expected"),
    [({"to": "front"}, "cab"), ({"to": 1}, "acb"), ({"before": "b"}, "acb"), ({"to": "back"}, "abc")],
)
async def test_a_prompt_is_moved(tmp_path, where, expected):
    async with served(tmp_path, started=False) as s:
        await three(s)
        answer = await s.post("/api/queue/move", {"prompt_id": "c", **where})
        assert answer == (200, {"prompt_id": "c", "position": expected.index("c")})
        assert await order(s) == expected


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt_id": "a"},
        {"prompt_id": 3, "to": 0},
        {"prompt_id": "a", "to": -1},
        {"prompt_id": "a", "to": True},
        {"prompt_id": "a", "to": "middle"},
        {"prompt_id": "a", "to": 1.5},
        {"prompt_id": "a", "to": 0, "before": "b"},
        {"prompt_id": "a", "before": 7},
        {"prompt_id": "a", "after": "nobody"},
        [],
    ],
)
async def test_a_move_that_cannot_be_meant_is_refused(tmp_path, body):
    async with served(tmp_path, started=False) as s:
        await three(s)
        status, answer = await s.post("/queue/move", body)
        assert status == 400
        assert answer["error"]
        assert await order(s) == "abc"


async def test_only_waiting_prompts_are_moved(tmp_path):
    async with served(tmp_path, started=False) as s:
        status, answer = await s.post("/queue/move", {"prompt_id": "nobody", "to": 0})
        assert (status, "does not wait" in answer["error"]) == (409, True)


async def test_a_job_is_given_another_priority(tmp_path):
    async with served(tmp_path, started=False) as s:
        await three(s)
        answer = await s.post("/api/jobs/c/priority", {"priority": -0.5})
        assert answer == (200, {"id": "c", "priority": -0.5, "position": 0})
        assert (await s.get("/api/jobs/c"))[1]["priority"] == -0.5
        assert await order(s) == "cab"


@pytest.mark.parametrize("value", [None, "1", True, 1e300, [1]])
async def test_a_priority_must_be_a_number(tmp_path, value):
    async with served(tmp_path, started=False) as s:
        await three(s)
        status, answer = await s.post("/api/jobs/c/priority", {"priority": value})
        assert (status, answer["error"].startswith("priority must")) == (400, True)


async def test_a_job_that_has_ended_has_no_priority(tmp_path):
    async with served(tmp_path) as s:
        await s.queue(only("Quick", text="x"), "a")
        await s.bench.engine.wait("a")
        assert await s.post("/api/jobs/a/priority", {"priority": 1}) == (409, {"error": "Job is not waiting"})
        assert await s.post("/api/jobs/b/priority", {"priority": 1}) == (404, {"error": "Job not found"})


async def test_cancel_says_whether_it_did_anything(tmp_path):
    async with served(tmp_path) as s:
        await s.queue(shown("Wait", text="x"), "a", client_id="me")
        await s.queue(only("Quick", text="x"), "b")
        await s.bench.until("executing")
        assert await s.post("/api/jobs/b/cancel") == (200, {"cancelled": True})
        assert await s.post("/api/jobs/b/cancel") == (200, {"cancelled": False})
        assert await s.post("/api/jobs/nobody/cancel") == (200, {"cancelled": False})
        assert await s.post("/api/jobs/a/cancel") == (200, {"cancelled": True})
        await s.bench.engine.wait("a")
        assert (await s.get("/api/jobs/a"))[1]["status"] == "cancelled"
        assert (await s.get("/api/jobs/b"))[0] == 404


async def test_interrupt_with_an_id_hits_that_prompt_only(tmp_path):
    async with served(tmp_path) as s:
        await s.queue(shown("Wait", text="x"), "a", client_id="me")
        await s.queue(only("Quick", text="x"), "b")
        await s.bench.until("executing")
        assert await s.post("/interrupt", {"prompt_id": "other"}) == (200, "")
        assert (await s.get("/api/jobs/a"))[1]["status"] == "in_progress"
        await s.post("/interrupt", {"prompt_id": "a"})
        await s.bench.engine.wait("b")
        assert (await s.get("/api/jobs/b"))[1]["status"] == "completed"


async def test_an_explanation_is_that_of_the_run_and_outlives_a_restart(tmp_path):
    told = {"nodes": {"1": {"class_type": "Quick", "cached": False, "reason": "first run"}}}
    async with served(tmp_path) as s:
        execute = s.bench.engine._worker._executor.execute

        def explaining(*arguments):
            outcome = execute(*arguments)
            outcome.explain = told
            return outcome

        s.bench.engine._worker._executor.execute = explaining
        await s.queue(only("Quick", text="x"), "a")
        await s.bench.engine.wait("a")
    async with served(tmp_path, started=False) as s:
        assert await s.get("/api/jobs/a/explain") == (200, {"id": "a", "status": "completed", **told})
        await s.queue(only("Quick", text="x"), "b")
        assert await s.get("/api/jobs/b/explain") == (200, {"id": "b", "status": "pending", "nodes": {}})
        assert await s.get("/api/jobs/nobody/explain") == (404, {"error": "Job not found"})


async def test_pages_of_jobs_are_whole_while_others_wait(tmp_path):
    async with served(tmp_path) as s:
        for i in range(12):
            await s.queue(only("Quick", text=str(i)), f"done{i}")
        await s.bench.engine.wait("done11")
        await s.post("/queue/pause")
        for i in range(5):
            await s.queue(only("Quick", text="x"), f"waits{i}")
        seen = {}
        for sort in ("created_at&sort_order=desc", "created_at&sort_order=asc", "execution_duration"):
            _, whole = await s.get(f"/api/jobs?sort_by={sort}")
            ids = [job["id"] for job in whole["jobs"]]
            pages = [(await s.get(f"/api/jobs?sort_by={sort}&limit=3&offset={at}"))[1] for at in range(0, 18, 3)]
            assert [job["id"] for page in pages for job in page["jobs"]] == ids
            assert [page["pagination"]["has_more"] for page in pages] == [True] * 5 + [False]
            seen[sort] = ids
        assert len(set(seen["execution_duration"])) == 17
