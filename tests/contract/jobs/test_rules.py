"""The numbered rules of queue and worker, and those of times and credentials."""

import asyncio
import json
import threading
import time
import uuid

import pytest

from limner.store.records import SECRETS
from tests.contract.jobs.make import bench, call, heard, heard_until, only, served, shown, submit, until, waiting


async def test_one_prompt_runs_at_a_time_in_one_thread_q1(tmp_path):
    """Rule Q1."""
    async with bench(tmp_path) as b:
        most, threads = [], set()
        execute = b.engine._worker._executor.execute

        def looking(job, hub):
            most.append(len(b.engine.queue.running_jobs()))
            threads.add(threading.get_ident())
            return execute(job, hub)

        b.engine._worker._executor.execute = looking
        for i in range(10):
            await submit(b, only("Quick", text=str(i)), str(i))
        for i in range(10):
            await b.engine.wait(str(i))
        assert (most, len(threads)) == ([1] * 10, 1)
        assert threading.get_ident() not in threads


async def test_lower_numbers_first_then_arrival_and_front_is_minus_the_counter_q2(tmp_path):
    """Rule Q2."""
    async with bench(tmp_path, started=False) as b:
        for name, more in (
            ("a", {}),
            ("b", {"number": 0.5}),
            ("c", {"front": True}),
            ("d", {}),
            ("e", {"front": True}),
        ):
            await submit(b, only("Quick", text=name), name, **more)
        assert waiting(b) == ["e", "c", "a", "b", "d"]
        numbers = {item[1]: item[0] for item in b.engine.queue.pending()}
        assert numbers == {"a": 0, "b": 0.5, "c": -1, "d": 2, "e": -3}
        assert isinstance(numbers["b"], float)


async def test_status_is_told_at_put_take_done_and_each_removal_q3(tmp_path):
    """Rule Q3."""
    async with served(tmp_path, started=False) as s:
        socket = await s.client.ws_connect("/ws?clientId=other")
        for name in "abcd":
            await s.queue(only("Quick", text=name), name)
        await s.post("/queue", {"delete": ["a", "b"]})
        await s.post("/queue", {"clear": True})
        await s.queue(only("Quick", text="e"), "e", client_id="nobody")
        await s.bench.engine.start()
        counts = [(await heard(socket))["data"]["status"]["exec_info"]["queue_remaining"] for _ in range(11)]
        assert counts == [0, 1, 2, 3, 4, 3, 2, 0, 1, 1, 0]
        await s.bench.engine.close()


async def test_the_running_item_is_shown_and_goes_to_the_history_as_it_was_q4(tmp_path):
    """Rule Q4."""
    async with served(tmp_path) as s:
        await s.queue(shown("Wait", text="x"), "a", client_id="me", extra_data={"extra_pnginfo": {"k": 1}})
        await s.bench.until("executing")
        (item,) = (await s.get("/queue"))[1]["queue_running"]
        assert item[1:3] == ["a", shown("Wait", text="x")]
        assert (item[3]["client_id"], item[3]["extra_pnginfo"], item[4]) == ("me", {"k": 1}, ["2"])
        await s.post("/api/jobs/a/cancel")
        await s.bench.engine.wait("a")
        assert (await s.get("/history/a"))[1]["a"]["prompt"] == item


async def test_history_then_status_then_executing_null_then_freeing_q5(tmp_path):
    """Rule Q5."""
    async with served(tmp_path) as s:
        happened = []
        executor = s.bench.engine._worker._executor
        executor.unload_models = lambda: happened.append("unloaded")
        executor.drop_results = lambda: happened.append("dropped")

        def look(event):
            if event.type in ("execution_success", "status", "executing"):
                ended = s.bench.engine.history.get("a") is not None
                happened.append((event.type, ended, getattr(event, "node", "")))

        await s.post("/queue/pause")
        await s.queue(only("Quick", text="x"), "a", client_id="me")
        await asyncio.sleep(0)
        s.bench.engine.events.subscribe(look)
        s.bench.engine.queue.pause(False)
        await s.post("/free", {"unload_models": True, "free_memory": True})
        await s.bench.engine.wait("a")
        await until(lambda: "dropped" in happened)
        ends = [one for one in happened if isinstance(one, tuple) and one[1]]
        assert ends[-3:] == [("execution_success", True, ""), ("status", True, ""), ("executing", True, None)]


async def test_models_and_results_are_freed_after_the_running_prompt_q5(tmp_path):
    """Rule Q5: /free is applied once the prompt is over, and answered then; unload_models follows free_memory.

    Models that are not in use go before that.
    """
    async with served(tmp_path) as s:
        calls = []
        executor = s.bench.engine._worker._executor
        executor.unload_models = lambda: calls.append("unloaded")
        executor.drop_results = lambda: calls.append("dropped")
        await s.queue(shown("Wait", text="x"), "a", client_id="me")
        await s.bench.until("executing")
        asked = asyncio.ensure_future(s.post("/free", {"free_memory": True}))
        await until(lambda: calls)
        assert (calls, asked.done()) == (["unloaded"], False)
        await s.post("/api/jobs/a/cancel")
        assert await asked == (200, "")
        assert calls == ["unloaded", "unloaded", "dropped"]


async def test_an_interrupt_of_an_idle_server_hits_no_later_prompt_q6(tmp_path):
    """Rule Q6."""
    async with served(tmp_path) as s:
        assert await s.post("/interrupt") == (200, "")
        assert await s.post("/interrupt", {"prompt_id": "a"}) == (200, "")
        status, answer = await s.post("/prompt?wait=true", {"prompt": only("Quick", text="x"), "prompt_id": "a"})
        assert (status, answer["status"]["completed"]) == (200, True)


