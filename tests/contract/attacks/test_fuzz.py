"""No body of any JSON type in any field ends the process or gets a 500; what is wrong is said."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from limner.server.app import all_routes
from limner.server.openapi import VARIABLE
from limner.server.schemas import JSON
from tests.contract.attacks.payloads import ODD_NUMBERS, RAW, VALUES, bodies
from tests.refusals.server import Live, live_server

SHOW = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}
GOOD: dict[str, dict[str, Any]] = {
    "/prompt": {"prompt": SHOW, "client_id": "c"},
    "/internal/logs/subscribe": {"clientId": "c", "enabled": False},
    "/users": {"username": "someone"},
}
POSTS = sorted(
    {(route.method, VARIABLE.sub("x", route.path)) for route in all_routes() if route.method in ("POST", "PATCH")}
)
FIELDS = {VARIABLE.sub("x", route.path): route for route in all_routes() if route.method in ("POST", "PATCH")}
TEN_MB = 10 * 1024 * 1024


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("fuzz"), max_upload_size=32) as running:
        yield running


def ask_all(live: Live, method: str, path: str, sent: list[bytes]) -> None:
    """Send each body over one connection, and hold each reply to what any reply must be."""
    with closing(http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)) as connection:
        for body in sent:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            check(reply.status, reply.headers.get("Content-Type", ""), reply.read(), (path, body[:200]))
    assert live.get("/queue").status == 200


def check(status: int, kind: str, body: bytes, said: object) -> None:
    assert status < 500, (said, body[:500])
    if kind.startswith("application/json") and body:
        found = json.loads(body, parse_constant=lambda word: pytest.fail(f"{word} in {said}"))
        if status >= 400:
            assert found["error"], said
    elif status >= 400:
        assert body, said


def fields_of(path: str) -> list[str]:
    body = FIELDS[path].body
    return list(body.schema.get("properties", {})) if body is not None and body.type == JSON else []


@pytest.mark.parametrize(("method", "path"), POSTS)
def test_bytes_of_any_kind_are_answered(live: Live, method: str, path: str) -> None:
    ask_all(live, method, path, list(RAW.values()))


@pytest.mark.parametrize(("method", "path"), POSTS)
def test_any_value_in_any_field_is_answered(live: Live, method: str, path: str) -> None:
    if path != "/free":
        ask_all(live, method, path, [json.dumps(value).encode() for value in VALUES])
    if fields_of(path):
        sent = bodies(fields_of(path), GOOD.get(path, {}))
        # Each request to free memory is granted, and takes a while.
        ask_all(live, method, path, sent[::10] if path == "/free" else sent)


def test_any_value_in_any_part_of_a_prompt_is_answered(live: Live) -> None:
    def prompt(node: bytes) -> bytes:
        return b'{"prompt": {"1": ' + node + b', "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}'

    values = [json.dumps(value).encode() for value in VALUES] + list(ODD_NUMBERS)
    sent = [prompt(value) for value in values]
    for value in values:
        sent += [
            prompt(b'{"class_type": ' + value + b', "inputs": {}}'),
            prompt(b'{"class_type": "StringTrim", "inputs": ' + value + b"}"),
            prompt(b'{"class_type": "StringTrim", "inputs": {"string": ' + value + b', "mode": "Both"}}'),
            prompt(b'{"class_type": "StringTrim", "inputs": {"string": "x", "mode": ' + value + b"}}"),
            prompt(
                b'{"class_type": "EmptyLatentImage", "inputs": {"width": '
                + value
                + b', "height": 64, "batch_size": 1}}'
            ),
            prompt(b'{"class_type": "StringTrim", "inputs": {"string": "x", "mode": "Both"}, "_meta": ' + value + b"}"),
            prompt(
                b'{"class_type": "StringTrim", "inputs": {"string": "x", "mode": "Both"}, "is_changed": ' + value + b"}"
            ),
            prompt(
                b'{"class_type": "StringTrim", "inputs": {"string": "x", "mode": "Both"}, "override_display_id": '
                + value
                + b"}"
            ),
        ]
        workflow = b'{"prompt": {"nodes": ' + value + b', "links": []}}'
        sent += [workflow, b'{"prompt": {"nodes": [], "links": ' + value + b', "version": 0.4}}']
        sent.append(
            b'{"prompt": {"nodes": [{"id": 1, "type": ' + value + b', "inputs": [], "outputs": []}], "links": []}}'
        )
        extra = b'{"prompt": ' + json.dumps(SHOW).encode() + b', "extra_data": {"extra_pnginfo": ' + value
        sent += [extra + b"}}", extra + b', "client_id": ' + value + b', "create_time": ' + value + b"}}"]
    ask_all(live, "POST", "/prompt", sent)
    live.post("/queue", {"clear": True})


@pytest.mark.parametrize(("method", "path"), POSTS)
def test_ten_megabytes_of_text_are_answered(live: Live, method: str, path: str) -> None:
    fields = fields_of(path) or ["x"]
    ask_all(live, method, path, [b'{"' + fields[0].encode() + b'": "' + b"a" * TEN_MB + b'"}'])


def test_ten_megabytes_in_a_prompt_are_answered(live: Live) -> None:
    long = "a" * TEN_MB
    node = {"class_type": "PreviewAny", "inputs": {"source": "x"}}
    sent = [
        {"prompt": {long: node}},
        {"prompt": {"1": {"class_type": long, "inputs": {}}}},
        {"prompt": {"1": node}, "prompt_id": long},
        {"prompt": {"1": node}, "number": "9" * 10_000},
    ]
    ask_all(live, "POST", "/prompt", [json.dumps(body).encode() for body in sent])
    live.post("/queue", {"clear": True})


QUERIES = ("history?max_items={0}&offset={0}", "jobs?limit={0}", "jobs?offset={0}", "userdata?dir=x&recurse={0}")
NUMBERS = (
    "",
    "0",
    "-1",
    "9" * 30,
    "-" + "9" * 30,
    "1e3",
    "0x10",
    "٣",
    "NaN",
    "inf",
    "1_0",
    " 1",
    "1.5",
    "%00",
    "9223372036854775808",
)


@pytest.mark.parametrize("query", QUERIES)
def test_numbers_in_queries_are_answered(live: Live, query: str) -> None:
    from urllib.parse import quote

    for text in NUMBERS:
        reply = live.get("/api/" + query.format(quote(text, safe="%")))
        check(reply.status, reply.headers.get("Content-Type", ""), reply.body, (query, text))


def test_what_a_node_shows_that_is_no_number_is_null_in_the_history() -> None:
    from limner.store.jobs import JobStore
    from limner.store.records import JobRecord

    odd = {"1": {"values": [float("nan"), float("inf"), {"x": -float("inf")}], "text": ["half a pair \ud800"]}}
    with JobStore.open("sqlite://") as store:
        store.add(JobRecord("p", 0, {}))
        store.finish("p", "completed", odd, status_json={"messages": [["execution_error", {"current_inputs": odd}]]})
        entry = json.loads(store.history_text(), parse_constant=pytest.fail)["p"]

    assert entry["outputs"]["1"]["values"] == [None, None, {"x": None}]


def test_the_server_still_runs_prompts(live: Live) -> None:
    live.post("/queue/resume", {})  # POST /queue/pause was among what was asked

    prompt_id = live.post("/prompt", {"prompt": SHOW}).json()["prompt_id"]

    assert live.finished(prompt_id)["status"]["status_str"] == "success"
