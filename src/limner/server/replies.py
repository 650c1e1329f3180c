"""Requests in, replies out: JSON read strictly, errors written as what, why and what to do."""

from __future__ import annotations

import json
import math
import mimetypes
from collections.abc import Mapping
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from limner.errors import BadInput, Forbidden, LimnerError, NotFound

JSON_TYPE = "application/json"
MOST = 1 << 53
"""The largest whole number that every client has exactly; far above any count here."""
SURE_TYPES = {"js": "application/javascript; charset=utf-8", "webp": "image/webp"}
"""Types that a machine's own table may lack or have wrong: a browser runs a module only if it comes as JavaScript."""
Form = Mapping[str, "str | bytes | bytearray | web.FileField"]
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str).encode


def dumps(value: Any) -> bytes:
    """JSON as the wire carries it: UTF-8, and null where a float is not a number, because browsers refuse NaN."""
    try:
        return _encode(value).encode()
    except (ValueError, TypeError):
        # A float that is not finite, a key that is no text, or a lone surrogate: rare, so only then looked for.
        return json.dumps(_plain(value), separators=(",", ":"), default=str).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value


def json_reply(value: Any, status: int = 200) -> web.Response:
    """A JSON reply; `value` may already be encoded bytes."""
    body = value if isinstance(value, bytes) else dumps(value)
    return web.Response(body=body, status=status, content_type=JSON_TYPE, charset="utf-8")


def text_reply(text: str, status: int = 200) -> web.Response:
    """A plain text reply."""
    return web.Response(text=text, status=status)


def file_type(name: str) -> str:
    """The type to send a file of this name as."""
    sure = SURE_TYPES.get(name.rpartition(".")[2].lower())
    return sure or mimetypes.guess_type(name)[0] or "application/octet-stream"


def status_of(error: LimnerError) -> int:
    """The HTTP status an error is told with."""
    if isinstance(error, Forbidden):
        return 403
    if isinstance(error, NotFound):
        return 404
    return 400 if isinstance(error, BadInput) else 500


def problem(error: LimnerError, status: int | None = None) -> web.Response:
    """The reply that tells an error: one sentence under `error`, and its parts."""
    body = {"error": str(error), "what": error.what, "why": error.why, "do": error.do}
    return json_reply(body, status or status_of(error))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def parse_json(body: bytes) -> Any:
    """The value of a JSON body.

    Raises BadInput where the body is empty, is not UTF-8 or not JSON, holds NaN, Infinity or half a surrogate pair
    (none of which could be stored and sent back), or is nested too deeply.
    """
    if not body.strip():
        raise BadInput("The request has no body.", why="JSON is expected here.", do="Send a JSON object.")
    try:
        value = json.loads(body, parse_constant=_no_constant)
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadInput("The request's body is not text.", why=str(error), do="Send JSON encoded as UTF-8.") from error
    except UnicodeEncodeError as error:
        why = "It holds half of a surrogate pair, which is no character."
        raise BadInput("The request's JSON holds invalid text.", why=why, do="Send whole characters.") from error
    except RecursionError as error:
        raise BadInput("The request's JSON is nested too deeply.", do="Send a flatter value.") from error
    except ValueError as error:
        do = "NaN and Infinity are not JSON either." if "not a JSON value" in str(error) else "Mend the JSON."
        raise BadInput("The request's body is not valid JSON.", why=f"{error}.", do=do) from error
    return value


async def read_json(request: web.Request) -> Any:
    """The request's JSON body; see `parse_json` for what is refused."""
    return parse_json(await request.read())


async def read_object(request: web.Request) -> dict[str, Any]:
    """The request's JSON body, which must be an object."""
    value = await read_json(request)
    if not isinstance(value, dict):
        raise BadInput(
            f"The request's body is a JSON {type(value).__name__}.", why="An object is expected here.", do="Send {…}."
        )
    return value


async def read_form(request: web.Request) -> Form:
    """The request's form. Raises BadInput when it is none, or a broken one."""
    try:
        return await request.post()
    except (ValueError, AssertionError, LookupError, RuntimeError, HttpProcessingError) as error:
        raise BadInput(
            "The request holds no form that can be read.", why=f"{error}.", do="Send multipart form data."
        ) from error


def text_list(body: Mapping[str, Any], key: str) -> list[str]:
    """The strings under a key, [] when it is absent. Raises BadInput for anything but a list of strings."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadInput(f"`{key}` must be a list of strings.", why=f"It is {value!r:.80}.")
    return value


def whole_number(request: web.Request, key: str) -> int | None:
    """A whole number from the query, at most `MOST` either way, None when absent. Raises BadInput for anything else."""
    text = request.query.get(key)
    if text is None:
        return None
    try:
        return max(-MOST, min(MOST, int(text[:20])))
    except ValueError:
        raise BadInput(f"`{key}` is {text!r:.40}.", why="It must be a whole number.") from None


def flag(request: web.Request, key: str) -> bool:
    """Whether a query switch is on: `true` or `1`."""
    return request.query.get(key, "").lower() in ("true", "1")
