"""Taking out of the queue and of the history, which is asked for in one form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiohttp.web import Request, Response

from limner.server.keys import Handler, owner_of
from limner.server.replies import read_object, text_list
from limner.server.schemas import SWITCH, TEXTS, Body, obj

REMOVAL = Body(obj(clear=SWITCH, delete=TEXTS))


class Removable(Protocol):
    """What prompts can be taken out of; with an owner, only that API key's."""

    def clear(self, owner: str | None = None) -> object:
        """Take all out."""

    def delete(self, prompt_ids: list[str], owner: str | None = None) -> object:
        """Take these out; unknown ids are passed over."""


def remover(find: Callable[[Request], Removable], text: str) -> Handler:
    """A handler that takes everything out (`clear`) or some (`delete`), in that order. text: its docstring."""

    async def change(request: Request) -> Response:
        body = await read_object(request)
        prompt_ids = text_list(body, "delete")
        found, owner = find(request), owner_of(request)
        if body.get("clear"):
            found.clear(owner)
        if prompt_ids:
            found.delete(prompt_ids, owner)
        return Response()

    change.__doc__ = text
    return change
