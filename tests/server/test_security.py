"""Who is let in."""

from pathlib import Path

import pytest

from limner.server.security import Guard, same_origin, split_host
from tests.server.make import Running, heard, server

ALONE = Guard.of("127.0.0.1", None)
OPEN = Guard.of("0.0.0.0,::", None)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:8188"},
        {"Host": "localhost:8188"},
        {"Host": "[::1]:8188"},
        {"Host": "localhost.:8188"},
        {"Host": "127.0.0.1:8188", "Origin": "http://127.0.0.1:8188"},
        {"Host": "127.0.0.1:8188", "Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1:8188", "Sec-Fetch-Site": "none"},
        {"Host": "127.0.0.1:8188", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_own_pages_programs_and_followed_links_are_let_in(headers: dict[str, str]) -> None:
    assert ALONE.refusal("GET", headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8188"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost@evil.example"},
        {"Host": "192.168.1.5:8188"},
        {"Host": ""},
        {"Host": "127.0.0.1:8188", "Origin": "null"},
        {"Host": "127.0.0.1:8188", "Origin": "http://evil.example"},
        {"Host": "127.0.0.1:8188", "Origin": "http://127.0.0.1:9999"},
        {"Host": "127.0.0.1:8188", "Origin": "http://127.0.0.1"},
        {"Host": "127.0.0.1:8188", "Origin": "http://localhost:8188"},
        {"Host": "127.0.0.1:8188", "Origin": "file://"},
        {"Host": "127.0.0.1:8188", "Origin": ""},
        {"Origin": "http://127.0.0.1:8188"},
        {"Host": "127.0.0.1:8188", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {
            "Host": "127.0.0.1:8188",
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "iframe",
        },
    ],
)
def test_foreign_origins_hosts_and_sites_are_refused(headers: dict[str, str]) -> None:
    assert ALONE.refusal("GET", headers) is not None


def test_a_form_sent_from_another_site_is_refused_though_it_navigates() -> None:
    headers = {"Host": "127.0.0.1:8188", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}

    assert ALONE.refusal("POST", headers) is not None


def test_an_open_server_may_be_asked_by_any_name_but_not_by_foreign_pages() -> None:
    assert OPEN.refusal("POST", {"Host": "gpu.lan:8188", "Origin": "http://gpu.lan:8188"}) is None
    assert OPEN.refusal("POST", {"Host": "gpu.lan:8188", "Origin": "http://other.lan:8188"}) is not None


def test_a_listen_name_may_be_asked_for() -> None:
    assert Guard.of("127.0.0.1,limner.test", None).refusal("GET", {"Host": "limner.test:8188"}) is None


def test_a_proxy_that_drops_the_port_of_the_host_is_understood() -> None:
    assert same_origin("https://me.example:8443", ("me.example", None))
    assert same_origin("https://me.example", ("me.example", 443))
    assert not same_origin("http://me.example", ("me.example", 443))


@pytest.mark.parametrize("host", ["a b", "x/y", "x:y", "x:99999999", "[::1", "@x", "x?y", "x#y", ""])
def test_what_is_no_host_is_not_taken_for_one(host: str) -> None:
    assert split_host(host) is None


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE", "PUT"])
async def test_a_foreign_origin_gets_403_with_every_method(here: Running, method: str) -> None:
    status, _ = await here.ask(method, "/prompt", headers={"Origin": "http://evil.example"})

    assert status == 403


async def test_a_refusal_says_what_to_do(here: Running) -> None:
    _, body = await here.get("/queue", headers={"Origin": "null"})

    assert "--enable-cors-header" in body["do"]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}])
async def test_a_foreign_page_gets_no_socket(here: Running, headers: dict[str, str]) -> None:
    ask = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    status, _ = await here.get("/ws", headers={**ask, "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", **headers})

    assert status == 403


async def test_a_cors_header_lets_foreign_pages_in(tmp_path: Path) -> None:
    async with server(tmp_path, enable_cors_header="https://studio.example") as here:
        headers = {"Origin": "https://studio.example", "Host": "gpu.example", "Sec-Fetch-Site": "cross-site"}
        async with here.client.get("/queue", headers=headers) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "https://studio.example"
            assert response.headers["Access-Control-Allow-Methods"] == "POST, GET, DELETE, PUT, OPTIONS"
            assert response.headers["Access-Control-Allow-Headers"] == "Content-Type, Authorization"
            assert response.headers["Access-Control-Allow-Credentials"] == "true"
        async with here.client.options("/anything", headers=headers) as response:
            assert (response.status, await response.read()) == (200, b"")


async def test_options_of_an_own_page_are_an_empty_200(here: Running) -> None:
    assert await here.ask("OPTIONS", "/prompt") == (200, b"")


async def test_no_reply_may_be_sniffed(here: Running) -> None:
    async with here.client.get("/queue") as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_an_own_page_gets_a_socket(here: Running) -> None:
    origin = str(here.client.make_url("/")).rstrip("/")
    async with here.client.ws_connect("/ws", headers={"Origin": origin}) as socket:
        assert (await heard(socket))["type"] == "status"
