"""Every route and status of the reference, bare and below `/api`, and each reply held against the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from limner.server.app import all_routes, describe_routes
from tests.contract.routes.live import furnish, picture
from tests.contract.routes.table import ANY, ROWS, Row
from tests.refusals.server import Live, Reply, live_server

DOCUMENT = describe_routes("0")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("contract")
    with live_server(base) as running:
        furnish(base)
        yield running


def asked(live: Live, row: Row, prefix: str = "") -> Reply:
    body = None if row.body is None else row.body.replace(b"PICTURE", picture())
    reply = live.request(row.method, prefix + row.path, body, dict(row.sends))
    if row.path == "/queue/pause":
        live.post("/queue/resume", {})  # the tests that come after, in whatever order, run prompts here
    return reply


def fits(found: Any, wants: Any) -> bool:
    """Whether a body is what the row wants: see `Row`."""
    if wants is ANY:
        return True
    if isinstance(wants, type):
        return isinstance(found, wants)
    if isinstance(wants, set):
        objects = found if isinstance(found, list) else [found]
        return bool(objects) and all(wants <= set(one) for one in objects)
    return bool(found == wants)


def parsed(reply: Reply) -> Any:
    kind = reply.headers.get("Content-Type", "")
    return json.loads(reply.body) if kind.startswith("application/json") and reply.body else reply.body


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} {row.path[:60]}")
def test_a_request_gets_its_reply(live: Live, row: Row) -> None:
    for prefix in ("",) if row.only else ("", "/api"):
        reply = asked(live, row, prefix)
        assert reply.status == row.status, reply.text[:500]
        if reply.headers.get("Content-Type", "").startswith("application/json") and reply.body:
            json.loads(reply.body, parse_constant=pytest.fail)
        assert fits(parsed(reply), row.wants), reply.text[:500]
        assert {name: reply.headers[name] for name in row.headers} == dict(row.headers)
        if row.wants == b"":
            assert reply.headers.get("Content-Length", "0") == "0" or row.method == "HEAD"


def test_a_file_comes_and_goes(live: Live) -> None:
    # POST, GET, move and DELETE of /userdata, whose rows need one another
    assert live.request("POST", "/userdata/t%2Fa.txt", b"1").json() == "t/a.txt"
    assert live.request("POST", "/api/userdata/t%2Fa.txt/move/t%2Fb.txt").json() == "t/b.txt"
    info = live.request("POST", "/userdata/t%2Fb.txt/move/t%2Fc.txt?full_info=true").json()
    assert info.keys() == {"path", "size", "modified", "created"}
    assert live.get("/userdata/t%2Fb.txt").status == 404
    gone = live.request("DELETE", "/userdata/t%2Fc.txt")
    assert (gone.status, gone.body) == (204, b"")


def test_a_user_is_made_once(live: Live) -> None:
    made = live.post("/users", {"username": "An Na!"})
    assert made.status == 200
    assert made.json().startswith("An-Na-_")
    again = live.post("/api/users", {"username": "An Na!"})
    assert (again.status, again.json()) == (400, {"error": "Duplicate username."})


def test_folders_come_before_files_each_by_name(live: Live) -> None:
    live.request("POST", "/userdata/order%2Fb.txt", b"")
    live.request("POST", "/userdata/order%2FA.txt", b"")
    live.request("POST", "/userdata/order%2Fz%2Fc.txt", b"")

    listed = live.get("/v2/userdata?path=order").json()
    assert [entry["path"] for entry in listed] == ["order/z", "order/A.txt", "order/b.txt", "order/z/c.txt"]
    assert {"size", "modified"} <= listed[1].keys()


def test_a_subgraph_is_told_with_its_text(live: Live) -> None:
    (key,) = live.get("/global_subgraphs").json()

    found = live.get(f"/api/global_subgraphs/{key}").json()
    assert found == {
        "source": "custom_node",
        "name": "s",
        "info": {"node_pack": "custom_nodes.my pack"},
        "data": "{}",
    }


def test_an_upload_of_the_same_name_gets_a_number_unless_it_is_the_same(live: Live) -> None:
    names = [live.upload("/upload/image", "n.txt", data).json()["name"] for data in (b"1", b"1", b"2", b"3")]

    assert names == ["n.txt", "n.txt", "n (1).txt", "n (2).txt"]


def test_the_default_number_counts_and_a_float_is_echoed(live: Live) -> None:
    prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": "count"}}}
    first, second = (live.post("/prompt", {"prompt": prompt}).json()["number"] for _ in range(2))
    assert second == first + 1
    assert live.post("/prompt", {"prompt": prompt, "number": 3.5}).json()["number"] == 3.5
    front = live.post("/prompt", {"prompt": prompt, "front": True}).json()["number"]
    assert front == -(second + 1)


def test_the_server_sets_create_time_in_milliseconds(live: Live) -> None:
    # rule seed-S25, Z7
    import time

    prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": "time"}}}
    before = int(time.time() * 1000)
    extra = {"create_time": 5, "auth_token_comfy_org": "secret"}
    prompt_id = live.post("/prompt", {"prompt": prompt, "extra_data": extra}).json()["prompt_id"]
    item = live.finished(prompt_id)["prompt"]

    assert type(item[3]["create_time"]) is int
    assert before - 1000 <= item[3]["create_time"] <= time.time() * 1000 + 1000
    assert "secret" not in live.get("/history").text
    assert len(item) == 5


def test_a_finished_job_is_told_with_outputs_status_and_workflow(live: Live) -> None:
    # route GET /api/jobs/{id} 200
    extra = {"extra_pnginfo": {"workflow": {"id": "w-1"}}}
    prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": "whole"}}}
    prompt_id = live.post("/prompt", {"prompt": prompt, "extra_data": extra}).json()["prompt_id"]
    live.finished(prompt_id)

    job = live.get(f"/api/jobs/{prompt_id}").json()
    assert (job["id"], job["status"], job["workflow_id"]) == (prompt_id, "completed", "w-1")
    assert job["outputs"] == {"1": {"text": ["whole"]}}
    assert job["execution_status"]["status_str"] == "success"
    assert job["workflow"]["prompt"] == prompt
    assert job["workflow"]["extra_data"]["extra_pnginfo"] == extra["extra_pnginfo"]
    assert None not in job.values()
    times = [job[name] for name in ("create_time", "execution_start_time", "execution_end_time")]
    assert times == sorted(times)
    assert all(type(time) is int for time in times)
    assert live.post(f"/api/jobs/{prompt_id}/cancel", {}).json() == {"cancelled": False}


# The document


def test_the_document_is_valid() -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")

    validator.validate(json.loads(json.dumps(DOCUMENT)))


def test_the_document_is_served_and_printed(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    from limner.cli import main

    served = live.get("/openapi.json").json()
    assert main(["openapi"]) == 0
    assert json.loads(capsys.readouterr().out) == served
    assert served["paths"].keys() == DOCUMENT["paths"].keys()


def test_every_mounted_route_is_in_the_document(tmp_path: Path) -> None:
    from limner.server import LogRing, make_app
    from limner.settings import Settings
    from limner.store import Store
    from tests.server.make import FakeEngine

    settings = Settings(base_directory=str(tmp_path))
    store = Store.open(settings, owned=False)
    app = make_app(settings, FakeEngine(), store, logs=LogRing())  # type: ignore[arg-type]
    store.close()
    statics = {"/", "/api/", "/docs/{path}", "/{path}"}
    mounted = {
        (route.method, path)
        for route in app.router.routes()
        if route.resource is not None
        and route.method != "HEAD"
        and (path := route.resource.canonical.replace("/api/", "/", 1) or "/") not in statics
    }
    documented = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}

    assert {one for one in mounted if one not in documented and "/extensions" not in one[1]} == set()


def test_every_operation_says_what_it_is_for() -> None:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "servers":
                assert operation["summary"], (method, path)
                assert operation["operationId"]


def test_every_operation_is_asked_at_least_once() -> None:
    asked_for = {id(route_of(row.method, row.path)) for row in ROWS}
    left = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "servers" and id(operation) not in asked_for
    ]

    assert left == []


def route_of(method: str, path: str) -> Mapping[str, Any] | None:
    """The operation that a path of a request is an instance of."""
    from limner.server.openapi import plain_path

    parts = path.partition("?")[0].removeprefix("/api").split("/")
    for route in sorted(all_routes(), key=lambda one: one.path.count("{")):
        names = plain_path(route.path).split("/")
        rest = "{path:" in route.path or "{filename:" in route.path
        if route.method == method and (len(names) == len(parts) or (rest and len(parts) >= len(names))):
            pairs = zip(names, parts, strict=False)
            if all(name == part or name.startswith("{") for name, part in pairs):
                operation: Mapping[str, Any] = DOCUMENT["paths"][plain_path(route.path)][method.lower()]
                return operation
    return None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} {row.path[:60]}")
def test_a_reply_is_one_that_the_document_declares(live: Live, row: Row) -> None:
    operation = None if row.route == "GET /{file}" else route_of(row.method, row.path)
    if operation is None:
        pytest.skip("a file of the front end, or no route at all")
    reply = asked(live, row)
    declared = operation["responses"].get(str(reply.status))
    assert declared is not None, f"{reply.status} is not declared; {reply.text[:200]}"
    content = declared.get("content", {})
    kind = reply.headers.get("Content-Type", "").partition(";")[0]
    if not content:
        assert reply.body == b""
    elif "*/*" not in content:
        assert kind in content, f"{kind}, declared {list(content)}"
    if "application/json" in content:
        jsonschema = pytest.importorskip("jsonschema")
        schema = content["application/json"]["schema"]
        jsonschema.validate(json.loads(reply.body), json.loads(json.dumps(schema)))
