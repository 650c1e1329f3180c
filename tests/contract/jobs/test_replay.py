"""Clients that come late, or again, know where they are."""

import asyncio
import json

from limner.engine.events import (
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionStart,
    ExecutionSuccess,
    NodeProgress,
    Preview,
    Progress,
    ProgressState,
)
from limner.engine.replay import Replay
from limner.server import HUB, missed
from limner.server.missed import Missed
from limner.server.outbox import Message
from tests.contract.jobs.make import heard, heard_until, only, served, shown, until

PICTURE = b"\xff\xd8picture"


async def connect(s, sid="me", **flags):
    socket = await s.client.ws_connect(f"/ws?clientId={sid}")
    if flags:
        await socket.send_json({"type": "feature_flags", "data": flags})
    return socket


async def running(s, name="a"):
    """A prompt that waits in its first node, with a step and a picture told of it."""
    await s.queue(shown("Wait", text="x"), name, client_id="me")
    await s.bench.until("executing")
    hub = s.bench.engine.events
    hub.push(Preview(name, "me", "1", PICTURE))
    hub.push(Progress(name, "me", "1", 3, 9))
    await s.bench.until("progress")


async def test_a_client_that_comes_late_is_told_the_state_of_its_prompt(tmp_path):
    async with served(tmp_path) as s:
        await running(s)
        socket = await connect(s)
        messages = await heard_until(socket, "progress")
        kinds = [message["type"] for message in messages]
        assert kinds == ["status", "execution_start", "execution_cached", "progress_state", "executing", "progress"]
        assert messages[0]["data"]["status"]["exec_info"]["queue_remaining"] == 1
        assert messages[1]["data"]["prompt_id"] == "a"
        assert messages[3]["data"]["nodes"]["1"]["state"] == "running"
        assert messages[4]["data"] == {"node": "1"}
        assert messages[5]["data"] == {"value": 3, "max": 9, "prompt_id": "a", "node": "1"}


async def test_the_latest_picture_comes_in_the_form_that_the_client_reads(tmp_path):
    async with served(tmp_path) as s:
        await running(s)
        plain, capable = await connect(s), await connect(s, supports_preview_metadata=True)
        for socket, head in ((capable, b"\0\0\0\x04"), (plain, b"\0\0\0\x01")):
            while not isinstance(frame := await heard(socket), bytes):
                pass
            assert frame.startswith(head)
            assert frame.endswith(PICTURE)


async def test_after_a_reconnect_the_run_goes_on_as_for_one_that_never_left(tmp_path):
    async with served(tmp_path) as s:
        first = await connect(s)
        await s.queue(shown("Wait", text="x"), "a", client_id="me")
        await heard_until(first, "executing")
        await first.close()
        again = await connect(s)
        await heard_until(again, "executing")
        await s.post("/api/jobs/a/cancel")
        messages = await heard_until(again, "executing")
        assert [message["type"] for message in messages][-3:] == ["execution_interrupted", "status", "executing"]


async def test_another_client_is_told_nothing_of_it(tmp_path):
    async with served(tmp_path) as s:
        await running(s)
        socket = await connect(s, "other")
        assert (await heard(socket))["type"] == "status"
        s.bench.engine.interrupt()
        assert (await heard(socket))["type"] == "status"


async def test_the_end_of_a_prompt_is_told_to_its_client_when_it_comes(tmp_path):
    async with served(tmp_path) as s:
        for name in ("a", "b"):
            await s.queue(only("Quick", text=name), name, client_id="me")
            await s.bench.engine.wait(name)
        socket = await connect(s)
        messages = [await heard(socket) for _ in range(5)]
        told = [(one["type"], one["data"].get("prompt_id")) for one in messages]
        assert told == [
            ("status", None),
            ("execution_success", "a"),
            ("executing", "a"),
            ("execution_success", "b"),
            ("executing", "b"),
        ]
        assert messages[2]["data"] == {"node": None, "prompt_id": "a"}
        await socket.close()


async def test_an_end_is_told_once(tmp_path):
    async with served(tmp_path) as s:
        await s.queue(only("Quick", text="x"), "a", client_id="me")
        await s.bench.engine.wait("a")
        await heard_until(await connect(s), "executing")
        again = await connect(s)
        await s.queue(only("Quick", text="y"), "b")
        assert [(await heard(again))["type"] for _ in range(2)] == ["status", "status"]


