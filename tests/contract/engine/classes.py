"""Classes as packs write them, for the engine's part of the contract: they expand, loop, wait, block and fail."""

from __future__ import annotations

import asyncio
from typing import Any

from limner.graph import CURRENT_RUN, Blocker

calls: list[tuple[str, Any]] = []
"""What was called, in order: (class, what it was given). Cleared by each run of a Bench."""


class Node:
    """What most classes share: one text in, one text out."""

    RETURN_TYPES: tuple[str, ...] = ("STRING",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}

    def go(self, text):
        calls.append((type(self).__name__, text))
        return (text,)


class Plain(Node):
    """Gives its text back."""


class Join(Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("STRING", {}), "b": ("STRING", {})}}

    def go(self, a, b):
        calls.append(("Join", (a, b)))
        return (a + b,)


class Out(Node):
    """An output that shows its text."""

    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("*", {})}, "optional": {"after": ("*", {})}}

    def go(self, text, after=None):
        calls.append(("Out", text))
        return {"ui": {"text": [str(text)]}}


class Both(Out):
    """An output that gives its text on."""

    RETURN_TYPES = ("STRING",)

    def go(self, text, after=None):
        return {"ui": {"text": [str(text)]}, "result": (text,)}


class Count(Node):
    """The whole numbers below `count`, as a list that is mapped over."""

    RETURN_TYPES = ("INT",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"min": 0, "max": 99})}}

    def go(self, count):
        calls.append(("Count", count))
        return (list(range(count)),)


class Word(Node):
    """A number as a text."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def go(self, number):
        calls.append(("Word", number))
        return (str(number),)


def prefix() -> str:
    """What ids of a returned graph begin with: node and call, as GraphBuilder has it (rule G1)."""
    run = CURRENT_RUN.get()
    return f"{run.node_id}.{run.list_index}.0."


def made(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


class Twice(Node):
    """Becomes Join(Plain(text), Plain(text))."""

    def go(self, text):
        calls.append(("Twice", text))
        at = prefix()
        graph = {
            at + "p": made("Plain", text=text),
            at + "q": made("Plain", text=text + "'"),
            at + "j": made("Join", a=[at + "p", 0], b=[at + "q", 0]),
        }
        return {"result": ([at + "j", 0],), "expand": graph}


class Shower(Node):
    """Becomes an output and passes its text on."""

    def go(self, text):
        at = prefix()
        graph = {at + "o": made("Out", text=text), at + "p": made("Plain", text=text)}
        return {"result": ([at + "p", 0],), "expand": graph}


class OddTwice(Node):
    """Expands odd numbers, gives even ones back: mapped calls mix both (rule G3)."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def go(self, number):
        if number % 2 == 0:
            return (f"{number}",)
        at = prefix()
        return {"result": ([at + "p", 0],), "expand": {at + "p": made("Plain", text=f"odd {number}")}}


class Collide(Node):
    """Returns a graph with the id of a node of the prompt."""

    def go(self, text):
        return {"result": (["1", 0],), "expand": {"1": made("Plain", text=text)}}


class Unknown(Node):
    """Returns a graph with a node of no kind."""

    def go(self, text):
        at = prefix()
        return {"result": ([at + "x", 0],), "expand": {at + "x": made("Nowhere", text=text)}}


class Ring(Node):
    """Returns a graph whose nodes wait for each other."""

    def go(self, text):
        at = prefix()
        graph = {at + "a": made("Plain", text=[at + "b", 0]), at + "b": made("Plain", text=[at + "a", 0])}
        return {"result": ([at + "a", 0],), "expand": graph}


class Crash(Node):
    """Returns a graph whose node fails."""

    def go(self, text):
        at = prefix()
        return {"result": ([at + "f", 0],), "expand": {at + "f": made("Fails", text=text)}}


class Fails(Node):
    def go(self, text):
        raise ValueError(text)


class Link(Node):
    """Gives the link itself back (rule G6)."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"rawLink": True})}}

    def go(self, text):
        calls.append(("Link", text))
        return (str(text),)


class LoopOpen(Node):
    """Where a loop begins: gives its round and what came from the round before."""

    RETURN_TYPES = ("FLOW", "INT", "STRING")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"turn": ("INT", {}), "text": ("STRING", {})}}

    def go(self, turn, text):
        return ("flow", turn, text)


class LoopClose(Node):
    """Where a loop ends: clones what lies between it and its LoopOpen until all rounds are over (rule G7)."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"flow": ("FLOW", {"rawLink": True}), "rounds": ("INT", {}), "text": ("STRING", {})},
            "hidden": {"dynprompt": "DYNPROMPT", "unique_id": "UNIQUE_ID"},
        }

    def go(self, flow, rounds, text, dynprompt, unique_id):
        calls.append(("LoopClose", text))
        if rounds <= 1:
            return (text,)
        body = between(dynprompt, flow[0], unique_id)
        at = prefix()
        graph = {}
        for node in body:
            original = dynprompt.get_node(node)
            new = made(original["class_type"])
            new["override_display_id"] = dynprompt.get_display_node_id(node)
            name = "Recurse" if node == unique_id else node
            for key, value in original["inputs"].items():
                linked = isinstance(value, list) and value[0] in body
                to = at + ("Recurse" if linked and value[0] == unique_id else value[0]) if linked else None
                new["inputs"][key] = [to, value[1]] if linked else value
            graph[at + name] = new
        opened = graph[at + flow[0]]
        opened["inputs"] |= {"turn": rounds - 1, "text": text}
        graph[at + "Recurse"]["inputs"]["rounds"] = rounds - 1
        return {"result": ([at + "Recurse", 0],), "expand": graph}


def between(dynprompt: Any, start: str, end: str) -> list[str]:
    """The nodes of the original prompt that lie between two, both included."""
    wanted: list[str] = []

    def reaches(node: str) -> bool:
        if node == start:
            return True
        links = [value[0] for value in dynprompt.get_node(node)["inputs"].values() if isinstance(value, list)]
        reached = [reaches(one) for one in links]
        if any(reached):
            if node not in wanted:
                wanted.append(node)
            return True
        return False

    reaches(end)
    return [start, *wanted]


class Later(Node):
    """A coroutine that waits for several turns of the loop."""

    async def go(self, text):
        calls.append(("Later began", text))
        await asyncio.sleep(0.02)
        calls.append(("Later ended", text))
        return (text,)


class LaterFails(Node):
    async def go(self, text):
        await asyncio.sleep(0.001)
        raise ValueError(text)


class Forever(Node):
    """A coroutine that waits until it is cancelled."""

    async def go(self, text):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            calls.append(("cancelled", text))
            raise


class LaterTwice(Node):
    """A coroutine that returns a graph."""

    async def go(self, text):
        at = prefix()
        await asyncio.sleep(0)
        return {"result": ([at + "p", 0],), "expand": {at + "p": made("Plain", text=text)}}


class Stops(Node):
    """Blocks what depends on it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {}), "silent": ("BOOLEAN", {})}}

    def go(self, text, silent):
        return (Blocker(None if silent else text),)


ALL = (
    *(Plain, Join, Out, Both, Count, Word, Twice, Shower, OddTwice, Collide, Unknown, Ring, Crash, Fails, Link),
    *(LoopOpen, LoopClose, Later, LaterFails, Forever, LaterTwice, Stops),
)
