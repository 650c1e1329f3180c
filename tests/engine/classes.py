"""A node source of small classes, as packs write them: for tests of the engine without `compat`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from limner.graph import Blocker, NodeResult, Port, Schema


class ClassSource:
    """Classes of ComfyUI's first form, by name. Just enough of the form for the engine's rules.

    A class may return a tuple, a dict of ui, result and expand, or a Blocker.
    """

    def __init__(self, classes: Mapping[str, type], replaces: frozenset[str] = frozenset()) -> None:
        self.classes = dict(classes)
        self.replaces = replaces
        self.made: list[str] = []

    def kinds(self) -> list[str]:
        return list(self.classes)

    def overrides(self, kind: str) -> bool:
        return kind in self.replaces

    def schema(self, kind: str) -> Schema | None:
        cls = self.classes.get(kind)
        if cls is None:
            return None
        spec = cls.INPUT_TYPES()
        ports = [
            make_port(name, one, section == "required")
            for section in ("required", "optional")
            for name, one in spec.get(section, {}).items()
        ]
        lists = getattr(cls, "OUTPUT_IS_LIST", (False,) * len(cls.RETURN_TYPES))
        names = {"checks": "VALIDATE_INPUTS", "changes_when": "IS_CHANGED", "lazy": "check_lazy_status"}
        validates = set()
        if hasattr(cls, "VALIDATE_INPUTS"):
            parameters = inspect.signature(cls.VALIDATE_INPUTS).parameters.values()
            validates = {"*" if one.kind is one.VAR_KEYWORD else one.name for one in parameters}
        return Schema(
            kind,
            "",
            tuple(ports),
            tuple(Port(one, one, is_list=lists[i]) for i, one in enumerate(cls.RETURN_TYPES)),
            hidden=spec.get("hidden", {}),
            output_node=getattr(cls, "OUTPUT_NODE", False) is True,
            input_is_list=getattr(cls, "INPUT_IS_LIST", False),
            not_idempotent=getattr(cls, "NOT_IDEMPOTENT", False),
            companions=frozenset(name for name, method in names.items() if hasattr(cls, method)),
            validates=frozenset(validates),
            asynchronous=inspect.iscoroutinefunction(getattr(cls, cls.FUNCTION)),
        )

    def describe(self, kind: str) -> dict[str, Any] | None:
        cls = self.classes.get(kind)
        return None if cls is None else {"name": kind, "input": cls.INPUT_TYPES()}

    def make(self, kind: str) -> Any:
        self.made.append(kind)
        return self.classes[kind]()

    def function(self, kind: str, instance: Any) -> Any:
        method = getattr(instance, self.classes[kind].FUNCTION)
        if not inspect.iscoroutinefunction(method):
            return lambda **inputs: as_result(method(**inputs))

        async def later(**inputs: Any) -> NodeResult:
            return as_result(await method(**inputs))

        return later

    def companion(self, kind: str, name: str, instance: Any) -> Any:
        cls = self.classes[kind]
        if name == "lazy":
            return getattr(instance, "check_lazy_status", None)
        return getattr(cls, "VALIDATE_INPUTS" if name == "checks" else "IS_CHANGED", None)


def make_port(name: str, spec: Any, required: bool) -> Port:
    """An input as INPUT_TYPES has it: `(type, options)`, options optional."""
    kind, options = (*spec, {})[:2]
    if isinstance(kind, list):
        return Port(name, "COMBO", required, options, choices=tuple(kind))
    return Port(name, kind, required, options)


def as_result(given: Any) -> NodeResult:
    """What a class returned, as the engine takes it."""
    if isinstance(given, Blocker):
        return NodeResult(blocked=given.message or "")
    if isinstance(given, dict):
        result = given.get("result", ())
        if isinstance(result, Blocker):
            return NodeResult(blocked=result.message or "", ui=given.get("ui", {}))
        return NodeResult(tuple(result), given.get("expand"), given.get("ui", {}))
    return NodeResult(tuple(given))
