"""Many sockets and many prompts: no event and no prompt is lost. At full size: `python -m benchmarks load_server`."""

import asyncio
from collections import defaultdict

import aiohttp
import pytest

from limner.server import HUB
from tests.contract.jobs.make import Served, heard, only, served

SOCKETS, PROMPTS = 25, 250
EVENTS = ["execution_start", "execution_cached", "executing", "executed", "execution_success", "executing"]
STATES = ("status", "progress", "progress_state")


async def listen(s: Served, sid: str, count: int) -> tuple[dict[str, list[str]], list[int]]:
    """What a client hears of each of its prompts until all are over, and how many it was told are left."""
    events: dict[str, list[str]] = defaultdict(list)
    left = []
    async with s.client.ws_connect(f"/ws?clientId={sid}") as socket:
        over = 0
        while over < count or left[-1] != 0:
            message = await heard(socket)
            if message["type"] == "status":
                left.append(message["data"]["status"]["exec_info"]["queue_remaining"])
            elif message["type"] not in STATES:
                events[message["data"]["prompt_id"]].append(message["type"])
                over += message["type"] == "executing" and message["data"]["node"] is None
    return events, left


async def post_all(s: Served, sockets: int, prompts: int) -> None:
    async def post(i: int) -> None:
        await s.queue(only("Quick", text=str(i)), f"p{i}", client_id=f"c{i % sockets}")

    await asyncio.gather(*(post(i) for i in range(prompts)))


async def test_many_sockets_and_prompts_lose_nothing(tmp_path):
    async with served(tmp_path) as s:
        each = PROMPTS // SOCKETS
        listeners = [asyncio.create_task(listen(s, f"c{i}", each)) for i in range(SOCKETS)]
        while len(s.client.app[HUB]) < SOCKETS:
            await asyncio.sleep(0.001)
        await post_all(s, SOCKETS, PROMPTS)
        found = await asyncio.wait_for(asyncio.gather(*listeners), 60)
        for i, (events, left) in enumerate(found):
            assert set(events) == {f"p{n}" for n in range(i, PROMPTS, SOCKETS)}
            assert all(kinds == EVENTS for kinds in events.values())
            assert (max(left) > 1, left[-1]) == (True, 0)
        _, history = await s.get("/history")
        assert set(history) == {f"p{i}" for i in range(PROMPTS)}
        assert all(history[f"p{i}"]["outputs"] == {"1": {"text": [str(i)]}} for i in range(PROMPTS))


async def test_sockets_that_come_and_go_leave_nothing_behind(tmp_path):
    async with served(tmp_path) as s:
        hub = s.client.app[HUB]
        for turn in range(4):
            sockets = await asyncio.gather(*(s.client.ws_connect(f"/ws?clientId={turn}.{i}") for i in range(50)))
            await asyncio.gather(*(socket.close() for socket in sockets))
        while len(hub):
            await asyncio.sleep(0.001)
        assert (hub._sockets, hub._log_readers) == ({}, set())


async def test_a_slow_reader_does_not_slow_a_queue(tmp_path):
    async with served(tmp_path) as s:
        slow = await s.client.ws_connect("/ws?clientId=slow")
        slow._response.connection.transport.pause_reading()
        for i in range(100):
            status, _ = await asyncio.wait_for(s.post("/prompt?wait=true", {"prompt": only("Quick", text=str(i))}), 5)
            assert status == 200
        slow._response.connection.transport.abort()


async def test_prompts_that_have_ended_leave_nothing_in_the_engine(tmp_path):
    async with served(tmp_path) as s:
        engine = s.bench.engine
        await post_all(s, 5, 60)
        for i in range(60):
            await engine.wait(f"p{i}")
        await asyncio.sleep(0)
        kept = [engine.queue._heap, engine.queue._waiting, engine.queue._running, engine.queue._arriving]
        kept += [engine._waiters, engine.store.jobs._open, engine.store.jobs._running, engine._replay._prompts]
        assert [len(one) for one in kept] == [0] * len(kept)


@pytest.mark.parametrize("path", ["/history?max_items=20", "/api/jobs?limit=20", "/queue", "/prompt"])
async def test_what_is_asked_while_prompts_pour_in_is_answered(tmp_path, path):
    async with served(tmp_path) as s:
        pouring = asyncio.create_task(post_all(s, 5, 60))
        while not pouring.done():
            assert (await s.get(path))[0] == 200
        await pouring


async def test_a_connection_that_says_nothing_delays_nobody(tmp_path):
    async with served(tmp_path) as s:
        url = s.client.make_url("/")
        silent = [await asyncio.open_connection(url.host, url.port) for _ in range(20)]
        async with aiohttp.ClientSession() as session, session.get(s.client.make_url("/healthz")) as reply:
            assert reply.status == 200
        for _, writer in silent:
            writer.close()
