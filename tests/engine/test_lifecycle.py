"""Interrupts, cancels, restarts, and that a prompt is always in the queue or in the history."""

import asyncio

from limner.engine import Engine
from limner.settings import Settings
from limner.store import Store
from tests.engine.make import FakeMemory, bench, call, registry, say_and_show

WAITING = {"1": call("Wait", text="x"), "2": call("Show", source=["1", 0])}


async def submit(b, prompt, name, **more):
    await b.engine.submit({"prompt": prompt, "prompt_id": name, "client_id": "me", **more})


def message(entry):
    return entry["status"]["messages"][-1]


async def test_an_interrupted_prompt_is_in_the_history_as_an_error_r4(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, WAITING, "w")
        await b.until("executing")
        assert b.engine.interrupt()
        entry = await b.engine.wait("w")
        assert entry["status"]["status_str"] == "error"
        assert entry["status"]["completed"] is False
        kind, data = message(entry)
        assert kind == "execution_interrupted"
        assert (data["node_id"], data["node_type"], data["executed"]) == ("1", "Wait", [])
        await asyncio.sleep(0)
        assert b.types()[-3:] == ["execution_interrupted", "status", "executing"]


async def test_an_interrupt_of_a_prompt_without_client_is_told_to_all_r4(tmp_path):
    async with bench(tmp_path) as b:
        accepted = await b.engine.submit({"prompt": WAITING})
        await b.until("progress_state")
        b.engine.interrupt(accepted.prompt_id)
        await b.until("execution_interrupted")


async def test_an_interrupt_on_an_idle_server_hits_nobody_later_q6(tmp_path):
    async with bench(tmp_path) as b:
        assert not b.engine.interrupt()
        assert (await b.run(say_and_show()))["status"]["completed"]


async def test_an_interrupt_that_names_a_waiting_prompt_ends_it_at_its_start(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, WAITING, "w")
        await submit(b, say_and_show(), "next")
        await b.until("executing")
        assert b.engine.interrupt("next")
        b.engine.interrupt("w")
        assert message(await b.engine.wait("next"))[0] == "execution_interrupted"


async def test_cancel_interrupts_what_runs_and_takes_out_what_waits(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, WAITING, "w")
        await submit(b, say_and_show(), "next")
        await b.until("executing")
        gone = asyncio.create_task(b.engine.wait("next"))
        await asyncio.sleep(0)
        assert b.engine.jobs.cancel_many(["next", "w", "nobody"])
        assert await gone is None
        await b.engine.wait("w")
        assert b.engine.jobs.get("w")["status"] == "cancelled"
        assert b.engine.jobs.get("next") is None
        assert not b.engine.jobs.cancel("w")


async def test_the_running_node_is_known_to_who_connects_late(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, WAITING, "w")
        await b.until("executing")
        assert b.engine.current("me").node == "1"
        assert b.engine.current("other") is None
        b.engine.interrupt()
        await b.engine.wait("w")
        await asyncio.sleep(0)
        assert b.engine.current("me") is None


async def test_there_is_no_moment_in_neither_queue_nor_history(tmp_path):
    async with bench(tmp_path) as b:
        seen = []

        def look(event):
            name = event.prompt_id
            if name:
                seen.append(name in b.engine.queue or b.engine.history.get(name) is not None)

        b.engine.events.subscribe(look)
        for i in range(20):
            await submit(b, say_and_show(str(i)), f"p{i}")
        for i in range(20):
            await b.engine.wait(f"p{i}")
        assert seen
        assert all(seen)


async def test_it_is_in_the_history_when_success_is_told(tmp_path):
    async with bench(tmp_path) as b:
        found = []
        b.engine.events.subscribe(
            lambda event: event.type == "execution_success" and found.append(b.engine.history.get(event.prompt_id))
        )
        await b.run(say_and_show())
        assert found[0]["status"]["completed"]


async def test_what_waits_is_queued_again_in_order_after_a_restart(tmp_path):
    async with bench(tmp_path, started=False) as b:
        await submit(b, say_and_show("a"), "a")
        await submit(b, say_and_show("b"), "b", front=True)
    async with bench(tmp_path, started=False) as b:
        assert [item[1] for item in b.engine.queue.pending()] == ["b", "a"]
        later = await b.engine.submit({"prompt": say_and_show()})
        assert later.number > 0
        await b.engine.start()
        assert (await b.engine.wait("a"))["outputs"]["2"] == {"text": ["a"]}
        await b.engine.wait(later.prompt_id)
        await b.engine.close()
        assert list(b.engine.history.list()) == ["b", "a", later.prompt_id]


async def test_what_runs_when_the_engine_closes_runs_again(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, WAITING, "w")
        await b.until("executing")
    async with bench(tmp_path, started=False) as b:
        assert [item[1] for item in b.engine.queue.pending()] == ["w"]
        assert b.engine.history.list() == {}


async def test_what_was_deleted_does_not_come_back(tmp_path):
    async with bench(tmp_path, started=False) as b:
        for name in "abc":
            await submit(b, say_and_show(), name)
        b.engine.queue.delete(["a"])
        b.engine.jobs.cancel("b")
    async with bench(tmp_path, started=False) as b:
        assert [item[1] for item in b.engine.queue.pending()] == ["c"]
        b.engine.queue.clear()
    async with bench(tmp_path, started=False) as b:
        assert b.engine.queue.remaining() == 0


async def test_a_prompt_of_a_kind_that_has_gone_ends_as_an_error(tmp_path):
    async with bench(tmp_path, started=False) as b:
        await submit(b, say_and_show(), "a")
        b.engine.store.jobs.flush()
        (item,) = b.engine.queue.pending()
        item[2]["1"]["class_type"] = "Gone"
    async with bench(tmp_path, started=False) as b:
        (job,) = b.engine.queue.pending_jobs()
        job.prompt["1"]["class_type"] = "Gone"
        await b.engine.start()
        entry = await b.engine.wait("a")
        assert "node Gone does not exist" in message(entry)[1]["exception_message"]
        await b.engine.close()


async def test_two_hundred_at_once_all_end_in_order(tmp_path):
    async with bench(tmp_path) as b:
        bodies = [{"prompt": say_and_show(str(i)), "prompt_id": str(i)} for i in range(200)]
        await asyncio.gather(*(b.engine.submit(body) for body in bodies))
        for i in range(200):
            await b.engine.wait(str(i))
        assert list(b.engine.history.list()) == [str(i) for i in range(200)]


def test_the_store_of_a_closed_engine_opens_again(tmp_path):
    async def once():
        async with bench(tmp_path) as b:
            await b.run(say_and_show(), prompt_id="one")

    asyncio.run(once())
    from limner.settings import Settings

    store = Store.open(Settings(base_directory=str(tmp_path)))
    assert store.jobs.get("one")["status"]["completed"]
    store.close()


async def test_an_engine_that_ends_unloads_its_models(tmp_path):
    memory = FakeMemory()
    settings = Settings(base_directory=str(tmp_path))
    store = Store.open(settings)
    engine = Engine(settings, store, registry(), memory=lambda: memory)
    await engine.start()
    accepted = await engine.submit({"prompt": {"1": call("Reach"), "2": call("Show", source=["1", 0])}})
    await engine.wait(accepted.prompt_id)
    assert memory.calls == []
    await engine.close()
    store.close()
    assert memory.calls == ["unload_all", "trim"]
