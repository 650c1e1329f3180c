"""Packs in a running server: routes, scripts, handlers, events, and that the socket is open before they are there."""

import asyncio
import copy
import json
import sys
import threading
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import TestClient, TestServer

from limner.compat.side import ServerSide
from limner.engine import Engine
from limner.server import make_app

PACK = """
from aiohttp import web
import folder_paths
from server import PromptServer

WEB_DIRECTORY = "js"
routes = PromptServer.instance.routes


@routes.get("/mine/{name}")
async def mine(request):
    return web.json_response({"name": request.match_info["name"], "query": dict(request.query)})


@routes.post("/mine/echo")
async def echo(request):
    return web.json_response(await request.json())


@routes.get("/features")
async def never(request):
    return web.Response(text="the server's own route comes first")


PromptServer.instance.app.add_routes([web.static("/mine_files", folder_paths.base_path + "/custom_nodes/served/js")])


class Shout:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "shout"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}, "hidden": {"id": "UNIQUE_ID"}}

    def shout(self, text, id):
        PromptServer.instance.send_sync("mine.said", {"text": text, "id": id}, PromptServer.instance.client_id)
        return {"ui": {"text": [text.upper()]}, "result": (text.upper(),)}


NODE_CLASS_MAPPINGS = {"Shout": Shout}
"""
PROMPT = {"1": {"class_type": "Shout", "inputs": {"text": "hi"}}}


class Served:
    def __init__(self, client, packs, compat):
        self.client = client
        self.packs = packs
        self.compat = compat

    async def json(self, path, **kwargs):
        async with self.client.get(path, **kwargs) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json(content_type=None)


@pytest.fixture
async def served(place, builtins):
    place.pack("served", PACK, **{"js/one__js": "export {}", "js/deep/two words__js": "export {}"})
    async with serving(place, builtins) as found:
        found.packs.start()
        yield found


class serving:
    def __init__(self, place, builtins):
        self.place = place
        self.builtins = builtins

    async def __aenter__(self):
        compat = self.place.open()
        registry = copy.copy(self.builtins)
        registry.add_source(compat.packs.source)
        store = compat.host.store
        self.engine = compat.host.engine = Engine(self.place.settings, store, registry)
        packs = ServerSide(compat)
        app = make_app(self.place.settings, self.engine, store, packs=packs)
        self.client = TestClient(TestServer(app))
        await self.client.start_server()
        await self.engine.start()
        return Served(self.client, packs, compat)

    async def __aexit__(self, *_):
        await self.client.close()
        await self.engine.close()


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_pack_s_routes_answer_bare_and_below_api(served, prefix):
    assert await served.json(f"{prefix}/mine/bob?x=1") == {"name": "bob", "query": {"x": "1"}}
    async with served.client.post(f"{prefix}/mine/echo", json={"a": 1}) as reply:
        assert await reply.json() == {"a": 1}
    async with served.client.get(f"{prefix}/mine") as reply:
        assert reply.status == 404


async def test_routes_and_static_folders_of_the_application_answer(served):
    async with served.client.get("/mine_files/one.js") as reply:
        assert await reply.text() == "export {}"


async def test_the_server_s_own_routes_come_first(served):
    assert "max_upload_size" in await served.json("/features")


async def test_a_route_that_is_added_later_answers_at_once(served):
    from aiohttp import web
    from server import PromptServer

    await served.packs.wait()

    @PromptServer.instance.routes.get("/late")
    async def late(request):
        return web.Response(text="late")

    async with served.client.get("/api/late") as reply:
        assert await reply.text() == "late"


async def test_scripts_are_listed_and_served(served):
    listed = await served.json("/extensions")
    assert "/extensions/served/one.js" in listed
    assert "/extensions/served/deep/two%20words.js" in listed
    async with served.client.get("/extensions/served/deep/two%20words.js") as reply:
        assert (reply.status, reply.content_type) == (200, "application/javascript")
    for path in ("/extensions/served/../__init__.py", "/extensions/served/%2e%2e/__init__.py", "/extensions/served/"):
        async with served.client.get(path) as reply:
            assert reply.status == 404