async def test_an_end_that_a_live_socket_heard_is_not_told_again(tmp_path):
    async with served(tmp_path) as s:
        first = await connect(s)
        await s.queue(only("Quick", text="x"), "a", client_id="me")
        while (message := await heard(first))["type"] != "executing" or message["data"]["node"] is not None:
            pass
        await first.close()
        again = await connect(s)
        await s.queue(only("Quick", text="y"), "b")
        assert [(await heard(again))["type"] for _ in range(2)] == ["status", "status"]


async def test_an_end_that_waits_in_a_broken_socket_reaches_the_next_one(tmp_path):
    async with served(tmp_path) as s:
        await connect(s)
        hub = s.client.app[HUB]
        await until(lambda: hub._sockets)
        stuck = hub._sockets["me"]
        stuck._wake.set = lambda: None  # nothing is written to it any more
        s.bench.engine.events.push(ExecutionSuccess("a", "me", 5))
        await until(stuck.unheard)
        stuck._transport.abort()
        await until(lambda: not hub._sockets)
        socket = await connect(s)
        assert (await heard(socket))["type"] == "status"
        assert (await heard(socket))["data"] == {"prompt_id": "a", "timestamp": 5}


async def test_an_end_of_long_ago_is_not_told(tmp_path, monkeypatch):
    async with served(tmp_path) as s:
        await s.queue(only("Quick", text="x"), "a", client_id="me")
        await s.bench.engine.wait("a")
        await asyncio.sleep(0)
        monkeypatch.setattr(missed, "KEPT", -1.0)
        socket = await connect(s)
        await s.queue(only("Quick", text="y"), "b")
        assert [(await heard(socket))["type"] for _ in range(2)] == ["status", "status"]


def test_what_was_missed_is_bounded():
    kept = Missed()
    for i in range(missed.MOST_CLIENTS + 5):
        kept.keep(f"c{i}", Message(b"x"))
    assert kept.take("c0") == []
    assert len(kept.take(f"c{missed.MOST_CLIENTS}")) == 1
    for i in range(missed.MOST_EACH + 5):
        kept.keep("me", Message(b"%d" % i))
    kept.keep("me", Message(b"x" * (missed.LARGEST + 1)))
    found = kept.take("me")
    assert (len(found), found[-1].frame) == (missed.MOST_EACH, b"%d" % (missed.MOST_EACH + 4))
    assert kept.take("me") == []


def heard_by(client, *events):
    replay = Replay()
    for event in events:
        replay.hear(event)
    return [event.type for event in replay.of(client)]


def test_steps_and_pictures_of_an_earlier_node_are_not_told():
    start, cached = ExecutionStart("p", "me", 1), ExecutionCached("p", "me", (), 1)
    first = [
        start,
        cached,
        Executing("p", "me", "1", "1"),
        Preview("p", "me", "1", b"x"),
        Progress("p", "me", "1", 1, 2),
    ]
    assert heard_by("me", *first)[-3:] == ["executing", "progress", "preview"]
    assert heard_by("me", *first, Executing("p", "me", "2", "2")) == [
        "execution_start",
        "execution_cached",
        "executing",
    ]


def test_a_prompt_that_has_ended_is_not_told():
    start = ExecutionStart("p", "me", 1)
    for end in (ExecutionSuccess("p", "me", 2), ExecutionError("p", "me", timestamp=2), Executing("p", "me")):
        assert heard_by("me", start, end) == []
    assert heard_by("me", start, ExecutionError("p", "me")) == ["execution_start"]  # a blocked branch: it goes on


def test_of_a_prompt_without_client_everyone_is_told_its_progress():
    state = ProgressState("p", None, {"1": NodeProgress("running", 0, 1)})
    assert heard_by("me", state, Progress("p", None, "1", 1, 2)) == ["progress_state", "progress"]


async def test_a_prompt_without_client_is_forgotten_when_it_has_ended(tmp_path):
    async with served(tmp_path) as s:
        await s.queue(only("Quick", text="x"), "a")
        await s.bench.engine.wait("a")
        await until(lambda: not s.bench.engine._replay)
        socket = await connect(s)
        assert json.loads((await socket.receive()).data)["type"] == "status"
