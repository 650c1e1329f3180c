"""The rest of what packs use of the server, the folders, the previews and the arguments."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.compat.using import place


@pytest.fixture
def base(tmp_path: Path):
    with place(tmp_path, preview_method="auto"):
        yield tmp_path


class Wire:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def send(self, kind: str, data: Any, sid: str | None) -> None:
        self.sent.append((kind, data, sid))

    def send_bytes(self, data: bytes, sid: str | None) -> None:
        self.sent.append((data, sid))

    def sockets(self) -> dict[str, Any]:
        return {}

    def flags(self, sid: str) -> dict[str, Any]:
        return {}


async def test_routes_of_packs_answer(base: Path) -> None:
    from server import PromptServer

    routes = PromptServer.instance.routes

    @PromptServer.instance.routes.get("/fox")
    async def fox(request: web.Request) -> web.Response:
        return web.json_response({"legs": 4})

    @PromptServer.instance.routes.post("/fox/{name}")
    async def named(request: web.Request) -> web.Response:
        return web.json_response({request.match_info["name"]: await request.json()})

    app = web.Application()
    app.add_routes(routes)
    async with TestClient(TestServer(app)) as client:
        assert await (await client.get("/fox")).json() == {"legs": 4}
        assert await (await client.post("/fox/red", json=[1])).json() == {"red": [1]}


async def test_messages_are_awaited_or_sent_from_any_thread(base: Path) -> None:
    from server import BinaryEventTypes, PromptServer

    wire = Wire()
    PromptServer.instance.attach(asyncio.get_running_loop(), wire)
    await PromptServer.instance.send("my.event", {"a": 1}, "c")
    PromptServer.instance.send_sync("other.event", {})
    await PromptServer.instance.send(BinaryEventTypes.PREVIEW_IMAGE, b"frame")
    await asyncio.sleep(0)
    assert ("my.event", {"a": 1}, "c") in wire.sent
    assert ("other.event", {}, None) in wire.sent
    assert BinaryEventTypes.PREVIEW_IMAGE == 1
    assert any(isinstance(one[0], bytes) and one[0].endswith(b"frame") for one in wire.sent)
    assert PromptServer.instance.client_id is None


def test_folders_are_the_stores(base: Path) -> None:
    import folder_paths

    assert Path(folder_paths.get_input_directory()) == base / "input"
    assert Path(folder_paths.input_directory) == base / "input"
    assert Path(folder_paths.__file__).parent == Path(folder_paths.base_path) == base


def test_the_methods_of_previews_and_the_arguments(base: Path) -> None:
    import latent_preview
    from comfy.cli_args import args

    assert args.preview_method == latent_preview.LatentPreviewMethod.Auto
    assert args.disable_metadata is False
    assert latent_preview.LatentPreviewMethod.Latent2RGB.value == "latent2rgb"
    assert latent_preview.LatentPreviewMethod.NoPreviews.value == "none"
    assert latent_preview.LatentPreviewMethod.TAESD.value == "taesd"


def test_nodes_of_control_networks_are_those_of_the_engine_by_their_methods(base: Path) -> None:
    import nodes

    conditioning = [[None, {}]]
    assert nodes.ControlNetApply().apply_controlnet(conditioning, None, None, 0.0) == (conditioning,)
    both = nodes.ControlNetApplyAdvanced().apply_controlnet(conditioning, [], None, None, 0.0, 0.0, 1.0)
    assert tuple(both) == (conditioning, [])