async def test_lists_wait_for_packs(place, builtins):
    place.pack("served", PACK, **{"js/one__js": ""})
    async with serving(place, builtins) as served:
        asked = asyncio.create_task(served.json("/object_info/Shout"))
        assert "max_upload_size" in await served.json("/features")
        assert (await served.json("/api/packs"))["ready"] is False
        assert not asked.done()
        served.packs.start()
        assert "Shout" in await asked
        assert (await served.json("/api/packs"))["packs"][0]["kinds"] == ["Shout"]


async def test_a_prompt_waits_for_the_packs_it_needs(place, builtins):
    place.pack("served", PACK, **{"js/one__js": ""})
    async with serving(place, builtins) as served:
        body = {"prompt": PROMPT}
        asked = asyncio.create_task(served.client.post("/prompt?wait=true", json=body))
        await served.json("/features")
        assert not asked.done()
        served.packs.start()
        reply = await (await asked).json()
        assert reply["outputs"] == {"1": {"text": ["HI"]}}


async def test_a_prompt_of_built_in_nodes_does_not_wait(place, builtins, monkeypatch):
    gate = threading.Event()
    monkeypatch.setitem(sys.modules, "limner_gate", SimpleNamespace(gate=gate))
    place.pack("slow", "import limner_gate\nlimner_gate.gate.wait(20)\nNODE_CLASS_MAPPINGS = {}")
    async with serving(place, builtins) as served:
        served.packs.start()
        prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}
        async with served.client.post("/prompt", json={"prompt": prompt}) as reply:
            assert reply.status == 200
        assert not served.compat.packs.ready.is_set()
        gate.set()
        await served.packs.wait()


async def test_what_a_node_sends_reaches_the_client_of_the_prompt(served):
    async with (
        served.client.ws_connect("/ws?clientId=me") as mine,
        served.client.ws_connect("/ws?clientId=you") as other,
    ):
        body = {"prompt": PROMPT, "client_id": "me"}
        async with served.client.post("/prompt?wait=true", json=body) as reply:
            assert (await reply.json())["outputs"] == {"1": {"text": ["HI"]}}
        said = await until(mine, "mine.said")
        assert said == {"text": "hi", "id": "1"}
        assert "mine.said" not in await kinds_until_idle(other)


async def until(socket, kind):
    async for message in socket:
        found = json.loads(message.data) if isinstance(message.data, str) else {}
        if found.get("type") == kind:
            return found["data"]
    raise AssertionError(f"{kind} did not come")


async def kinds_until_idle(socket):
    seen = []
    async for message in socket:
        found = json.loads(message.data)
        seen.append(found["type"])
        if found["type"] == "status" and not found["data"]["status"]["exec_info"]["queue_remaining"] and len(seen) > 2:
            break
    return seen


async def test_a_replaced_send_sync_sees_what_the_engine_tells(served):
    from server import PromptServer

    await served.packs.wait()
    instance = PromptServer.instance
    seen = []
    original = instance.send_sync

    def spy(event, data, sid=None):
        seen.append((event, sid))
        original(event, data, sid)

    instance.send_sync = spy
    async with served.client.ws_connect("/ws?clientId=me") as mine:
        async with served.client.post("/prompt?wait=true", json={"prompt": PROMPT, "client_id": "me"}) as reply:
            assert reply.status == 200
        kinds = await kinds_until_idle(mine)
    assert ("execution_start", "me") in seen
    assert ("mine.said", "me") in seen
    assert kinds.count("execution_start") == 1
    assert kinds.count("mine.said") == 1


async def test_on_prompt_handlers_change_the_body(served):
    from server import PromptServer

    await served.packs.wait()
    PromptServer.instance.add_on_prompt_handler(
        lambda body: {**body, "prompt": {"1": {"class_type": "Shout", "inputs": {"text": "other"}}}}
    )
    async with served.client.post("/prompt?wait=true", json={"prompt": PROMPT}) as reply:
        assert (await reply.json())["outputs"] == {"1": {"text": ["OTHER"]}}


async def test_the_queue_of_packs_is_the_engine_s(served):
    from server import PromptServer

    await served.packs.wait()
    queue = PromptServer.instance.prompt_queue
    queue.put((5, "mine", PROMPT, {"client_id": "me"}, ["1"]))
    while "mine" not in queue.get_history():
        await asyncio.sleep(0.01)
    entry = queue.get_history("mine")["mine"]
    assert entry["prompt"][:2] == [5, "mine"]
    assert entry["outputs"] == {"1": {"text": ["HI"]}}
    queue.delete_history_item("mine")
    assert queue.get_history("mine") == {}
    assert queue.get_tasks_remaining() == 0


