"""Bodies that lie about themselves, and requests that are none."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.refusals.server import Live, live_server


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("bodies")) as running:
        yield running


def raw(live: Live, sent: bytes, until: str = "end") -> bytes:
    """What comes back for bytes that are sent as they are.

    until: `cut` ends the sending first; `end` reads to the server's end, `head` to the end of the first headers.
    """
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
        connection.sendall(sent)
        if until == "cut":
            connection.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while (block := connection.recv(65536)) and len(found) < 1 << 20:
                found += block
                if until == "head" and b"\r\n\r\n" in found:
                    break
        except ConnectionResetError:
            pass  # an answer that refuses a body need not wait for its end
        return found


def status(reply: bytes) -> int | None:
    """The status of the first reply; None when the connection was closed without one."""
    return int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.") else None


HEAD = b"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

BROKEN = {
    "a length beyond the body": HEAD + b"Content-Length: 1000\r\n\r\n{",
    "a length below zero": HEAD + b"Content-Length: -1\r\n\r\n{}",
    "a length that is no number": HEAD + b"Content-Length: x\r\n\r\n{}",
    "a length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "a length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks without an end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "a chunk longer than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "a chunk shorter than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{}\r\n0\r\n\r\n",
    "a chunk size that is no number": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a huge chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}\r\n",
    "an unknown transfer coding": HEAD + b"Transfer-Encoding: odd\r\n\r\n{}",
    "a gzip that is none": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "a deflate that is none": HEAD + b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}",
    "an unknown charset": b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded; charset=odd\r\nContent-Length: 3\r\n\r\na=1",
    "a form without a boundary": b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 1\r\n\r\nx",
    "a login without a boundary": (
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 1\r\n\r\nx"
    ),
    "a form that ends early": b'POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 60\r\n\r\n--b\r\nContent-Disposition: form-data; name="image"; filename="a"',
    "a form with a huge boundary": b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary="
    + b"b" * 500
    + b"\r\nContent-Length: 1\r\n\r\nx",
    "a form within a form": b'POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 95\r\n\r\n--b\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--b--',
    "a header without a colon": b"GET /queue HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n",
    "a line break in a header's name": b"GET /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nX\n-Evil: 1\r\n\r\n",
    "a NUL in a header": b"GET /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: \0\r\n\r\n",
    "a huge header": b"GET /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "a huge address": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "an odd version": b"GET /queue HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "no request": b"\x16\x03\x01\x02\x00\x01\x00",
    "an odd method": b"G\0T /queue HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a full address": b"GET http://evil.example/queue HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "an address with a line break": b"GET /queue%0d%0aX-Evil:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a broken escape": b"GET /view?filename=%zz%f HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "an escape that is no text": b"GET /userdata/%ff%fe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN, ids=lambda one: one.replace(" ", "_"))
def test_a_broken_request_is_refused_and_the_server_goes_on(live: Live, name: str) -> None:
    reply = raw(live, BROKEN[name], "cut")

    assert status(reply) in (None, 200, 400, 401, 403, 404, 413), reply[:300]
    assert b"X-Evil" not in reply.split(b"\r\n\r\n")[0]
    assert live.get("/queue").json() == {"queue_running": [], "queue_pending": []}
    assert live.get("/history").json() == {}


@pytest.mark.parametrize("path", ["/prompt", "/upload/image", "/userdata/big", "/settings", "/queue"])
def test_a_body_above_the_limit_is_refused_before_it_is_sent(live: Live, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10**12}\r\n\r\n".encode()

    assert status(raw(live, head, "head")) == 413
    assert live.get("/queue").status == 200


@pytest.mark.parametrize("path", ["/prompt", "/userdata/big", "/settings"])
def test_chunks_above_the_limit_are_refused_while_they_come(live: Live, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"

    assert status(raw(live, head + chunk * 3 + b"0\r\n\r\n", "cut")) in (None, 413)
    assert not (live.base / "user" / "default" / "big").exists()


def test_a_small_gzip_of_much_is_refused(live: Live) -> None:
    import gzip

    body = gzip.compress(b'{"prompt": "' + b"a" * (8 << 20) + b'"}')
    reply = live.request("POST", "/prompt", body, {"Content-Encoding": "gzip"})

    assert reply.status in (400, 413)


def test_two_requests_in_one_stay_two(live: Live) -> None:
    # The second is hidden in what a proxy would take for the first's body.
    smuggled = b"GET /internal/logs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    reply = raw(live, HEAD + b"Content-Length: 2\r\n\r\n{}" + smuggled)

    assert [status(reply)] == [400]
    assert b"403" in reply.partition(b"\r\n\r\n")[2]


HANDSHAKE = (
    "GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)
GOOD_KEY = "x3JJHMbDL1EzLkh9GBhXDw=="


@pytest.mark.parametrize(
    ("version", "key"), [("12", GOOD_KEY), ("x", GOOD_KEY), ("13", "short"), ("13", ""), ("13", "a" * 5000)]
)
def test_a_wrong_handshake_gets_400(live: Live, version: str, key: str) -> None:
    assert status(raw(live, HANDSHAKE.format(client="c", version=version, key=key).encode(), "head")) == 400


FRAMES = {
    "a frame without a mask": b"\x81\x05hello",
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "an unknown opcode": b"\x83\x80\0\0\0\0",
    "a long control frame": b"\x89\xfe\x01\x00\0\0\0\0" + b"a" * 256,
    "a control frame in parts": b"\x09\x80\0\0\0\0",
    "a continuation of nothing": b"\x80\x80\0\0\0\0",
    "a text that is no UTF-8": b"\x81\x82\0\0\0\0\xff\xfe",
    "a length beyond all": b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
    "a length of 16 MiB": b"\x82\xff\0\0\0\0\x01\0\0\0\0\0\0\0",
    "a close with one byte": b"\x88\x81\0\0\0\0\x03",
    "a close with an odd code": b"\x88\x82\0\0\0\0\x00\x01",
    "garbage": b"\x00\xff" * 100,
    "deep JSON": b"\x81\xfe\xff\xf0\0\0\0\0" + b"[" * 0xFFF0,
    "no JSON": b"\x81\x83\0\0\0\0abc",
    "flags of no object": b'\x81\xa5\0\0\0\0{"type":"feature_flags","data":[[1]]}',
}


@pytest.mark.parametrize("name", FRAMES, ids=lambda one: one.replace(" ", "_"))
def test_frames_that_are_none_harm_nobody(live: Live, name: str) -> None:
    hello = HANDSHAKE.format(client="c", version="13", key=GOOD_KEY).encode()
    reply = raw(live, hello + FRAMES[name], "head")

    assert status(reply) == 101
    assert live.get("/queue").status == 200


@pytest.mark.parametrize("client", ["a%00b", "a" * 4000, "%ff", "..%2f", "%0d%0aX-Evil:1", '"', "%F0%9F%A6%8A"])
def test_any_client_id_is_only_a_name(live: Live, client: str) -> None:
    hello = HANDSHAKE.format(client=client, version="13", key=GOOD_KEY).encode()
    reply = raw(live, hello + b"\x88\x80\0\0\0\0", "head")

    assert status(reply) == 101
    assert b"X-Evil:1\r\n" not in reply.split(b"\r\n\r\n")[0]
