"""Modes of the server: several users, CORS, compression, TLS, several addresses."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector, web

from limner.errors import BadInput
from limner.server.run import listen, make_tls
from limner.settings import Settings
from tests.server.make import server


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/settings", 401),
        ("GET", "/settings/a", 401),
        ("POST", "/settings", 401),
        ("POST", "/settings/a", 401),
        ("GET", "/userdata?dir=w", 403),
        ("GET", "/v2/userdata", 403),
        ("GET", "/userdata/a", 403),
        ("POST", "/userdata/a", 403),
        ("DELETE", "/userdata/a", 403),
        ("POST", "/userdata/a/move/b", 403),
    ],
)
@pytest.mark.parametrize("user", [None, "nobody", "../default", ""])
async def test_an_unknown_user_is_refused(
    tmp_path: Path, method: str, path: str, status: int, user: str | None
) -> None:
    async with server(tmp_path, multi_user=True) as here:
        headers = {} if user is None else {"comfy-user": user}
        assert (await here.ask(method, path, headers=headers, data=b"{}"))[0] == status


async def test_each_user_has_files_of_its_own(tmp_path: Path) -> None:
    async with server(tmp_path, multi_user=True) as here:
        ids = [(await here.post("/users", json={"username": name}))[1] for name in ("Ann", "Bob")]
        heads = [{"comfy-user": one} for one in ids]
        assert await here.post("/userdata/a.txt", data=b"x", headers=heads[0]) == (200, "a.txt")

        assert (await here.get("/userdata/a.txt", headers=heads[1]))[0] == 404
        assert await here.get("/api/userdata/a.txt", headers=heads[0]) == (200, b"x")
        assert await here.get("/users") == (200, {"storage": "server", "users": {ids[0]: "Ann", ids[1]: "Bob"}})


async def test_under_cors_every_reply_and_every_options_carries_the_headers(tmp_path: Path) -> None:
    async with server(tmp_path, enable_cors_header="*") as here:
        for method, path in (("GET", "/queue"), ("OPTIONS", "/api/prompt"), ("GET", "/gone"), ("POST", "/free")):
            async with here.client.request(method, path, headers={"Origin": "http://x.example"}) as response:
                assert response.headers["Access-Control-Allow-Origin"] == "*"
                assert response.headers["Access-Control-Allow-Methods"] == "POST, GET, DELETE, PUT, OPTIONS"
                assert response.headers["Access-Control-Allow-Headers"] == "Content-Type, Authorization"
                assert response.headers["Access-Control-Allow-Credentials"] == "true"


@pytest.mark.parametrize(("path", "packed"), [("/models", True), ("/userdata", True), ("/view?filename=a.png", False)])
async def test_json_and_text_are_compressed_and_pictures_are_not(tmp_path: Path, path: str, packed: bool) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "a.png").write_bytes(b"picture")
    asks = {"Accept-Encoding": "gzip"}
    async with (
        server(tmp_path, enable_compress_response_body=True) as here,
        here.client.get(path, headers=asks) as response,
    ):
        assert (response.headers.get("Content-Encoding") == "gzip") is packed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    ask = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    try:
        subprocess.run([*ask, "-subj", "/CN=localhost"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not there to make a certificate")
    return key, cert


async def test_with_key_and_certificate_the_server_speaks_https_on_every_address(
    certificate: tuple[str, str],
) -> None:
    settings = Settings(listen="127.0.0.1,::1", port=0, tls_keyfile=certificate[0], tls_certfile=certificate[1])
    app = web.Application()

    async def safe(_: web.Request) -> web.Response:
        return web.Response(text="safe")

    app.router.add_get("/", safe)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        addresses = await listen(runner, settings, make_tls(settings))
        assert all(address.startswith("https://") for address in addresses)
        assert addresses[0].startswith("https://127.0.0.1:")
        assert len({address.rpartition(":")[2] for address in addresses}) == 1
        trusted = ssl.create_default_context(cafile=certificate[1])
        trusted.check_hostname = False
        async with ClientSession(connector=TCPConnector(ssl=trusted)) as client:
            for address in addresses:
                async with client.get(address) as response:
                    assert await response.text() == "safe"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("key", "cert"), [("k", None), (None, "c"), ("gone.pem", "gone.pem")])
def test_tls_files_that_do_not_fit_are_refused_by_name(key: str | None, cert: str | None) -> None:
    with pytest.raises(BadInput, match=r"TLS"):
        make_tls(Settings(tls_keyfile=key, tls_certfile=cert))
