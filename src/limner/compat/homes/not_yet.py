"""Names that packs import at the top of a module and that stand for what Limner does not load yet.

`from … import Name` works, and so does a class derived from it or a test whether something is one. Making or calling
one raises LimnerError. A name here is written PART__Name, PART saying in the message what it belongs to, and
PART__node__Name where it is a node class that packs derive theirs from.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from limner.errors import LimnerError

PARTS = {
    "wan": "the Wan video family",
    "lightricks": "the LTX video family",
    "flux": "the Flux family",
    "chroma": "the Chroma family",
    "lumina": "the Lumina family",
    "minimax": "the MiniMax family",
    "anima": "the Anima family",
    "cosmos": "the Cosmos family",
    "mmdit": "the Stable Diffusion 3 family",
    "sd3": "the Stable Diffusion 3 family",
    "video": "video UNets",
    "controlnet": "control networks",
    "clip_vision": "vision models",
    "gligen": "GLIGEN",
    "unclip": "unCLIP models",
    "taehv": "tiny video autoencoders",
    "style": "style models",
    "upscale": "upscale models",
    "kernels": "quantised kernels",
    "te": "text encoders that are put together by hand instead of loaded",
    "cascade": "the Stable Cascade family",
    "config": "ComfyUI's own model configurations",
    "attention": "attention libraries that are not installed",
    "nodes": "nodes that Limner does not have yet",
    "training": "training",
}


class NotYet(type):
    """The class of the placeholders: making one, or calling what it has, says what is missing."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise LimnerError for a placeholder; a class derived from one is made as usual until it calls up."""
        if cls.__dict__.get("PART"):
            raise missing(cls.__name__, str(cls.__dict__["PART"]))
        return super().__call__(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        part = next((one.__dict__["PART"] for one in cls.__mro__ if one.__dict__.get("PART")), "")

        def method(*_: Any, **__: Any) -> Any:
            raise missing(f"{cls.__name__}.{name}", str(part))

        method.__name__ = name
        return method


def missing(name: str, part: str) -> LimnerError:
    """What using a placeholder says."""
    return LimnerError(
        f"{name} cannot be used yet.",
        why=f"It belongs to {PARTS.get(part, part)}, which this version of Limner does not support.",
        do="Use a node that does without it, or a later version.",
    )


@cache
def placeholder(name: str, part: str) -> type:
    """The class that stands for a name."""

    def init(self: Any, *_: Any, **__: Any) -> None:
        raise missing(type(self).__name__, part)

    return NotYet(name, (), {"PART": part, "__init__": init, "__doc__": f"{name}: not supported yet."})


@cache
def node_placeholder(name: str, part: str) -> type:
    """The class that stands for a V3 node: one derived from it that brings its own schema is a node like any other."""
    from limner.compat.v3.node import ComfyNode  # noqa: PLC0415 - only for the few nodes that packs derive from

    def refuse(cls: type, *_: Any, **__: Any) -> Any:
        raise missing(cls.__name__, part)

    body = {"define_schema": classmethod(refuse), "execute": classmethod(refuse), "__doc__": f"{name}: not yet."}
    return type(name, (ComfyNode,), body)


def __getattr__(name: str) -> Any:
    part, separator, what = name.partition("__")
    if not separator or part not in PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if what.startswith("node__"):
        return node_placeholder(what.removeprefix("node__"), part)
    return placeholder(what, part)
