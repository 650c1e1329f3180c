"""What every request passes: who may ask, errors as replies, cache and CORS headers, compression."""

from __future__ import annotations

import logging

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from limner.errors import BadInput, LimnerError
from limner.server.auth import enter
from limner.server.keys import Handler
from limner.server.replies import problem
from limner.server.security import Guard
from limner.settings import Settings
from limner.store.keys import Keys

log = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
KEPT = frozenset({200, 201, 202, 203, 204, 205, 206, 301, 308})
MOVED = frozenset({302, 303, 307})


def make_middleware(settings: Settings, keys: Keys) -> Middleware:
    """The one middleware of the application: one call a request, so that small requests stay cheap."""
    guard = Guard.of(settings.listen, settings.enable_cors_header)
    cors = _cors_headers(settings.enable_cors_header)
    compress = settings.enable_compress_response_body
    limit = settings.max_upload_bytes

    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        if refused := guard.refusal(request.method, request.headers):
            log.warning("%s %s: %s", request.method, request.rel_url.raw_path, refused)
            response = problem(refused)
        elif request.method == hdrs.METH_OPTIONS:
            response = web.Response()
        elif (kept_out := enter(request, keys)) is not None:
            response = kept_out
        elif (request.content_length or 0) > limit:
            response = problem(_too_large(limit), 413)
        else:
            response = await answer(request, handler, limit)
        if not response.prepared:
            finish(request, response)
        return response

    def finish(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers["X-Content-Type-Options"] = "nosniff"
        if hdrs.CACHE_CONTROL not in headers and (kept := cache_control(request.path, response.status)):
            headers[hdrs.CACHE_CONTROL] = kept
        headers.update(cors)
        if compress and isinstance(response, web.Response) and response.body:
            accepted = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "")
            if accepted and response.content_type in ("application/json", "text/plain"):
                response.enable_compression(web.ContentCoding.gzip)

    return door


async def answer(request: web.Request, handler: Handler, limit: int) -> web.StreamResponse:
    """The handler's reply, or the reply that tells what went wrong."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return problem(_too_large(limit), 413)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in (hdrs.ALLOW, hdrs.LOCATION) if name in error.headers}
        return web.Response(status=error.status, reason=error.reason, text=error.text, headers=kept)
    except LimnerError as error:
        return problem(error)
    except (HttpProcessingError, web.RequestPayloadError) as error:
        return problem(BadInput("The request is not well formed.", why=f"{error.args[0] if error.args else error}"))
    except (ConnectionError, TimeoutError):
        raise  # The client went away: there is nobody to answer.
    except Exception as error:
        log.exception("%s %s failed.", request.method, request.rel_url.raw_path)
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket" and request.transport is not None:
            request.transport.abort()  # on an open socket an answer would be taken for a frame
        why = f"{type(error).__name__}: {error}"
        return problem(LimnerError("The server failed at this request.", why, "The log has the details."), 500)


def _too_large(limit: int) -> BadInput:
    return BadInput(
        "The request's body is too large.",
        why=f"At most {limit:,} bytes are taken.",
        do="Send less, or start with --max-upload-size MB.",
    )


def _cors_headers(origin: str | None) -> dict[str, str]:
    if origin is None:
        return {}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "POST, GET, DELETE, PUT, OPTIONS",
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Content-Type, Authorization",
        hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS: "true",
    }


def cache_control(path: str, status: int) -> str | None:
    """How long a reply may be kept: scripts are asked for again, pictures for a day, missing ones for an hour."""
    name = path.rpartition("/")[2]
    if path.endswith((".js", ".css")) or (name.startswith("index") and name.endswith(".json")):
        return "no-cache"
    if not path.lower().endswith(PICTURES):
        return None
    if status == 404:
        return "public, max-age=3600"
    if status in KEPT:
        return "public, max-age=86400"
    return "no-cache" if status in MOVED else None
