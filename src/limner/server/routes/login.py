"""A person gives an API key once; the browser keeps it for the page."""

from __future__ import annotations

from aiohttp.web import Request, Response

from limner.server.auth import PAGE, PAGE_HEADERS, QUERY, set_cookie
from limner.server.keys import KEYS, Route
from limner.server.replies import read_form
from limner.server.schemas import DONE, TEXT, Answer, Body, obj


async def page(_: Request) -> Response:
    """The form that asks for a key."""
    return Response(text=PAGE, content_type="text/html", headers=PAGE_HEADERS)


async def login(request: Request) -> Response:
    """Take the form: to the page when the key is right, to the form again when it is not."""
    form = await read_form(request)
    secret = form.get(QUERY)
    if not isinstance(secret, str) or request.app[KEYS].find(secret.strip()) is None:
        return Response(status=401, text=PAGE, content_type="text/html", headers=PAGE_HEADERS)
    return set_cookie(request, Response(status=303, headers={"Location": "/"}), secret.strip())


FORM_PAGE = Answer("The form.", TEXT, "text/html")

ROUTES = (
    Route("GET", "/login", page, mount="once", answers={200: FORM_PAGE}),
    Route(
        "POST",
        "/login",
        login,
        mount="once",
        body=Body(obj("api_key", api_key=TEXT), "application/x-www-form-urlencoded"),
        answers={303: DONE, 401: FORM_PAGE},
    ),
)
