"""API keys at the door: how a request shows one, and the page that asks a person for it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import hdrs, web

from limner.errors import Forbidden, LimnerError
from limner.server.keys import ASKER, Asker, Handler
from limner.server.replies import problem

if TYPE_CHECKING:
    from limner.store.keys import Keys

HEADER = "X-API-Key"
QUERY = "api_key"
COOKIE = "limner_api_key"
PROTOCOL = "limner.api_key."
"""A socket of a browser can send no header: it may ask for the subprotocol `limner.api_key.SECRET`."""
OPEN = frozenset({"/healthz", "/readyz", "/login"})
"""Paths that need no key, also below `/api`: probes say nothing of anyone, and `/login` is where a key is given."""
MONTH = 30 * 24 * 3600
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Limner</title>
<meta name="viewport" content="width=device-width">
<style>body{font:16px system-ui;background:#202020;color:#eee;display:grid;place-items:center;height:100vh;margin:0}
input,button{font:inherit;padding:.5em;margin:.3em 0;width:100%;box-sizing:border-box}form{width:20em}</style>
<form method="post" action="/login"><label for="k">This server needs an API key.</label>
<input id="k" name="api_key" type="password" autocomplete="current-password" autofocus required>
<button>Go on</button></form></html>"""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def shown_key(request: web.Request) -> str | None:
    """The secret that a request shows: in a header, the query, a socket's subprotocol, or the cookie of a page."""
    scheme, _, rest = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip()
    if secret := request.headers.get(HEADER) or request.query.get(QUERY):
        return secret
    for offered in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","):
        if offered.strip().startswith(PROTOCOL):
            return offered.strip().removeprefix(PROTOCOL)
    return request.cookies.get(COOKIE)


def is_open(path: str) -> bool:
    """Whether anyone may ask for that path."""
    return path.removeprefix("/api") in OPEN


def enter(request: web.Request, keys: Keys) -> web.Response | None:
    """Let a request in, with its `Asker` noted in it, or answer why not."""
    request[ASKER] = Asker()
    try:
        if not keys.required():
            return None
        secret = shown_key(request)
        key = keys.find(secret) if secret else None
    except LimnerError as error:  # the file of keys was damaged meanwhile: nobody is let in
        return problem(error, 503)
    if key is None:
        request[ASKER] = Asker(admin=False)
        return None if is_open(request.path) else refuse(request, told=bool(secret))
    request[ASKER] = Asker(key.owner, key.admin)
    if is_page(request) and QUERY in request.query:
        return hand_cookie(request, secret or "")
    return None


def for_administrators(handler: Handler) -> Handler:
    """A handler that lets only administrators in; everyone is one where no keys are needed."""

    @functools.wraps(handler)
    async def guarded(request: web.Request) -> web.StreamResponse:
        if not request[ASKER].admin:
            raise Forbidden("This needs an administrator's API key.", do="`limner keys add NAME --admin` makes one.")
        return await handler(request)

    return guarded


def is_page(request: web.Request) -> bool:
    """Whether a person's browser asks for the page itself."""
    return request.method == hdrs.METH_GET and "text/html" in request.headers.get(hdrs.ACCEPT, "")


def refuse(request: web.Request, *, told: bool) -> web.Response:
    """401: as a form for a person, as JSON for a program."""
    if is_page(request):
        return web.Response(status=401, text=PAGE, content_type="text/html", headers=PAGE_HEADERS)
    what = "The API key is not known here." if told else "This server needs an API key."
    error = LimnerError(what, do=f"Send it as `Authorization: Bearer KEY` or `{HEADER}: KEY`.")
    response = problem(error, 401)
    response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="limner"'
    return response


def hand_cookie(request: web.Request, secret: str) -> web.Response:
    """Send the browser on with the key in a cookie, and without it in the address."""
    left = urlencode([(name, value) for name, value in request.query.items() if name != QUERY])
    path = "/" + request.rel_url.raw_path.lstrip("/\\")  # `//host` would lead elsewhere
    return set_cookie(
        request, web.Response(status=303, headers={"Location": f"{path}?{left}" if left else path}), secret
    )


def set_cookie(request: web.Request, response: web.Response, secret: str) -> web.Response:
    """Put the key into a cookie that no script reads and no other site's request carries."""
    kept: dict[str, Any] = {"httponly": True, "samesite": "Strict", "secure": request.secure, "path": "/"}
    response.set_cookie(COOKIE, secret, max_age=MONTH, **kept)
    return response
