"""What one API key may not do to another's, on every route."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest
from aiohttp import ClientSession

from limner.server.app import all_routes
from limner.server.openapi import VARIABLE
from limner.store.keys import Keys
from tests.refusals.server import Live, Reply, live_server

MARK = "belongs-to-ann"
SHOW = {"1": {"class_type": "PreviewAny", "inputs": {"source": MARK}}}
PACK = """
import os, folder_paths
from server import PromptServer

class Writer:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    def run(self, text):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(text, folder_paths.get_output_directory())
        with open(os.path.join(folder, name + ".txt"), "w") as file:
            file.write(text)
        PromptServer.instance.send_sync("from_pack", {"text": text})
        return {"ui": {"files": [{"filename": name + ".txt", "subfolder": subfolder, "type": "output"}]}}

NODE_CLASS_MAPPINGS = {"OwnedWriterTest": Writer}
"""


class Key:
    def __init__(self, live: Live, secret: str) -> None:
        self.live = live
        self.head = {"X-API-Key": secret}

    def ask(self, method: str, path: str, body: object = None) -> Reply:
        sent = None if body is None else json.dumps(body).encode()
        return self.live.request(method, path, sent, self.head)

    def run(self, prompt: object) -> str:
        reply = self.ask("POST", "/prompt", {"prompt": prompt})
        assert reply.status == 200, reply.text
        prompt_id: str = reply.json()["prompt_id"]
        while prompt_id not in self.ask("GET", f"/history/{prompt_id}").json():
            pass
        return prompt_id


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Key, Key, Key]]:
    base = tmp_path_factory.mktemp("owned")
    (base / "custom_nodes" / "writer").mkdir(parents=True)
    (base / "custom_nodes" / "writer" / "__init__.py").write_text(PACK)
    made = Keys(base / "user")
    secrets = made.add("ann"), made.add("bob"), made.add("root", admin=True)
    with live_server(base) as live:
        ann, bob, root = (Key(live, secret) for secret in secrets)
        yield ann, bob, root


Three = tuple[Key, Key, Key]


def test_no_route_tells_one_key_of_anothers_job(keys: Three) -> None:
    ann, bob, _ = keys
    prompt_id = ann.run(SHOW)
    for route in all_routes():
        if route.method == "GET" and route.path != "/ws":
            path = VARIABLE.sub(prompt_id, route.path)
            for asked in (path, f"/api{path}"):
                reply = bob.ask("GET", asked)
                assert MARK not in reply.text, asked
                assert reply.status >= 400 or prompt_id not in reply.text, asked


def test_no_route_lets_one_key_change_anothers_waiting_job(keys: Three) -> None:
    ann, bob, root = keys
    assert root.ask("POST", "/queue/pause").status == 200
    try:
        waiting = ann.ask("POST", "/prompt", {"prompt": SHOW}).json()["prompt_id"]
        before = ann.ask("GET", "/queue").json()["queue_pending"]
        body = {
            "prompt_id": waiting,
            "job_ids": [waiting],
            "delete": [waiting],
            "clear": True,
            "priority": -5,
            "to": "top",
        }
        body |= {"position": 0, "unload_models": False, "before": waiting, "after": waiting}
        for route in all_routes():
            if route.method == "POST" and route.path not in ("/prompt", "/login"):
                bob.ask("POST", VARIABLE.sub(waiting, route.path), body)
        assert bob.ask("GET", "/queue").json()["queue_pending"] == []
        assert ann.ask("GET", "/queue").json()["queue_pending"] == before
        assert [bob.ask("POST", f"/queue/{verb}").status for verb in ("pause", "resume")] == [403, 403]
    finally:
        assert root.ask("POST", "/queue/resume").status == 200
    while waiting not in ann.ask("GET", "/history").json():
        pass


def test_files_that_a_pack_writes_belong_to_the_key(keys: Three) -> None:
    ann, bob, root = keys
    graph = {"1": {"class_type": "OwnedWriterTest", "inputs": {"text": MARK}}}
    entry = ann.ask("GET", f"/history/{ann.run(graph)}").json()
    (file,) = next(iter(entry.values()))["outputs"]["1"]["files"]
    path = f"/view?filename={file['filename']}&subfolder={file['subfolder']}&type={file['type']}"

    assert ann.ask("GET", path).text == MARK
    assert bob.ask("GET", path).status == 404
    assert root.ask("GET", f"/view?filename={file['filename']}&subfolder=keys/ann").text == MARK


async def test_what_a_pack_tells_everyone_is_told_to_the_keys_own_sockets(keys: Three) -> None:
    ann, bob, root = keys
    heard: dict[str, set[str]] = {}
    client = ClientSession(f"http://127.0.0.1:{ann.live.port}")
    async with client, contextlib.AsyncExitStack() as stack:
        sockets = {
            name: await stack.enter_async_context(client.ws_connect("/ws", headers=key.head))
            for name, key in (("ann", ann), ("bob", bob), ("root", root))
        }
        await asyncio.to_thread(ann.run, {"1": {"class_type": "OwnedWriterTest", "inputs": {"text": MARK + "2"}}})
        for name, socket in sockets.items():
            await socket.ping()
            heard[name] = set()
            with contextlib.suppress(TimeoutError):
                while True:
                    heard[name].add((await socket.receive_json(timeout=0.3))["type"])

    assert "from_pack" in heard["ann"] & heard["root"]
    assert heard["bob"] <= {"status"}


def test_one_keys_results_are_not_another_keys_cache(keys: Three) -> None:
    ann, bob, _ = keys
    ann.run(SHOW)
    entry = next(iter(bob.ask("GET", f"/history/{bob.run(SHOW)}").json().values()))
    messages = dict(entry["status"]["messages"])

    assert messages["execution_cached"]["nodes"] == []


def test_names_of_input_files_are_told_to_their_key_alone(keys: Three) -> None:
    ann, bob, _ = keys
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{MARK}.png"\r\n\r\nx\r\n--b--\r\n'.encode()
    ann.live.request("POST", "/upload/image", head, {"Content-Type": "multipart/form-data; boundary=b", **ann.head})

    for path in ("/object_info/LoadImage", "/object_info", "/internal/files/input"):
        assert MARK in ann.ask("GET", path).text
        assert MARK not in bob.ask("GET", path).text
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"{MARK}.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert bob.ask("POST", "/prompt", {"prompt": prompt}).status == 400


def test_without_a_key_no_route_says_anything(keys: Three) -> None:
    ann, _, _ = keys
    open_to_all = {"/healthz", "/readyz", "/login"}
    for route in all_routes():
        if route.path not in open_to_all:
            reply = ann.live.request(route.method, VARIABLE.sub("x", route.path))
            assert reply.status == 401, (route.method, route.path)
