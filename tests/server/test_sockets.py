"""What sockets hear, in which order, and who."""

import json
import struct
from typing import Any

from limner.engine.events import (
    Executed,
    Executing,
    ExecutionInterrupted,
    ExecutionStart,
    NodeProgress,
    NodeText,
    Preview,
    Progress,
    ProgressState,
    StatusChanged,
)
from limner.server.wire import preview_plain, preview_with_metadata
from tests.server.make import Running, heard


async def test_the_greeting_counts_waiting_and_running_prompts_and_names_the_client(here: Running) -> None:
    here.engine.queue.now.append([0, "a", {}, {}, []])
    here.engine.queue.waiting.append([1, "b", {}, {}, []])
    async with here.client.ws_connect("/ws?clientId=me") as socket:
        assert await heard(socket) == {
            "type": "status",
            "data": {"status": {"exec_info": {"queue_remaining": 2}}, "sid": "me"},
        }


async def test_a_client_without_id_is_given_one(here: Running) -> None:
    async with here.client.ws_connect("/api/ws") as socket:
        assert len((await heard(socket))["data"]["sid"]) == 32


async def test_a_client_that_comes_late_is_told_the_running_node(here: Running) -> None:
    here.engine.active = Executing("p", "me", node="7.0.1", display_node="7")
    async with here.client.ws_connect("/ws?clientId=me") as socket:
        await heard(socket)
        assert await heard(socket) == {"type": "executing", "data": {"node": "7"}}


async def test_the_first_frame_tells_the_features_and_is_answered(here: Running) -> None:
    async with here.client.ws_connect("/ws?clientId=me") as socket:
        await heard(socket)
        await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        answer = await heard(socket)
        assert answer["type"] == "feature_flags"
        assert answer["data"] == {"supports_preview_metadata": True, "max_upload_size": 104857600}


async def test_frames_that_are_no_handshake_are_passed_over(here: Running) -> None:
    socket = await here.socket("me")
    await socket.send_str("not json")
    await socket.send_str("[" * 100_000)
    await socket.send_bytes(b"\x00")

    here.engine.events.tell(StatusChanged("", None, 3))

    assert (await heard(socket))["data"]["status"]["exec_info"]["queue_remaining"] == 3


async def test_events_arrive_in_order_and_in_their_wire_form(here: Running) -> None:
    socket = await here.socket("me")
    here.engine.events.tell(
        StatusChanged("", None, 1),
        ExecutionStart("p", "me", 5),
        Executing("p", "me", "1", "1"),
        Progress("p", "me", "1", 2, 9),
        Executed("p", "me", "1", "1", {"text": ["a"]}),
        Executing("p", "me"),
    )

    assert [await heard(socket) for _ in range(6)] == [
        {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}},
        {"type": "execution_start", "data": {"prompt_id": "p", "timestamp": 5}},
        {"type": "executing", "data": {"node": "1", "display_node": "1", "prompt_id": "p"}},
        {"type": "progress", "data": {"value": 2, "max": 9, "prompt_id": "p", "node": "1"}},
        {
            "type": "executed",
            "data": {"node": "1", "display_node": "1", "output": {"text": ["a"]}, "prompt_id": "p"},
        },
        {"type": "executing", "data": {"node": None, "prompt_id": "p"}},
    ]


async def test_progress_state_tells_every_node(here: Running) -> None:
    socket = await here.socket("me")
    here.engine.events.tell(ProgressState("p", "me", {"1": NodeProgress("finished", 1, 1)}))

    assert (await heard(socket))["data"]["nodes"]["1"] == {
        "value": 1,
        "max": 1,
        "state": "finished",
        "node_id": "1",
        "prompt_id": "p",
        "display_node_id": "1",
        "parent_node_id": None,
        "real_node_id": "1",
    }


async def test_only_the_client_of_a_prompt_hears_of_it(here: Running) -> None:
    mine, other = await here.socket("me"), await here.socket("other")
    here.engine.events.tell(ExecutionStart("p", "me", 5), StatusChanged("", None, 0))

    assert (await heard(mine))["type"] == "execution_start"
    assert (await heard(other))["type"] == "status"


async def test_of_a_prompt_without_client_all_hear_progress_and_interruption_only(here: Running) -> None:
    socket = await here.socket("me")
    here.engine.events.tell(
        ExecutionStart("p", None, 5),
        Executing("p", None, "1", "1"),
        Executed("p", None, "1", "1", {}),
        Progress("p", None, "1", 1, 2),
        ExecutionInterrupted("p", None, "1", "KSampler", [], 5),
    )

    assert [(await heard(socket))["type"] for _ in range(2)] == ["progress", "execution_interrupted"]


