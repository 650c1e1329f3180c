"""Built-in nodes of ComfyUI that Limner does not have yet: classes that can be imported, asked and subclassed.

They are no nodes: `/object_info` and NODE_CLASS_MAPPINGS do not have them. Running one says what it would need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from limner.compat.builtin import methods
from limner.compat.homes.not_yet import PARTS, NotYet, missing
from limner.compat.host import Host, current


class AbsentNode(NotYet):
    """The class of these classes: they can be made, since packs make nodes before they need them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """An instance."""
        return type.__call__(self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.__name__} has no {name}.")


@cache
def known() -> Mapping[str, Any]:
    """What is known of each: the part of Limner that it waits for, category, inputs, outputs and their names."""
    table: dict[str, Any] = json.loads(files(__package__).joinpath("absent_nodes.json").read_text(encoding="utf-8"))
    return table


def class_of_absent(host: Host, kind: str) -> type:
    """The class of a node that is not there yet, made once. Raises AttributeError for a kind that never was."""
    if kind not in known():
        raise AttributeError(f"There is no built-in node {kind}.")
    return host.part(f"absent.{kind}", lambda _: _make(kind))  # type: ignore[no-any-return]


def _make(kind: str) -> type:
    about = known()[kind]
    method = methods().get(kind, "execute")

    def refuse(*_: Any, **__: Any) -> Any:
        raise missing(kind, about["part"])

    def inputs(_: type) -> dict[str, Any]:
        return {
            section: {name: _spec(spec) for name, spec in specs.items()} for section, specs in about["input"].items()
        }

    body: dict[str, Any] = {
        "INPUT_TYPES": classmethod(inputs),
        "RETURN_TYPES": tuple(about["output"]),
        "FUNCTION": method,
        "CATEGORY": about["category"],
        method: refuse,
        "__module__": "nodes",
        "__doc__": f"{kind}, which belongs to {PARTS[about['part']]}.",
        "PART": about["part"],
    }
    if about["names"] != about["output"]:
        body["RETURN_NAMES"] = tuple(about["names"])
    return AbsentNode(kind, (), body)


def _spec(spec: Any) -> tuple[Any, ...]:
    """The form of an input; the files of a folder are listed as they are now."""
    if isinstance(spec, Mapping):
        return (list(current().store.folders.list(spec["folder"])),)
    return tuple(spec)