async def test_an_interrupt_at_the_very_start_of_a_prompt_is_not_lost_q6(tmp_path):
    """Rule Q6: what ComfyUI loses, an interrupt between taking a prompt and starting it, counts here."""
    async with bench(tmp_path) as b:
        start = b.engine.store.jobs.start

        def starting(prompt_id):
            b.engine.interrupt()
            return start(prompt_id)

        b.engine.store.jobs.start = starting
        await submit(b, shown("Wait", text="x"), "a")
        entry = await asyncio.wait_for(b.engine.wait("a"), 5)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"


async def test_an_interrupt_that_names_a_waiting_prompt_ends_it_when_its_turn_comes_q6(tmp_path):
    """Rule Q6."""
    async with served(tmp_path) as s:
        await s.post("/queue/pause")
        await s.queue(shown("Wait", text="x"), "a")
        await s.queue(only("Quick", text="x"), "b")
        await s.post("/interrupt", {"prompt_id": "a"})
        await s.post("/queue/resume")
        await s.bench.engine.wait("b")
        found = [(await s.get(f"/api/jobs/{name}"))[1]["status"] for name in "ab"]
        assert found == ["cancelled", "completed"]


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'"a"', b"null", b'{"prompt_id": null}'])
async def test_an_interrupt_that_names_nobody_is_for_what_runs_q6(tmp_path, body):
    """Rule Q6; a body that cannot be read counts as {}."""
    async with served(tmp_path) as s:
        await s.queue(shown("Wait", text="x"), "a", client_id="me")
        await s.bench.until("executing")
        assert await s.ask("POST", "/interrupt", data=body) == (200, "")
        assert (await s.bench.engine.wait("a"))["status"]["completed"] is False


async def test_credentials_are_nowhere_but_in_the_run_z6(tmp_path):
    """Rule Z6."""
    secrets = dict.fromkeys(SECRETS, "hush-hush")
    async with served(tmp_path) as s:
        await s.post("/queue/pause")
        extra = {**secrets, "extra_pnginfo": {"workflow": {"id": "w"}}}
        await s.queue(only("Quick", text="x"), "a", extra_data=extra, client_id="me")
        (job,) = s.bench.engine.queue.pending_jobs()
        assert dict(job.sensitive) == secrets
        (item,) = (await s.get("/queue"))[1]["queue_pending"]
        assert len(item) == 5
        socket = await s.client.ws_connect("/ws?clientId=me")
        await s.post("/queue/resume")
        told = json.dumps(await heard_until(socket, "execution_success"))
        texts = [told, json.dumps(item)]
        texts += [json.dumps((await s.get(path))[1]) for path in ("/history", "/history/a", "/api/jobs", "/api/jobs/a")]
        assert not any("hush" in text for text in texts)
        assert (await s.get("/api/jobs/a"))[1]["workflow"]["extra_data"]["extra_pnginfo"] == {"workflow": {"id": "w"}}
    assert b"hush" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


async def test_create_time_is_the_servers_in_milliseconds_z7(tmp_path):
    """Rule Z7, row S25."""
    async with served(tmp_path) as s:
        before = time.time_ns() // 1_000_000
        await s.queue(shown("Wait", text="x"), "a", client_id="me", extra_data={"create_time": "1999"})
        await s.queue(only("Quick", text="x"), "b", extra_data={"create_time": 5})
        after = time.time_ns() // 1_000_000
        await s.bench.until("executing")
        queue = (await s.get("/queue"))[1]
        times = [item[3]["create_time"] for item in (*queue["queue_running"], *queue["queue_pending"])]
        assert [type(one) for one in times] == [int, int]
        assert before <= times[0] <= times[1] <= after
        await s.post("/api/jobs/a/cancel")
        await s.bench.engine.wait("b")
        history = (await s.get("/history"))[1]
        assert [history[name]["prompt"][3]["create_time"] for name in "ab"] == times
        jobs = (await s.get("/api/jobs?sort_order=asc"))[1]["jobs"]
        assert [job["create_time"] for job in jobs] == times


async def test_create_time_is_not_in_what_nodes_see_z7(tmp_path):
    """Rule Z7: pictures are written from EXTRA_PNGINFO, which it is not part of."""
    async with served(tmp_path) as s:
        body = {"prompt": {"1": call("Secret")}, "extra_data": {"extra_pnginfo": {"workflow": {}}}}
        _, answer = await s.post("/prompt?wait=true", body)
        assert answer["outputs"]["1"]["seen"][1] == {"workflow": {}}


async def test_there_is_no_moment_in_neither_queue_nor_history_nor_jobs(tmp_path):
    """clients.md: a prompt that was accepted can be found at every moment after."""
    async with served(tmp_path) as s:
        for i in range(15):
            name = str(uuid.uuid4())
            await s.queue(only("Quick", text=str(i)), name)
            while True:
                assert (await s.get(f"/api/jobs/{name}"))[0] == 200
                queue = (await s.get("/queue"))[1]
                if name not in [item[1] for item in (*queue["queue_running"], *queue["queue_pending"])]:
                    break
            assert name in (await s.get(f"/history/{name}"))[1]


async def test_a_queue_that_is_left_over_runs_on_after_a_restart_q2(tmp_path):
    """Rule Q2, over a restart: order, numbers and times stay."""
    async with bench(tmp_path, started=False) as b:
        for name, more in (("a", {}), ("b", {"front": True}), ("c", {"number": 0})):
            await submit(b, only("Quick", text=name), name, **more)
        items = b.engine.queue.pending()
    async with bench(tmp_path, started=False) as b:
        assert b.engine.queue.pending() == items
        assert [item[1] for item in items] == ["b", "a", "c"]