async def test_a_pack_runs_a_prompt_through_the_executor(served):
    import execution
    from server import PromptServer

    await served.packs.wait()
    executor = execution.PromptExecutor(PromptServer.instance)
    await executor.execute_async(PROMPT, "own", {}, ["1"])
    assert executor.success
    assert executor.history_result["outputs"] == {"1": {"text": ["HI"]}}
    assert executor.status_messages[0][0] == "execution_start"
    await asyncio.to_thread(executor.execute, {"1": {"class_type": "Shout", "inputs": {"text": "b"}}}, "other")
    assert executor.history_result["outputs"] == {"1": {"text": ["B"]}}


async def test_a_handler_that_raises_is_an_error_reply_not_the_end(place, builtins):
    place.pack(
        "served", PACK + "\n@routes.get('/broken')\nasync def broken(request):\n    1 / 0\n", **{"js/one__js": ""}
    )
    async with serving(place, builtins) as served:
        served.packs.start()
        async with served.client.get("/broken") as reply:
            assert reply.status == 500
        assert await served.json("/mine/bob")


async def test_examples_and_translations_of_packs_are_served(place, builtins):
    place.pack(
        "served",
        PACK,
        **{
            "js/one__js": "",
            "example_workflows/one__json": "{}",
            "locales/de/nodeDefs__json": '{"Shout": {"display_name": "Ruf"}}',
        },
    )
    async with serving(place, builtins) as served:
        served.packs.start()
        assert await served.json("/workflow_templates") == {"served": ["one"]}
        assert await served.json("/api/workflow_templates/served/one.json") == {}
        assert (await served.json("/i18n"))["de"]["nodeDefs"]["Shout"]["display_name"] == "Ruf"


async def test_a_node_that_takes_every_input_gets_every_input(place, builtins):
    place.pack(
        "open",
        """
        class Any(str):
            def __ne__(self, other):
                return False

        class Flexible(dict):
            def __contains__(self, key):
                return True

            def __getitem__(self, key):
                return (Any("*"),)

        class Join:
            RETURN_TYPES = ("STRING",)
            FUNCTION = "join"
            OUTPUT_NODE = True

            @classmethod
            def INPUT_TYPES(cls):
                return {"required": {}, "optional": Flexible()}

            def join(self, **inputs):
                return {"ui": {"text": [f"{name}={inputs[name]}" for name in sorted(inputs)]}}

        NODE_CLASS_MAPPINGS = {"Join": Join}
        """,
    )
    async with serving(place, builtins) as served:
        served.packs.start()
        prompt = {
            "1": {"class_type": "PrimitiveInt", "inputs": {"value": 4}},
            "2": {"class_type": "Join", "inputs": {"one": ["1", 0], "two": "x"}},
        }
        async with served.client.post("/prompt?wait=true", json={"prompt": prompt}) as reply:
            assert (await reply.json())["outputs"] == {"2": {"text": ["one=4", "two=x"]}}


async def test_a_replaced_built_in_node_runs(place, builtins):
    place.pack("swap", "import nodes\nnodes.NODE_CLASS_MAPPINGS['PreviewAny'].execute = lambda self=None, **k: "
               "{'ui': {'text': ['mine']}}\nNODE_CLASS_MAPPINGS = {}\n")  # fmt: skip
    async with serving(place, builtins) as served:
        served.packs.start()
        await served.packs.wait()
        prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}
        async with served.client.post("/prompt?wait=true", json={"prompt": prompt}) as reply:
            found = await reply.json()
        assert found["outputs"] == {"1": {"text": ["mine"]}}, found


def test_a_workflow_of_a_pack_s_nodes_runs_without_a_server(place):
    from limner.cli.run import run

    place.pack("served", PACK, **{"js/one__js": ""})
    file = place.base / "workflow.json"
    file.write_text(json.dumps(PROMPT))
    assert list(run(file, settings=place.settings)) == ["HI"]
