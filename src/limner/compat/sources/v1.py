"""V1 classes as entries of a `NodeSource`: INPUT_TYPES, RETURN_TYPES, FUNCTION and the rest of ComfyUI's protocol.

Everything is asked anew each time: packs change their classes, and INPUT_TYPES lists files.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from limner.engine.plain import plain
from limner.errors import LimnerError
from limner.graph import Blocker, NodeResult, Port, Schema
from limner.graph.source import CompanionName

MARKERS = frozenset(("PROMPT", "DYNPROMPT", "EXTRA_PNGINFO", "UNIQUE_ID", "AUTH_TOKEN_COMFY_ORG", "API_KEY_COMFY_ORG"))
ANY_NAME = "limner asks whether any name is an input"
MOST_OUTPUTS = 128
"""Outputs of a class whose RETURN_TYPES answers for every index."""
_COMPANIONS: Mapping[CompanionName, str] = {
    "checks": "VALIDATE_INPUTS",
    "changes_when": "IS_CHANGED",
    "lazy": "check_lazy_status",
}


class V1Class:
    """One class of a pack. kind: its name in prompts. title: what it is called, "" for its kind."""

    def __init__(self, cls: Any, kind: str, title: str = "", python_module: str = "") -> None:
        self.cls = cls
        self.kind = kind
        self.title = title
        self._python_module = python_module

    @property
    def python_module(self) -> str:
        """Where the class comes from, as descriptions say it."""
        return self._python_module or str(getattr(self.cls, "RELATIVE_PYTHON_MODULE", "nodes"))

    def input_types(self) -> Mapping[str, Mapping[str, Any]]:
        """What INPUT_TYPES gives now. Raises what it raises, and LimnerError when that is no mapping."""
        found = self.cls.INPUT_TYPES()
        if not isinstance(found, Mapping):
            raise LimnerError(f"{self.kind}: INPUT_TYPES gives {type(found).__name__}, not a dict.")
        return found

    def schema(self) -> Schema:
        """The schema as it is now."""
        cls = self.cls
        types = self.input_types()
        hidden: dict[str, str] = {}
        inputs = [_port(name, spec, required=True) for name, spec in (types.get("required") or {}).items()]
        optional = types.get("optional")
        inputs += [_port(name, spec, required=False) for name, spec in (optional or {}).items()]
        for name, spec in (types.get("hidden") or {}).items():
            marker = spec[0] if isinstance(spec, list | tuple) and spec else spec
            if isinstance(marker, str) and str.__str__(marker) in MARKERS:
                hidden[name] = str.__str__(marker)
            else:  # a value that clients may send without an input that shows it
                inputs.append(Port(name, "*", required=False))
        companions = {name for name, attribute in _COMPANIONS.items() if hasattr(cls, attribute)}
        return Schema(
            kind=self.kind,
            home="",
            inputs=tuple(inputs),
            outputs=self._outputs(),
            hidden=hidden,
            title=self.title or self.kind,
            category=str(getattr(cls, "CATEGORY", "sd")),
            description=str(getattr(cls, "DESCRIPTION", "") or ""),
            python_module=self.python_module,
            output_node=getattr(cls, "OUTPUT_NODE", False) is True,
            input_is_list=bool(getattr(cls, "INPUT_IS_LIST", False)),
            not_idempotent=bool(getattr(cls, "NOT_IDEMPOTENT", False)),
            deprecated=bool(getattr(cls, "DEPRECATED", False)),
            experimental=bool(getattr(cls, "EXPERIMENTAL", False)),
            companions=frozenset(companions),
            asynchronous=inspect.iscoroutinefunction(getattr(cls, str(getattr(cls, "FUNCTION", "")), None)),
            validates=self._validates() if "checks" in companions else frozenset(),
            **_more(optional),
        )

    def _types(self) -> Any:
        return getattr(self.cls, "RETURN_TYPES", None) or ()

    def _count(self) -> int:
        """How many outputs there are; many for a tuple of a pack's own that answers for every index."""
        types = self._types()
        magic = isinstance(types, tuple) and type(types).__getitem__ is not tuple.__getitem__
        return max(len(types), MOST_OUTPUTS) if magic else len(types)

    def _outputs(self) -> tuple[Port, ...]:
        types = self._types()
        names = getattr(self.cls, "RETURN_NAMES", None) or ()
        lists = getattr(self.cls, "OUTPUT_IS_LIST", None) or ()
        ports = []
        for index in range(self._count()):
            kind = _kind(types[index])
            choices = tuple(kind) if isinstance(kind, list | tuple) else None
            name = names[index] if index < len(names) else (kind if choices is None else "COMBO")
            is_list = bool(lists[index]) if index < len(lists) else False
            ports.append(Port(str(name), "COMBO" if choices is not None else kind, choices=choices, is_list=is_list))
        return tuple(ports)

    def _validates(self) -> frozenset[str]:
        """The inputs that VALIDATE_INPUTS takes over: those it names; `*`, all of them, for `**kwargs`."""
        parameters = inspect.signature(self.cls.VALIDATE_INPUTS).parameters.values()
        named = {one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        if any(one.kind is one.VAR_KEYWORD for one in parameters):
            named.add("*")
        return frozenset(named)

    def describe(self) -> dict[str, Any]:
        """The entry of `/object_info`: what the class says, as it says it."""
        cls = self.cls
        types = self.input_types()
        returns = list(self._types())
        entry: dict[str, Any] = {
            "input": types,
            "input_order": {section: list(specs or ()) for section, specs in types.items()},
            "output": returns,
            "output_is_list": list(getattr(cls, "OUTPUT_IS_LIST", None) or [False] * len(returns)),
            "output_name": list(getattr(cls, "RETURN_NAMES", None) or returns),
            "name": self.kind,
            "display_name": self.title or self.kind,
            "description": getattr(cls, "DESCRIPTION", "") or "",
            "python_module": self.python_module,
            "category": getattr(cls, "CATEGORY", "sd"),
            "output_node": getattr(cls, "OUTPUT_NODE", False) is True,
        }
        if hasattr(cls, "OUTPUT_TOOLTIPS"):
            entry["output_tooltips"] = cls.OUTPUT_TOOLTIPS
        for key, attribute in (("deprecated", "DEPRECATED"), ("experimental", "EXPERIMENTAL")):
            if getattr(cls, attribute, False):
                entry[key] = True
        if hasattr(cls, "API_NODE"):
            entry["api_node"] = cls.API_NODE
        return {key: plain(value) for key, value in entry.items()}

    def make(self) -> Any:
        """A new instance."""
        return self.cls()

    def function(self, instance: Any) -> Callable[..., Any]:
        """What one mapped call calls: the method that FUNCTION names, its return made a `NodeResult`."""
        method = getattr(instance, self.cls.FUNCTION)
        if inspect.iscoroutinefunction(method):

            async def call_async(**inputs: Any) -> NodeResult:
                return self.result(await method(**inputs))

            return call_async

        def call(**inputs: Any) -> Any:
            returned = method(**inputs)
            return self._awaited(returned) if inspect.isawaitable(returned) else self.result(returned)

        return call

    async def _awaited(self, returned: Any) -> NodeResult:
        return self.result(await returned)

    def companion(self, name: CompanionName, instance: Any | None) -> Callable[..., Any] | None:
        """The companion, or None. `check_lazy_status` is a method of the instance, the others are the class's."""
        owner = instance if name == "lazy" and instance is not None else self.cls
        found = getattr(owner, _COMPANIONS[name], None)
        if found is None or name != "changes_when":
            return found

        def changes_when(**inputs: Any) -> Any:
            return found(**inputs)  # every input, as ComfyUI does: a signature that lacks some raises

        return changes_when

    def result(self, returned: Any) -> NodeResult:
        """A return value of the class in the engine's form (python_surface §2, return forms)."""
        if isinstance(returned, NodeResult):
            return returned
        if isinstance(returned, Blocker):
            return NodeResult(self._values(returned))
        if isinstance(returned, dict):
            values = self._values(returned["result"]) if "result" in returned else self._missing()
            return NodeResult(values, returned.get("expand"), returned.get("ui") or {})
        return NodeResult(self._values(returned))

    def _missing(self) -> tuple[Any, ...]:
        return (None,) * self._count()

    def _values(self, returned: Any) -> tuple[Any, ...]:
        count = self._count()
        if isinstance(returned, Blocker):
            return (returned,) * count
        # Raises TypeError for None and anything else that has no length, as ComfyUI does.
        values = tuple(returned[index] for index in range(len(returned)))
        return values[:count] + (None,) * (count - len(values))


def _more(optional: Any) -> dict[str, Any]:
    """The form of undeclared inputs, for classes whose `optional` claims to hold every name."""
    if type(optional) is dict or optional is None or ANY_NAME not in optional:
        return {}
    return {"more": _port(ANY_NAME, optional[ANY_NAME], required=False)}


def _port(name: str, spec: Any, *, required: bool) -> Port:
    """The port of one input: `(type, options)`, options optional."""
    parts = spec if isinstance(spec, list | tuple) else (spec,)
    if not parts:
        raise LimnerError(f"The input {name} has no type.", do="Its value in INPUT_TYPES must be (type, options).")
    kind = parts[0]
    options = parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}
    tooltip = options.get("tooltip") or ""
    options = {key: value for key, value in options.items() if key != "tooltip"}
    if isinstance(kind, list | tuple):
        choices = tuple(one.value if isinstance(one, Enum) else one for one in kind)
        return Port(name, "COMBO", required, options, choices=choices, tooltip=str(tooltip))
    kind = _kind(kind)
    return Port(name, kind, required, options, tooltip=str(tooltip))


def _kind(kind: Any) -> Any:
    """A type as text; a list of choices as it is, and a text with a comparison of its own too."""
    if isinstance(kind, Enum):
        kind = kind.value
    if isinstance(kind, str) and type(kind).__hash__ is None:
        # Equal to everything and therefore without a hash; the engine looks kinds up in sets.
        cls = type(type(kind).__name__, (type(kind),), {"__hash__": str.__hash__})
        return str.__new__(cls, kind)
    return kind if isinstance(kind, str | list | tuple) else str(kind)
