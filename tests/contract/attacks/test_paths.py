"""No name leads out of its folder, in any route or node that takes one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.contract.attacks.payloads import NAMES, SECRET, encoded
from tests.refusals.server import Live, Reply, live_server

SAFE = (200, 204, 400, 403, 404)
"""200 is for names that are fine once read: `%2e%2e` may be a file's name, and then it is that file's."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    around = tmp_path_factory.mktemp("around")
    base = around / "base"
    secret = around / "secret.txt"
    secret.write_text(SECRET)
    for folder in (
        "input",
        "output",
        "temp",
        "models/loras",
        "models/embeddings",
        "user/default",
        "custom_nodes/p/locales",
    ):
        (base / folder).mkdir(parents=True)
        (base / folder / "link.txt").symlink_to(secret)
        (base / folder / "link.png").symlink_to(secret)
        (base / folder / "linked").symlink_to(around)
    for inner in (base, base / "user", base / "custom_nodes"):
        (inner / "secret.txt").write_text(SECRET)
    with live_server(base) as running:
        yield running


def holds(live: Live, reply: Reply, said: object) -> None:
    """Nothing of outside came back, and nothing was written there."""
    assert reply.status in SAFE, (said, reply.status, reply.text[:300])
    assert SECRET not in reply.text, said
    assert "root:" not in reply.text, said
    around = live.base.parent
    assert {path.name for path in around.iterdir()} <= {"base", "secret.txt"}, said
    assert (around / "secret.txt").read_text() == SECRET, said
    assert {path.name for path in live.base.iterdir()} <= BASE, said
    assert "X-Evil" not in reply.headers


BASE = {"input", "output", "temp", "models", "user", "custom_nodes", "secret.txt"}

SEGMENTS = (
    ("GET", "/models/{}"),
    ("GET", "/experiment/models/{}"),
    ("GET", "/experiment/models/preview/loras/0/{}"),
    ("GET", "/experiment/models/preview/{}/0/x"),
    ("GET", "/view_metadata/{}?filename=a.safetensors"),
    ("GET", "/history/{}"),
    ("GET", "/object_info/{}"),
    ("GET", "/settings/{}"),
    ("POST", "/settings/{}"),
    ("GET", "/userdata/{}"),
    ("POST", "/userdata/{}"),
    ("DELETE", "/userdata/{}"),
    ("POST", "/userdata/{}/move/x"),
    ("POST", "/userdata/a/move/{}"),
    ("GET", "/internal/files/{}"),
    ("GET", "/workflow_templates/{}/x.json"),
    ("GET", "/workflow_templates/p/{}"),
    ("GET", "/global_subgraphs/{}"),
    ("GET", "/templates/{}"),
    ("GET", "/docs/{}"),
    ("GET", "/extensions/{}"),
    ("GET", "/extensions/p/{}"),
    ("GET", "/{}"),
    ("GET", "/api/jobs/{}"),
    ("POST", "/api/jobs/{}/cancel"),
)

QUERIES = (
    "/view?filename={}",
    "/view?filename={}&type=input",
    "/view?filename=a.png&subfolder={}",
    "/view?filename=secret.txt&subfolder={}",
    "/view?filename=a.png&type={}",
    "/view?filename={}&preview=webp",
    "/view?filename={}&channel=rgb",
    "/view_metadata/loras?filename={}",
    "/userdata?dir={}",
    "/userdata?dir={}&recurse=true&full_info=true",
    "/v2/userdata?path={}",
    "/api/jobs?workflow_id={}",
)


@pytest.mark.parametrize(("method", "path"), SEGMENTS)
def test_a_segment_of_an_address_leads_nowhere(live: Live, method: str, path: str) -> None:
    for name, text in encoded().items():
        if len(text) < 8000:
            holds(live, live.request(method, path.format(text), b"{}" if method == "POST" else None), (path, name))


@pytest.mark.parametrize("path", QUERIES)
def test_a_query_leads_nowhere(live: Live, path: str) -> None:
    for name, text in encoded().items():
        if len(text) < 8000:
            holds(live, live.get(path.format(text)), (path, name))


