"""No answer is invalid JSON, whatever a pack puts into its schema, its results, or its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.refusals.server import Live, live_server

PACK = """
from comfy_api.latest import ComfyExtension, io

NAN, INF = float("nan"), float("inf")
ODD = {"nan": NAN, "inf": [INF, -INF], 5: "a number for a key", "set": {1}, "half": "\\ud800", "bytes": b"x", "object": object()}

class Old:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"x": ("FLOAT", {"default": NAN, "min": -INF, "max": INF, "odd": ODD})}, "optional": {"fail": ("BOOLEAN",)}}
    RETURN_TYPES = ("FLOAT",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    def run(self, x, fail=False):
        if fail:
            raise ValueError("half a pair: \\ud800", NAN)
        return {"ui": {"odd": [ODD, NAN, "\\udfff"]}, "result": (INF,)}

class New(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("OddNewTest", inputs=[io.Float.Input("x", default=0.0, min=-INF, max=INF)], outputs=[io.Float.Output()], is_output_node=True)
    @classmethod
    def execute(cls, x):
        return io.NodeOutput(NAN, ui={"odd": [NAN]})

class Extension(ComfyExtension):
    async def get_node_list(self):
        return [New]

NODE_CLASS_MAPPINGS = {"OddOldTest": Old, "OddNewTest": New}
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("numbers")
    (base / "custom_nodes" / "odd").mkdir(parents=True)
    (base / "custom_nodes" / "odd" / "__init__.py").write_text(PACK)
    with live_server(base) as running:
        yield running


def parsed(text: bytes | str) -> Any:
    """The JSON, read as strictly as a browser reads it."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in {text[:300]!r}"))


@pytest.mark.parametrize("kind", ["OddOldTest", "OddNewTest"])
def test_a_schema_with_infinite_bounds_is_told_as_json(live: Live, kind: str) -> None:
    assert kind in parsed(live.get("/object_info").body)
    assert parsed(live.get(f"/object_info/{kind}").body)[kind]["input"]["required"]["x"][0] == "FLOAT"


async def test_odd_results_and_errors_are_told_as_json_everywhere(live: Live) -> None:
    frames = []
    async with (
        ClientSession(f"http://127.0.0.1:{live.port}") as client,
        client.ws_connect("/ws?clientId=odd") as socket,
    ):
        for inputs in ({"x": 1.0}, {"x": 2.0, "fail": True}):
            for kind in ("OddOldTest", "OddNewTest"):
                body = {"prompt": {"1": {"class_type": kind, "inputs": inputs}}, "client_id": "odd"}
                async with client.post("/prompt", json=body) as reply:
                    assert reply.status == 200, await reply.text()
                    prompt_id = parsed(await reply.read())["prompt_id"]
                while True:
                    message = parsed((await socket.receive(timeout=20)).data)
                    frames.append(message)
                    if message["type"] == "executing" and message["data"]["node"] is None:
                        break
                for path in (
                    f"/history/{prompt_id}",
                    "/history",
                    f"/api/jobs/{prompt_id}",
                    "/api/jobs",
                    f"/api/jobs/{prompt_id}/explain",
                ):
                    async with client.get(path) as reply:
                        assert reply.status == 200, (path, await reply.text())
                        parsed(await reply.read())

    kinds = [message["type"] for message in frames]
    assert kinds.count("execution_error") == 1
    assert kinds.count("execution_success") == 3
    shown = next(message["data"]["output"] for message in frames if message["type"] == "executed")
    assert shown["odd"][0]["nan"] is None
    assert shown["odd"][0]["inf"] == [None, None]
