"""Every broken prompt gets its exact error over HTTP, nothing is queued, and the server goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.refusals.prompts import BODIES, FAILED, NODES, Refusal, raw, reasons
from tests.refusals.server import Live, live_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("refusals")) as live:
        yield live


def nothing_was_queued(server: Live) -> bool:
    queue = server.get("/queue").json()
    return not queue["queue_running"] and not queue["queue_pending"] and server.get("/history").json() == {}


@pytest.mark.parametrize("refusal", BODIES, ids=lambda one: one.name)
def test_a_body_that_is_no_prompt_is_refused(server: Live, refusal: Refusal) -> None:
    reply = server.post("/prompt", refusal.body)
    assert reply.status == refusal.status
    error = reply.json()["error"]
    assert error["type"] == refusal.type
    assert set(error) == {"type", "message", "details", "extra_info"}
    assert [word for word in refusal.says if word not in json.dumps(error)] == []
    assert nothing_was_queued(server)


@pytest.mark.parametrize("refusal", NODES, ids=lambda one: one.name)
def test_a_prompt_with_a_bad_node_is_refused_at_that_node(server: Live, refusal: Refusal) -> None:
    reply = server.post("/prompt", refusal.body)
    assert reply.status == refusal.status
    body = reply.json()
    assert body["error"]["type"] == FAILED
    found = reasons(body, refusal.node)
    assert refusal.type in [one["type"] for one in found], body
    assert all(set(one) == {"type", "message", "details", "extra_info"} for one in found)
    assert [word for word in refusal.says if word not in json.dumps(found, ensure_ascii=False)] == []
    assert body["node_errors"][refusal.node]["class_type"] == refusal.body["prompt"][refusal.node]["class_type"]
    assert body["node_errors"][refusal.node]["dependent_outputs"]
    assert nothing_was_queued(server)


@pytest.mark.parametrize(("name", "body", "status", "says"), raw(), ids=lambda one: one if isinstance(one, str) else "")
def test_bytes_that_are_no_json_are_refused(server: Live, name: str, body: bytes, status: int, says: str) -> None:
    reply = server.request("POST", "/prompt", body)
    assert reply.status == status
    assert says in reply.text
    assert nothing_was_queued(server)


def test_the_tables_hold_sixty_broken_prompts_and_files() -> None:
    from tests.refusals.files import FILES

    assert len(BODIES) + len(NODES) + len(raw()) + len(FILES) >= 60


def test_all_errors_of_all_nodes_come_at_once(server: Live) -> None:
    graph = {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 1, "height": "x", "batch_size": 1}},
        "2": {"class_type": "StringTrim", "inputs": {}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    errors = server.post("/prompt", {"prompt": graph}).json()["node_errors"]
    assert [one["type"] for one in errors["1"]["errors"]] == ["value_smaller_than_min", "invalid_input_type"]
    assert [one["type"] for one in errors["2"]["errors"]] == ["required_input_missing", "required_input_missing"]


class TestRequests:
    """What is refused before any prompt is looked at."""

    @pytest.mark.parametrize(
        "path",
        [
            "/view?filename=../../secret.txt",
            "/view?filename=a.png&subfolder=../..",
            "/view?filename=a.png&subfolder=/etc",
            "/view?filename=passwd&subfolder=..%2f..%2f..%2fetc&type=input",
            "/view?filename=%2fetc%2fpasswd",
            "/view?filename=a%00.png",
            "/view?filename=a.png&type=secret",
            "/userdata/..%2f..%2fsecret.txt",
            "/userdata/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "/userdata?dir=..%2f..",
            "/view_metadata/checkpoints?filename=../../secret.safetensors",
            "/internal/files/..",
            "/extensions/../../../../etc/passwd",
            "/../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
        ],
    )
    def test_no_path_leaves_its_folder(self, server: Live, path: str) -> None:
        (server.base.parent / "secret.txt").write_text("the secret")
        reply = server.request("GET", path)
        assert reply.status in (400, 403, 404)
        assert "the secret" not in reply.text
        assert "root:" not in reply.text

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost:1"]
    )
    def test_a_page_from_elsewhere_may_not_post(self, server: Live, origin: str) -> None:
        reply = server.request("POST", "/interrupt", b"{}", {"Origin": origin})
        assert reply.status == 403

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8188", "127.0.0.1.evil.example", "10.0.0.1"])
    def test_a_wrong_host_is_refused(self, server: Live, host: str) -> None:
        assert server.request("GET", "/system_stats", headers={"Host": host}).status == 403

    def test_a_body_above_the_limit_is_refused(self, server: Live) -> None:
        body = b'{"prompt": "' + b"x" * (3 * 1024 * 1024) + b'"}'
        assert server.request("POST", "/prompt", body).status == 413

    def test_an_upload_cannot_leave_its_folder(self, server: Live) -> None:
        reply = server.upload("/upload/image", "a.png", b"x", subfolder="../../..")
        assert reply.status in (400, 403)
        reply = server.upload("/upload/image", "../../a.png", b"x")
        assert reply.status in (200, 400, 403)
        assert not (server.base.parent / "a.png").exists()

    def test_an_upload_to_a_folder_that_is_none_is_refused(self, server: Live) -> None:
        assert server.upload("/upload/image", "a.png", b"x", type="models").status == 400


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("corrupt.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
        ("text.png", b"this is no picture"),
        ("empty.png", b""),
        ("cut.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
    ],
)
def test_a_corrupt_picture_fails_at_its_node_and_nothing_else(server: Live, name: str, content: bytes) -> None:
    (server.base / "input").mkdir(exist_ok=True)
    (server.base / "input" / name).write_bytes(content)
    graph = {
        "7": {"class_type": "LoadImage", "inputs": {"image": name}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    }
    prompt = server.post("/prompt", {"prompt": graph}).json()["prompt_id"]
    entry = server.finished(prompt)
    kind, data = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert (data["node_id"], data["node_type"]) == ("7", "LoadImage")
    assert data["exception_type"] == "limner.errors.BadInput"
    assert name in data["exception_message"]
    server.post("/history", {"clear": True})
