"""API keys: who is let in, and that nobody reaches what belongs to another."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from limner.errors import BadInput, LimnerError, NotFound
from limner.store.keys import FILE, Keys
from tests.refusals.server import Live, live_server
from tests.server.make import heard, server

PROMPT = {"1": {"class_type": "PreviewAny", "inputs": {"source": "secret of ann"}}}


def test_a_key_is_kept_as_a_hash_that_only_the_owner_reads(tmp_path: Path) -> None:
    secret = Keys(tmp_path).add("ann")

    assert secret not in (tmp_path / FILE).read_text()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    found = Keys(tmp_path).find(secret)
    assert found is not None
    assert (found.name, found.owner) == ("ann", "ann")
    assert Keys(tmp_path).find(secret + "x") is None


def test_keys_made_and_removed_meanwhile_count_at_once(tmp_path: Path) -> None:
    running, beside = Keys(tmp_path), Keys(tmp_path)
    assert not running.required()
    secret = beside.add("ann")
    assert running.required()
    assert running.find(secret) is not None
    beside.remove("ann")
    assert running.find(secret) is None
    assert running.required(), "a server that lost its last key lets nobody in"


@pytest.mark.parametrize("name", ["", "Ann", "a b", "../x", "a/b", "con", "x" * 41, "-a"])
def test_a_name_that_is_no_folder_is_no_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        Keys(tmp_path).add(name)


def test_a_name_is_given_once_and_an_unknown_one_cannot_be_removed(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.add("ann")
    with pytest.raises(BadInput):
        keys.add("ann")
    with pytest.raises(NotFound):
        keys.remove("bob")


def test_a_damaged_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")

    with pytest.raises(LimnerError):
        Keys(tmp_path).required()


async def test_a_file_that_is_damaged_meanwhile_lets_nobody_in(tmp_path: Path) -> None:
    async with server(tmp_path) as here:
        assert (await here.get("/queue"))[0] == 200
        (tmp_path / "user").mkdir(exist_ok=True)
        (tmp_path / "user" / FILE).write_text("{")
        assert (await here.get("/queue"))[0] == 503


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer k3y"}, {"X-API-Key": "k3y"}, {"Cookie": "limner_api_key=k3y"}]
)
async def test_a_key_may_be_shown_in_each_way(tmp_path: Path, headers: dict[str, str]) -> None:
    async with server(tmp_path, api_key="k3y") as here:
        assert (await here.get("/queue", headers=headers))[0] == 200
        assert (await here.get("/api/queue?api_key=k3y"))[0] == 200
        assert (await here.get("/queue", headers={"X-API-Key": "wrong"}))[0] == 401


@pytest.mark.parametrize(
    "path",
    ["/queue", "/api/prompt", "/view?filename=a", "/internal/logs", "/", "/index.html", "/ws", "/gone", "/object_info"],
)
async def test_without_a_key_nothing_is_told(tmp_path: Path, path: str) -> None:
    async with server(tmp_path, api_key="k3y") as here, here.client.get(path) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert "API key" in (await response.json())["error"]


async def test_the_bare_flag_lets_nobody_in_before_there_is_a_key(tmp_path: Path) -> None:
    async with server(tmp_path, api_key="") as here:
        assert (await here.get("/queue"))[0] == 401
        assert (await here.get("/queue", headers={"Authorization": "Bearer "}))[0] == 401
        secret = Keys(tmp_path / "user").add("ann")
        assert (await here.get("/queue", headers={"X-API-Key": secret}))[0] == 200


async def test_a_person_is_asked_for_the_key_and_keeps_it_in_a_cookie(tmp_path: Path) -> None:
    async with server(tmp_path, api_key="k3y") as here:
        async with here.client.get("/", headers={"Accept": "text/html"}) as response:
            assert (response.status, "<form" in await response.text()) == (401, True)
        assert (await here.post("/login", data={"api_key": "wrong"}))[0] == 401
        async with here.client.post("/login", data={"api_key": "k3y"}, allow_redirects=False) as response:
            cookie = response.headers["Set-Cookie"]
            assert (response.status, response.headers["Location"]) == (303, "/")
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        assert (await here.get("/queue"))[0] == 200, "the test client keeps cookies as a browser does"


async def test_a_key_in_the_address_of_the_page_goes_into_the_cookie(tmp_path: Path) -> None:
    async with server(tmp_path, api_key="k3y") as here:
        visit = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
        async with here.client.get("/?api_key=k3y&x=1", headers=visit, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/?x=1")


async def test_a_socket_takes_the_key_as_a_subprotocol(tmp_path: Path) -> None:
    async with server(tmp_path, api_key="k3y") as here:
        async with here.client.ws_connect("/ws", protocols=["limner.api_key.k3y"]) as socket:
            assert (await heard(socket))["type"] == "status"
            assert socket.protocol == "limner.api_key.k3y"
        with pytest.raises(WSServerHandshakeError):
            await here.client.ws_connect("/ws", protocols=["limner.api_key.no"])


async def test_the_key_of_the_command_line_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (["limner", "--api-key", "k3y"], ["limner", "--api-key=k3y"]):
        monkeypatch.setattr("sys.argv", argv)
        async with server(tmp_path, api_key="k3y") as here:
            _, stats = await here.get("/system_stats", headers={"X-API-Key": "k3y"})
            assert "k3y" not in json.dumps(stats)


@dataclass
class As:
    """A server as the holder of one key sees it."""

    live: Live
    secret: str

    def get(self, path: str) -> Any:
        return self.live.request("GET", path, headers={"X-API-Key": self.secret})

    def post(self, path: str, body: Any) -> Any:
        return self.live.request("POST", path, json.dumps(body).encode(), {"X-API-Key": self.secret})

    def run(self, prompt: Any, **more: Any) -> str:
        """The id of a prompt that has ended."""
        reply = self.post("/prompt", {"prompt": prompt, **more})
        assert reply.status == 200, reply.text
        prompt_id: str = reply.json()["prompt_id"]
        while prompt_id not in self.get(f"/history/{prompt_id}").json():
            pass
        return prompt_id


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[As, As, As]]:
    base = tmp_path_factory.mktemp("keys")
    keys = Keys(base / "user")
    secrets = keys.add("ann"), keys.add("bob"), keys.add("root", admin=True)
    with live_server(base) as live:
        ann, bob, root = (As(live, secret) for secret in secrets)
        yield ann, bob, root


Three = tuple[As, As, As]


def test_history_is_shown_to_its_owner_and_to_administrators(people: Three) -> None:
    ann, bob, root = people
    prompt_id = ann.run(PROMPT)

    for path in ("/history", f"/history/{prompt_id}", "/api/jobs", f"/api/jobs/{prompt_id}", "/queue"):
        assert "secret of ann" not in bob.get(path).text
        assert prompt_id not in bob.get(path).text or path.endswith(prompt_id)
    assert bob.get(f"/api/jobs/{prompt_id}").status == 404
    assert prompt_id in root.get("/history").json()
    assert prompt_id in ann.get("/history").json()


def test_another_can_neither_delete_nor_replace_nor_cancel(people: Three) -> None:
    ann, bob, _ = people
    prompt_id = ann.run(PROMPT)

    bob.post("/history", {"delete": [prompt_id]})
    bob.post("/history", {"clear": True})
    assert bob.post(f"/api/jobs/{prompt_id}/cancel", {}).json() == {"cancelled": False}
    assert bob.post("/prompt", {"prompt": PROMPT, "prompt_id": prompt_id}).status == 400
    assert prompt_id in ann.get("/history").json()


def test_files_are_shown_to_their_owner_and_to_administrators(people: Three) -> None:
    ann, bob, root = people
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.txt"\r\n\r\nof ann\r\n--b--\r\n'
    form = {"Content-Type": "multipart/form-data; boundary=b", "X-API-Key": ann.secret}
    assert ann.live.request("POST", "/upload/image", head, form).status == 200

    path = "/view?type=input&filename=a.txt"
    assert ann.get(path).text == "of ann"
    assert [bob.get(f"{path}{more}").status for more in ("", "&subfolder=keys/ann", "&subfolder=../ann")] == [
        404,
        404,
        403,
    ]
    assert root.get(f"{path}&subfolder=keys/ann").text == "of ann"
    assert (ann.get("/internal/files/input").json(), bob.get("/internal/files/input").json()) == (["a.txt"], [])


def test_results_are_written_and_cached_for_their_owner_only(people: Three) -> None:
    ann, bob, _ = people
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    made = {}
    for person in (ann, bob):
        entry = person.get("/history").json()
        entry = person.get(f"/history/{person.run(graph)}").json()
        (made[person.secret],) = next(iter(entry.values()))["outputs"]["2"]["images"]
    for person in (ann, bob):
        image = made[person.secret]
        query = f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
        assert person.get(query).status == 200
    assert sorted(path.parent.name for path in ann.live.base.glob("output/keys/*/x_*")) == ["ann", "bob"]


def test_settings_and_workflows_are_each_owners_own(people: Three) -> None:
    ann, bob, _ = people
    ann.post("/settings", {"theme": "ann's"})
    ann.post("/userdata/workflows%2Fa.json", {"of": "ann"})

    assert bob.get("/settings").json() == {}
    assert bob.get("/userdata/workflows%2Fa.json").status == 404
    assert ann.get("/userdata/workflows%2Fa.json").json() == {"of": "ann"}


def test_a_key_in_an_address_leads_to_no_other_server(people: Three) -> None:
    ann, _, _ = people
    reply = ann.live.request("GET", f"//evil.example?api_key={ann.secret}", headers={"Accept": "text/html"})

    assert (reply.status, reply.headers["Location"]) == (303, "/evil.example")


@pytest.mark.parametrize("path", ["/internal/logs", "/internal/logs/raw", "/internal/folder_paths"])
def test_the_log_is_for_administrators(people: Three, path: str) -> None:
    _, bob, root = people

    assert (bob.get(path).status, root.get(path).status) == (403, 200)


async def test_sockets_of_two_keys_with_one_client_id_hear_only_their_own(people: Three) -> None:
    ann, bob, root = people
    client = ClientSession(f"http://127.0.0.1:{ann.live.port}")
    heard: dict[str, list[Any]] = {}
    async with client, contextlib.AsyncExitStack() as stack:
        sockets = {}
        for name, person in (("ann", ann), ("bob", bob), ("root", root)):
            ask = client.ws_connect("/ws?clientId=same", headers={"X-API-Key": person.secret})
            sockets[name] = await stack.enter_async_context(ask)
            assert (await sockets[name].receive_json())["data"]["sid"] == "same"
        body = {"prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": "sockets"}}}, "client_id": "same"}
        async with client.post("/prompt", json=body, headers={"X-API-Key": ann.secret}) as reply:
            assert reply.status == 200
        for name, kind in (("ann", "execution_success"), ("bob", "status"), ("root", "status")):
            heard[name] = []
            while not heard[name] or heard[name][-1]["type"] != kind:
                heard[name].append(await sockets[name].receive_json(timeout=20))

    assert {message["type"] for message in heard["bob"]} == {"status"}
    assert heard["bob"][-1]["data"]["status"]["exec_info"]["queue_remaining"] == 0
    assert heard["root"][-1]["data"]["status"]["exec_info"]["queue_remaining"] == 1
    assert "executed" in {message["type"] for message in heard["ann"]}
