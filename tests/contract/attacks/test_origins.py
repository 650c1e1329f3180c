"""Pages of other sites reach nothing, with any method, on any route."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from limner.server.app import all_routes
from limner.server.openapi import VARIABLE
from tests.refusals.server import Live, live_server

FOREIGN = {
    "another origin": {"Origin": "https://evil.example"},
    "an opaque origin": {"Origin": "null"},
    "an empty origin": {"Origin": ""},
    "another port of this machine": {"Origin": "http://127.0.0.1:1"},
    "another name of this machine": {"Origin": "http://localhost"},
    "a name that begins like this machine": {"Origin": "http://127.0.0.1.evil.example"},
    "a name with this machine as the user": {"Origin": "http://127.0.0.1@evil.example"},
    "a rebound name": {"Host": "evil.example"},
    "a rebound name with its own origin": {"Host": "evil.example", "Origin": "http://evil.example"},
    "a rebound name that begins like this machine": {"Host": "127.0.0.1.nip.io"},
    "an address that is not served": {"Host": "10.0.0.1"},
    "two names": {"Host": "127.0.0.1, evil.example"},
    "another site": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "a picture in another site": {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "no-cors",
        "Sec-Fetch-Dest": "image",
    },
    "a frame in another site": {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "iframe",
    },
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("origins")) as running:
        yield running


@pytest.mark.parametrize("asker", FOREIGN, ids=lambda one: one.replace(" ", "_"))
def test_a_foreign_asker_is_refused_on_every_route(live: Live, asker: str) -> None:
    host = {"Host": f"127.0.0.1:{live.port}"}
    for route in all_routes():
        path = VARIABLE.sub("x", route.path)
        reply = live.request(route.method, path, None, {**host, **FOREIGN[asker]})
        assert reply.status == 403, (route.method, path, reply.status)
        assert reply.json()["do"]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"])
def test_no_method_is_a_way_around(live: Live, method: str) -> None:
    assert live.request(method, "/prompt", b"{}", {"Origin": "https://evil.example"}).status == 403


def test_a_form_of_another_site_is_refused_though_a_person_sent_it(live: Live) -> None:
    sent = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}

    assert live.request("POST", "/upload/image", b"x", sent).status == 403
    assert live.request("GET", "/queue", None, sent).status == 200, "a link that a person follows"


def test_pages_of_the_server_itself_and_programs_are_let_in(live: Live) -> None:
    origin = f"http://127.0.0.1:{live.port}"

    assert live.request("GET", "/queue", None, {"Origin": origin, "Sec-Fetch-Site": "same-origin"}).status == 200
    assert live.request("POST", "/queue", b"{}", {"Origin": origin}).status == 200
    assert live.get("/queue").status == 200
