"""Cancelling: at any phase, within a second, and never another job."""

import asyncio
import threading
import time

import pytest

from limner.engine.queue import Job, Queue
from limner.engine.stopping import may_be_broken_off
from tests.contract.jobs import stubborn
from tests.contract.jobs.make import bench, only, shown, status, submit, until, waiting

LONGEST = 2.5
"""A second is promised; a busy machine is given more."""


async def ended_as_cancelled(b, name):
    start = time.monotonic()
    assert b.engine.jobs.cancel(name)
    entry = await asyncio.wait_for(b.engine.wait(name), LONGEST)
    assert time.monotonic() - start < LONGEST
    return entry


async def test_a_waiting_job_is_taken_out_at_once(tmp_path):
    async with bench(tmp_path, started=False) as b:
        await submit(b, only("Quick", text="x"), "a")
        assert await ended_as_cancelled(b, "a") is None
        assert (waiting(b), status(b, "a")) == ([], None)


async def test_a_job_that_is_still_being_accepted_can_be_cancelled(tmp_path):
    async with bench(tmp_path) as b:
        task = asyncio.create_task(b.engine.submit({"prompt": only("Quick", text="x"), "prompt_id": "a"}))
        await asyncio.sleep(0)
        assert status(b, "a") is None
        assert b.engine.jobs.cancel("a")
        assert (await task).prompt_id == "a"
        await submit(b, only("Quick", text="y"), "b")
        await b.engine.wait("b")
        assert list(b.engine.history.list()) == ["b"]
    async with bench(tmp_path, started=False) as b:
        assert waiting(b) == []


async def test_an_interrupt_of_a_job_that_is_being_accepted_is_kept_for_it_q6(tmp_path):
    async with bench(tmp_path) as b:
        task = asyncio.create_task(b.engine.submit({"prompt": shown("Wait", text="x"), "prompt_id": "a"}))
        await asyncio.sleep(0)
        assert b.engine.interrupt("a")
        await task
        await asyncio.wait_for(b.engine.wait("a"), LONGEST)
        assert status(b, "a") == "cancelled"


async def test_a_job_is_cancelled_while_it_is_planned(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, shown("Dozes", text="slow"), "a")
        await asyncio.to_thread(stubborn.WORDS["entered"].wait, 5)
        entry = await ended_as_cancelled(b, "a")
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"


async def test_a_node_that_looks_is_cancelled_and_named(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, shown("Wait", text="x"), "a")
        await b.until("executing")
        entry = await ended_as_cancelled(b, "a")
        assert entry["status"]["messages"][-1][1]["node_type"] == "Wait"


async def test_a_node_that_computes_for_ever_is_broken_off(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, only("Hog", text="x"), "a")
        await asyncio.to_thread(stubborn.WORDS["entered"].wait, 5)
        await ended_as_cancelled(b, "a")
        assert status(b, "a") == "cancelled"
        await submit(b, only("Quick", text="y"), "b")
        assert (await asyncio.wait_for(b.engine.wait("b"), 5))["outputs"] == {"1": {"text": ["y"]}}


async def test_a_node_that_cannot_hear_is_left_behind_and_the_next_prompt_runs(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, only("Deaf", text="x"), "a")
        await asyncio.to_thread(stubborn.WORDS["entered"].wait, 5)
        await ended_as_cancelled(b, "a")
        await submit(b, only("Quick", text="y"), "b")
        assert (await asyncio.wait_for(b.engine.wait("b"), 5))["status"]["completed"]
        told = len(b.events)
        left = [thread for thread in threading.enumerate() if thread.name == "limner-worker"]
        stubborn.WORDS["deaf"].set()
        await until(lambda: sum(thread.is_alive() for thread in left) == 1)
        assert (status(b, "a"), len(b.events)) == ("cancelled", told)
        assert b.types().count("execution_interrupted") == 1
        assert "execution_success" in b.types()


