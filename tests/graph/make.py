"""Makers for tests of the graph: schemas and prompts of a line."""

from __future__ import annotations

from typing import Any

from limner.graph import Link, NodeCall, Port, Schema, SchemaTable


def port(name: str, kind: str = "STRING", **more: Any) -> Port:
    """An input or output."""
    return Port(name, kind, **more)


def schema(kind: str, *inputs: Port, outputs: tuple[str, ...] = ("STRING",), **more: Any) -> Schema:
    """A node kind with outputs of these kinds."""
    return Schema(kind, f"nowhere:{kind}", inputs, tuple(Port(one, one) for one in outputs), **more)


def table(*more: Schema) -> SchemaTable:
    """Text, Join and Show, and further kinds."""
    return SchemaTable(
        [
            schema("Text", port("text")),
            schema("Join", port("a"), port("b")),
            schema("Show", port("source", "*"), outputs=(), output_node=True),
            *more,
        ]
    )


def call(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of an API prompt."""
    return {"class_type": kind, "inputs": inputs}


def chain(*ids: str, kind: str = "Text") -> dict[str, NodeCall]:
    """Calls where each takes the one before it; the last is an output."""
    links = [None, *ids]
    return {
        node: NodeCall(kind, {"text": "" if before is None else Link(before, 0)})
        for before, node in zip(links, ids, strict=False)
    }


def ladder(size: int) -> dict[str, Any]:
    """The JSON of a chain of `size` texts that ends in a Show named `end`."""
    made = {"0": call("Text", text="start")}
    made |= {str(i): call("Text", text=[str(i - 1), 0]) for i in range(1, size)}
    return made | {"end": call("Show", source=[str(size - 1), 0])}
