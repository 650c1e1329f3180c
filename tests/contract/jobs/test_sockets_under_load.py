"""Sockets that flood, that never read, and many of them."""

import asyncio

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from limner.engine.events import Executed, Executing, NodeProgress, Preview, ProgressState
from limner.server import HUB, hub, outbox
from limner.server.hub import Meter
from limner.server.outbox import CROWDED, Message, Outbox
from tests.contract.jobs.make import heard, heard_until, only, served, until


async def closed(socket):
    """The code that a socket ends with."""
    while (await socket.receive(timeout=5)).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
        pass
    return socket.close_code


async def test_very_many_small_frames_end_the_socket_and_nobody_elses(tmp_path):
    async with served(tmp_path) as s:
        good = await s.client.ws_connect("/ws?clientId=good")
        bad = await s.client.ws_connect("/ws?clientId=bad")
        for _ in range(2000):
            if bad.closed:
                break
            try:
                await bad.send_bytes(b"")
            except ConnectionError:
                break
        assert await closed(bad) in (1008, 1006)
        await until(lambda: len(s.client.app[HUB]) == 1)
        await s.queue(only("Quick", text="x"), "a", client_id="good")
        await heard_until(good, "execution_success")


async def test_pings_are_answered_and_counted(tmp_path):
    async with served(tmp_path) as s:
        socket = await s.client.ws_connect("/ws?clientId=me", autoping=False)
        await heard(socket)
        await socket.ping(b"hello")
        answer = await socket.receive(timeout=5)
        assert (answer.type, bytes(answer.data)) == (WSMsgType.PONG, b"hello")
        for _ in range(400):
            try:
                await socket.ping()
            except ConnectionError:
                break
        await until(lambda: len(s.client.app[HUB]) == 0)


async def test_a_huge_frame_ends_the_socket(tmp_path):
    async with served(tmp_path) as s:
        socket = await s.client.ws_connect("/ws?clientId=me")
        await socket.send_bytes(b"x" * (hub.LONGEST_FRAME + 1))
        assert await closed(socket) in (1009, 1006)
        assert (await s.get("/healthz"))[0] == 200


async def test_more_sockets_than_are_served_are_refused_and_room_is_made_by_leaving(tmp_path):
    async with served(tmp_path) as s:
        s.client.app[HUB]._most = 3
        opened = [await s.client.ws_connect(f"/ws?clientId={i}") for i in range(3)]
        with pytest.raises(WSServerHandshakeError) as refused:
            await s.client.ws_connect("/ws?clientId=more")
        assert refused.value.status == 503
        await opened[0].close()
        await until(lambda: len(s.client.app[HUB]) == 2)
        await heard(await s.client.ws_connect("/ws?clientId=more"))


async def test_of_many_sockets_with_one_id_the_oldest_are_ended(tmp_path):
    async with served(tmp_path) as s:
        sockets = [await s.client.ws_connect("/ws?clientId=me") for _ in range(hub.MOST_EACH + 2)]
        await until(lambda: len(s.client.app[HUB]) == hub.MOST_EACH)
        assert await closed(sockets[0]) in (1008, 1006)
        await s.queue(only("Quick", text="x"), "a", client_id="me")
        await heard_until(sockets[-1], "execution_success")


async def test_a_socket_that_never_reads_delays_nobody_and_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "FULL", 4 << 20)
    async with served(tmp_path) as s:
        deaf = await s.client.ws_connect("/ws?clientId=deaf")
        deaf._response.connection.transport.pause_reading()
        good = await s.client.ws_connect("/ws?clientId=good")
        await heard(good)
        everyone = s.client.app[HUB]
        text = {"text": ["x" * 100_000]}
        for i in range(200):
            everyone.on_event(Executed("p", "deaf", "1", "1", text))
            everyone.on_event(Executing("q", "good", str(i), str(i)))
            message = await asyncio.wait_for(heard(good), 1)
            assert message["data"]["node"] == str(i)
            if len(everyone) == 1:
                break
        assert len(everyone) == 1
        deaf._response.connection.transport.abort()


async def test_states_and_pictures_for_a_slow_socket_are_replaced_not_heaped_up(tmp_path):
    async with served(tmp_path) as s:
        slow = await s.client.ws_connect("/ws?clientId=slow")
        await until(lambda: len(s.client.app[HUB]) == 1)
        everyone = s.client.app[HUB]
        socket = everyone._sockets["slow"]
        socket._wake.set = lambda: None  # as if its connection took nothing
        nodes = {str(i): NodeProgress("running", 0, 1) for i in range(2000)}
        for i in range(100):
            everyone.on_event(ProgressState("p", "slow", nodes))
            everyone.on_event(Preview("p", "slow", "1", b"x" * 50_000))
            everyone.on_event(Executing("p", "slow", str(i), str(i)))
        assert socket._outbox.size < 4 * CROWDED
        del socket._wake.set
        socket._wake.set()
        seen = [await heard(slow) for _ in range(102)]
        entered = [one["data"]["node"] for one in seen if isinstance(one, dict) and one["type"] == "executing"]
        assert entered == [str(i) for i in range(len(entered))]


def test_who_takes_nothing_for_long_is_given_up_only_when_much_waits(monkeypatch):
    monkeypatch.setattr(outbox, "PATIENCE", -1.0)
    box = Outbox()
    box.put(Message(b"x"))
    assert not box.full
    box.put(Message(b"x" * CROWDED))
    assert box.full


def test_a_meter_lets_through_a_burst_and_then_a_rate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(hub, "monotonic", lambda: now[0])
    meter = Meter(burst=5, rate=2)
    assert [meter.passes() for _ in range(6)] == [True] * 5 + [False]
    now[0] = 2.0
    assert [meter.passes() for _ in range(4)] == [True] * 3 + [False]