async def test_a_job_whose_end_is_settled_is_not_cancelled_any_more(tmp_path):
    async with bench(tmp_path) as b:
        answers = []
        finish = b.engine.store.jobs.finish

        def finishing(*arguments):
            answers.append(b.engine.jobs.cancel("a"))
            return finish(*arguments)

        b.engine.store.jobs.finish = finishing
        await submit(b, only("Quick", text="x"), "a")
        await b.engine.wait("a")
        assert (answers, status(b, "a")) == ([False], "completed")
        assert not b.engine.jobs.cancel("a")


async def test_a_job_that_was_told_to_stop_is_not_completed_though_its_node_was_quicker(tmp_path):
    async with bench(tmp_path) as b:
        settle = b.engine.queue.settle

        def settling(job):
            job.interrupted = True
            return settle(job)

        b.engine.queue.settle = settling
        await submit(b, only("Quick", text="x"), "a")
        entry = await b.engine.wait("a")
        assert status(b, "a") == "cancelled"
        assert entry["outputs"] == {"1": {"text": ["x"]}}
        assert [kind for kind, _ in entry["status"]["messages"]][-1] == "execution_interrupted"


async def test_of_many_jobs_only_those_named_are_cancelled_whenever_they_are(tmp_path):
    async with bench(tmp_path) as b:
        names = [f"p{i}" for i in range(60)]
        kept, answers = [], {}
        for i, name in enumerate(names):
            await submit(b, only("Quick", text=name), name)
            if i % 3:
                kept.append(name)
            else:
                await asyncio.sleep(0.0003 * (i % 7))
                answers[name] = b.engine.jobs.cancel(name)
        for name in names:
            await b.engine.wait(name)
        assert [status(b, name) for name in kept] == ["completed"] * len(kept)
        for name, cancelled in answers.items():
            assert status(b, name) in (("cancelled", None) if cancelled else ("completed",))


def test_a_cancel_that_races_with_the_end_never_hits_the_next_job():
    queue = Queue()
    jobs = [Job(f"{i}", i, {}, {}, [], 0) for i in range(2000)]
    for job in jobs:
        queue.put(job)
    wrong = []

    def cancel_even():
        for job in jobs[::2]:
            if not queue.cancel(job.prompt_id) and job.interrupted:
                wrong.append(job)

    thread = threading.Thread(target=cancel_even)
    thread.start()
    while queue.remaining():
        taken = queue.take()
        if taken is not None:
            queue.settle(taken)
            queue.done(taken)
    thread.join()
    assert wrong == []
    assert not any(job.interrupted for job in jobs[1::2])


async def test_an_interrupt_without_a_name_hits_what_runs_only_q6(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, shown("Wait", text="x"), "a")
        await submit(b, only("Quick", text="x"), "b")
        await b.until("executing")
        assert b.engine.interrupt()
        await b.engine.wait("b")
        assert (status(b, "a"), status(b, "b")) == ("cancelled", "completed")


async def test_an_interrupt_that_names_a_finished_or_unknown_prompt_hits_nobody_q6(tmp_path):
    async with bench(tmp_path) as b:
        await b.run(only("Quick", text="x"), prompt_id="gone")
        b.events.clear()
        await submit(b, shown("Wait", text="x"), "a")
        await b.until("executing")
        assert not b.engine.interrupt("gone")
        assert not b.engine.interrupt("nobody")
        assert status(b, "a") == "in_progress"


async def test_another_key_cancels_nothing(tmp_path):
    async with bench(tmp_path, started=False) as b:
        await b.engine.submit({"prompt": only("Quick", text="x"), "prompt_id": "a"}, "alice")
        assert not b.engine.jobs.cancel("a", "bob")
        assert b.engine.jobs.cancel("a", "alice")


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (["pack", "limner.engine.executors.calls"], True),
        (["limner.nodes.text", "limner.engine.executors.calls"], True),
        (["limner.engine.executors.calls"], False),
        (["pack", "limner.memory.manager", "limner.nodes.sampling", "limner.engine.executors.calls"], False),
        (["torch", "importlib._bootstrap", "limner.engine.executors.functions"], False),
        (["threading"], False),
    ],
)
def test_only_a_nodes_own_code_is_broken_off(names, allowed):
    frame = None
    for name in reversed(names):
        frame = type("Frame", (), {"f_globals": {"__name__": name}, "f_back": frame})
    assert may_be_broken_off(frame) is allowed