async def test_an_id_that_is_used_again_goes_to_the_newer_socket(here: Running) -> None:
    old = await here.socket("me")
    new = await here.socket("me")
    here.engine.events.tell(ExecutionStart("p", "me", 1))
    assert (await heard(new))["data"]["timestamp"] == 1

    await old.close()
    here.engine.events.tell(ExecutionStart("p", "me", 2))
    assert (await heard(new))["data"]["timestamp"] == 2


async def test_a_preview_with_metadata_comes_before_its_progress(here: Running) -> None:
    socket = await here.socket("me", supports_preview_metadata=True)
    here.engine.events.tell(Preview("p", "me", "3", b"\xff\xd8picture"), Progress("p", "me", "3", 1, 2))

    frame = await heard(socket)
    kind, length = struct.unpack("!II", frame[:8])
    about = json.loads(frame[8 : 8 + length])
    assert (kind, frame[8 + length :]) == (4, b"\xff\xd8picture")
    assert about == {
        "node_id": "3",
        "prompt_id": "p",
        "display_node_id": "3",
        "parent_node_id": None,
        "real_node_id": "3",
        "image_type": "image/jpeg",
    }
    assert (await heard(socket))["type"] == "progress"


async def test_a_plain_preview_comes_after_its_progress(here: Running) -> None:
    socket = await here.socket("me")
    here.engine.events.tell(Preview("p", "me", "3", b"PNG", "image/png"), Progress("p", "me", "3", 1, 2))

    assert (await heard(socket))["type"] == "progress"
    assert await heard(socket) == struct.pack("!II", 1, 2) + b"PNG"


async def test_what_is_not_a_number_is_told_as_null(here: Running) -> None:
    socket = await here.socket("me")
    here.engine.events.tell(Executed("p", "me", "1", "1", {"value": [float("nan")], "odd": object}))

    assert (await heard(socket))["data"]["output"]["value"] == [None]


async def test_messages_of_packs_go_to_one_or_to_all(here: Running) -> None:
    mine, other = await here.socket("me"), await here.socket("other")
    here.hub.send("pack", {"a": 1}, "me")
    here.hub.send("pack", {"a": 2})

    assert [(await heard(mine))["data"]["a"], (await heard(mine))["data"]["a"]] == [1, 2]
    assert (await heard(other))["data"]["a"] == 2


async def test_ten_thousand_messages_come_through_complete_and_in_order(here: Running) -> None:
    socket = await here.socket("me")
    here.engine.events.tell(*(Executing("p", "me", str(i), str(i)) for i in range(10_000)))

    assert [(await heard(socket))["data"]["node"] for _ in range(10_000)] == [str(i) for i in range(10_000)]


async def test_log_lines_go_to_subscribers_only(here: Running) -> None:
    reader, other = await here.socket("reader"), await here.socket("other")
    body = {"clientId": "reader", "enabled": True}
    assert await here.ask("PATCH", "/internal/logs/subscribe", json=body) == (200, b"")

    here.logs.write("hello\n")

    message = await heard(reader)
    assert (message["type"], message["data"]["entries"][0]["m"]) == ("logs", "hello\n")
    here.engine.events.tell(StatusChanged("", None, 0))
    assert (await heard(other))["type"] == "status"


async def test_the_first_front_end_is_reported_once_and_a_script_is_not(here: Running) -> None:
    calls: list[Any] = []
    here.hub._on_first_client = lambda: calls.append(1)
    await here.socket("script")
    assert calls == []
    for sid in ("a", "b"):
        reader = await here.socket(sid)
        await reader.send_json({"type": "feature_flags", "data": {}})
        while (await heard(reader))["type"] != "feature_flags":
            pass

    assert calls == [1]


async def test_a_text_of_a_node_is_a_binary_frame_with_the_node_and_the_text(here: Running) -> None:
    socket = await here.socket("me")
    here.engine.events.tell(NodeText("p", "me", "12", "width: 5 · 😀"))

    frame = await socket.receive_bytes()

    assert struct.unpack("!II", frame[:8]) == (3, 2)
    assert frame[8:].decode() == "12width: 5 · 😀"


def test_of_pictures_sent_as_results_none_takes_the_place_of_another() -> None:
    step, result = (Preview("p", "me", "1", b"", kind) for kind in ("image/jpeg", "image/png"))
    assert [make(step).supersedes is None for make in (preview_plain, preview_with_metadata)] == [False, False]
    assert [make(result).supersedes is None for make in (preview_plain, preview_with_metadata)] == [True, True]
