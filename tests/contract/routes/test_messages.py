"""The socket's messages of whole runs, over the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType

from tests.refusals.server import Live, live_server

TWO = {
    "1": {"class_type": "PrimitiveString", "inputs": {"value": "hello"}},
    "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
}
BROKEN = {
    "7": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
    "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("messages")
    (base / "input").mkdir()
    (base / "input" / "broken.png").write_bytes(b"no picture")
    with live_server(base) as running:
        yield running


async def told(live: Live, prompt: dict[str, Any], client: str | None = "me") -> list[tuple[str, Any]]:
    """Every message that a client hears from the prompt's submission to its end."""
    heard: list[tuple[str, Any]] = []
    async with (
        ClientSession(f"http://127.0.0.1:{live.port}") as session,
        session.ws_connect("/ws?clientId=me") as socket,
    ):
        await socket.receive(timeout=10)
        body = {"prompt": prompt, **({} if client is None else {"client_id": client})}
        async with session.post("/prompt", json=body) as reply:
            assert reply.status == 200
        while True:
            message = await socket.receive(timeout=20)
            assert message.type is WSMsgType.TEXT
            frame = json.loads(message.data)
            assert set(frame) == {"type", "data"}
            heard.append((frame["type"], frame["data"]))
            if frame["type"] == "executing" and frame["data"]["node"] is None:
                return heard
            if client is None and frame["type"] == "status" and not remaining(frame["data"]):
                return heard


def remaining(data: Any) -> int:
    found: int = data["status"]["exec_info"]["queue_remaining"]
    return found


def of(heard: list[tuple[str, Any]], kind: str) -> list[Any]:
    return [data for name, data in heard if name == kind]


async def test_a_run_is_told_in_the_observed_order(live: Live) -> None:
    heard = await told(live, TWO)
    order = [name if name != "status" else f"status {remaining(data)}" for name, data in heard]
    without_states = [name for name in order if name != "progress_state"]

    assert without_states == [
        *("status 1", "status 1", "execution_start", "execution_cached"),
        *("executing", "executing", "executed", "execution_success", "status 0", "executing"),
    ]
    assert [data["node"] for data in of(heard, "executing")] == ["1", "2", None]
    assert of(heard, "executing")[0].keys() == {"node", "display_node", "prompt_id"}
    assert of(heard, "executing")[-1].keys() >= {"node", "prompt_id"}
    (executed,) = of(heard, "executed")
    assert (executed["node"], executed["display_node"], executed["output"]) == ("2", "2", {"text": ["hello"]})
    assert of(heard, "execution_start")[0].keys() == {"prompt_id", "timestamp"}
    assert of(heard, "execution_cached")[0].keys() == {"nodes", "prompt_id", "timestamp"}
    assert of(heard, "execution_success")[0].keys() == {"prompt_id", "timestamp"}
    last = of(heard, "progress_state")[-1]["nodes"]
    assert {node: one["state"] for node, one in last.items()} == {"1": "finished", "2": "finished"}
    assert last["2"].keys() == {
        *("value", "max", "state", "node_id", "prompt_id", "display_node_id", "parent_node_id", "real_node_id"),
    }


async def test_a_run_from_the_cache_enters_no_node(live: Live) -> None:
    await told(live, TWO)
    heard = await told(live, TWO)

    assert [data["node"] for data in of(heard, "executing")] == [None]
    assert of(heard, "execution_cached")[0]["nodes"] == ["1", "2"]
    assert [data["node"] for data in of(heard, "executed")] == ["2"]


async def test_a_failure_is_told_with_every_field(live: Live) -> None:
    heard = await told(live, BROKEN)
    (error,) = of(heard, "execution_error")

    assert error.keys() == {
        *("prompt_id", "node_id", "node_type", "executed", "exception_message", "exception_type", "traceback"),
        *("current_inputs", "current_outputs", "timestamp"),
    }
    assert (error["node_id"], error["node_type"], error["current_inputs"]) == (
        "7",
        "LoadImage",
        {"image": ["broken.png"]},
    )
    assert "broken.png" in error["exception_message"]
    assert all(isinstance(line, str) for line in error["traceback"])
    assert of(heard, "execution_success") == []


async def test_a_prompt_without_client_is_told_as_states_and_status_only(live: Live) -> None:
    heard = await told(live, {"9": {"class_type": "PreviewAny", "inputs": {"source": "nobody"}}}, client=None)

    assert {name for name, _ in heard} <= {"status", "progress", "progress_state"}