def upload(live: Live, path: str, filename: str, **fields: str) -> Reply:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n\r\n'
    body = ("".join(parts) + head).encode("utf-8", "surrogatepass") + b"x\r\n--b--\r\n"
    return live.request("POST", path, body, {"Content-Type": "multipart/form-data; boundary=b"})


@pytest.mark.parametrize("name", NAMES, ids=lambda one: one.replace(" ", "_"))
def test_an_upload_leads_nowhere(live: Live, name: str) -> None:
    text = NAMES[name]
    holds(live, upload(live, "/upload/image", text), name)
    for field in ("subfolder", "type"):
        holds(live, upload(live, "/upload/image", "a.txt", **{field: text}), (field, name))
    for key in ("filename", "subfolder", "type"):
        reference = json.dumps({"filename": "a.png", key: text})
        holds(live, upload(live, "/upload/mask", "m.png", original_ref=reference), (key, name))


def test_an_upload_does_not_write_through_a_link(live: Live) -> None:
    for name, overwrite in (("link.txt", "true"), ("link.txt", "false")):
        holds(live, upload(live, "/upload/image", name, overwrite=overwrite), name)
    holds(live, upload(live, "/upload/image", "secret.txt", subfolder="linked", overwrite="true"), "linked")


def default_of(port: Any) -> Any:
    """A value that the input takes, None where there is none to choose."""
    return port.options.get("default", port.choices[0] if port.choices else None)


@cache
def nodes() -> Any:
    from limner.engine import NodeRegistry

    return NodeRegistry.open()


@cache
def kinds_with_names() -> list[tuple[str, str, dict[str, Any]]]:
    """Every built-in node kind and input that takes a file's name or path, with the other inputs filled in."""
    registry = nodes()
    found = []
    for kind in registry.kinds():
        schema = registry.get(kind)
        assert schema is not None
        for port in schema.inputs:
            named = port.folder is not None or port.file_in is not None
            worded = any(
                word in port.name for word in ("filename", "file_name", "path", "prefix", "folder", "directory")
            )
            if named or (worded and port.kind == "STRING"):
                rest = {
                    one.name: value
                    for one in schema.inputs
                    if (value := default_of(one)) is not None and one is not port
                }
                found.append((kind, port.name, rest))
    return found


LINKS = {
    "IMAGE": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "LATENT": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
}


def prompt_of(kind: str, name: str, rest: dict[str, Any], text: str) -> dict[str, Any]:
    """A prompt that runs that kind with that name, its pictures and latents linked, its result shown."""
    schema = nodes().get(kind)
    assert schema is not None
    links = {
        port.name: [str(port.kind), 0] for port in schema.inputs if str(port.kind) in LINKS and port.name not in rest
    }
    prompt: dict[str, Any] = {"1": {"class_type": kind, "inputs": {**rest, **links, name: text}}}
    prompt |= {key: LINKS[key] for key in {link[0] for link in links.values()}}
    if not schema.output_node:
        prompt["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    return prompt


NODES = ("up", "far up", "absolute", "backslashes", "annotated", "link", "link to a folder", "NUL", "encoded")


def test_no_node_reads_or_writes_outside(live: Live) -> None:
    started = []
    for kind, name, rest in kinds_with_names():
        for payload in NODES:
            reply = live.post("/prompt", {"prompt": prompt_of(kind, name, rest, NAMES[payload])})
            holds(live, reply, (kind, name, payload))
            if reply.status == 200:
                started.append((kind, name, payload, reply.json()["prompt_id"]))
    for *said, prompt_id in started:
        entry = live.finished(prompt_id)
        text = json.dumps(entry["outputs"])
        assert SECRET not in text, said
        assert "root:" not in text, said
        written = Path(live.base.parent)
        assert {path.name for path in written.iterdir()} <= {"base", "secret.txt"}, said
        assert {path.name for path in live.base.iterdir()} <= BASE, said
    assert len(kinds_with_names()) > 10
    assert started, "some names are refused only when the node runs"
