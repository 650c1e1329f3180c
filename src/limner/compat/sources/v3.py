"""V3 classes as entries of a `NodeSource`: the schema, the call and the companions of one `ComfyNode` subclass.

How the pack source uses it (one object a class, kept as long as the class):

- `is_v3(cls)`: whether a class of a pack is one of these (a subclass of `limner.compat.v3.ComfyNode`).
- `V3Class(cls, kind="", python_module="")`: kind defaults to the schema's `node_id`; python_module to the class's
  `RELATIVE_PYTHON_MODULE`.
- `.kind`, `.title`: the node id and the display name (or None).
- `.schema()` and `.describe()`: a `graph.Schema`, and the entry of `/object_info`; both ask the class anew.
- `.make()`: what the engine keeps as the instance. V3 nodes have none; it is the class itself.
- `.function(instance)`: called with inputs and hidden inputs by keyword; gives a `NodeResult`, or an awaitable of one
  for an `async def execute`. Each call gets a fresh locked clone of the class (rule M8), which carries `hidden`.
- `.companion(name, instance)`: `checks` (validate_inputs), `changes_when` (fingerprint_inputs), `lazy`
  (check_lazy_status); None where the class has none of its own.
- `await extension_classes(module)`: calls a module's `comfy_entrypoint`, then `on_load` and `get_node_list` of what it
  gives, and returns the classes; raises what the pack raises, and BadInput for another form.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from limner.compat.v3 import dynamic
from limner.compat.v3.base import Input
from limner.compat.v3.internal import first_real_override
from limner.compat.v3.node import ComfyExtension, ComfyNode, NodeOutput
from limner.compat.v3.schema import Schema as NodeSchema
from limner.compat.v3.schema import shown_name
from limner.errors import BadInput
from limner.graph import Blocker, NodeResult, Port, Schema
from limner.graph.source import APART, CompanionName

_HIDDEN = APART
"""Hidden values travel under names of their own: a node may have an input `prompt` beside the hidden prompt."""
ASYNC = "EXECUTE_NORMALIZED_ASYNC"
_METHODS: Mapping[CompanionName, str] = {
    "checks": "validate_inputs",
    "changes_when": "fingerprint_inputs",
    "lazy": "check_lazy_status",
}


def is_v3(cls: Any) -> bool:
    """Whether a class is a V3 node."""
    return isinstance(cls, type) and issubclass(cls, ComfyNode)


class V3Class:
    """One V3 class of a pack. kind: its name in prompts, its `node_id` unless the pack lists it under another."""

    def __init__(self, cls: Any, kind: str = "", python_module: str = "") -> None:
        self.cls = cls
        self._python_module = python_module
        self._companions: dict[CompanionName, Callable[..., Any]] = {}
        schema = cls.GET_SCHEMA()
        self.kind: str = kind or schema.node_id
        self.title: str | None = schema.display_name

    @property
    def python_module(self) -> str:
        """Where the class comes from, as descriptions say it."""
        return self._python_module or str(self.cls.RELATIVE_PYTHON_MODULE or "nodes")

    def schema(self) -> Schema:
        """The schema as it is now. Raises what `define_schema` raises."""
        node: NodeSchema = self.cls.FINALIZE_SCHEMA()
        ports = tuple(_port(one) for one in dynamic.ports_of(node.inputs))
        companions = {name for name in _METHODS if self._own(name)}
        if any(port.lazy for port in ports):
            companions.add("lazy")
        more: dict[str, Any] = {"more": Port("*", "*", required=False)} if node.accept_all_inputs else {}
        return Schema(
            kind=self.kind,
            home="",
            inputs=ports,
            outputs=tuple(_output(one) for one in node.outputs),
            hidden={_HIDDEN + one.name: one.value for one in node.hidden},
            title=node.display_name or "",
            category=node.category,
            description=node.description or "",
            python_module=self.python_module,
            style="v3",
            output_node=node.is_output_node is True,
            input_is_list=bool(node.is_input_list),
            not_idempotent=bool(node.not_idempotent),
            deprecated=bool(node.is_deprecated),
            experimental=bool(node.is_experimental),
            companions=frozenset(companions),
            validates=self._validates(ports) if "checks" in companions else frozenset(),
            asynchronous=self.cls.FUNCTION == ASYNC,
            **more,
        )

    def _validates(self, ports: Sequence[Port]) -> frozenset[str]:
        """The inputs that validate_inputs takes over: those it names; all for `**kwargs`."""
        parameters = inspect.signature(self.cls.validate_inputs).parameters.values()
        named = {one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        if any(one.kind is one.VAR_KEYWORD for one in parameters):
            return frozenset(named | {port.name for port in ports})
        return frozenset(named | {port.name for port in ports if port.name.partition(".")[0] in named})

    def describe(self) -> dict[str, Any]:
        """The entry of `/object_info`."""
        entry: dict[str, Any] = self.cls.GET_NODE_INFO_V1()
        entry["input"] = {
            section: {name: list(port) for name, port in ports.items()} for section, ports in entry["input"].items()
        }
        return {**entry, "name": self.kind, "python_module": self.python_module}

    def make(self) -> Any:
        """The class: V3 nodes have no instances."""
        return self.cls

    def function(self, instance: Any) -> Callable[..., Any]:
        """What one mapped call calls: `execute` of a fresh locked clone (rule M8)."""
        del instance
        cls = self.cls
        schema: NodeSchema = cls.FINALIZE_SCHEMA()
        count = len(schema.outputs)

        def prepared(given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
            values, hidden = _apart(given)
            return cls.PREPARE_CLASS_CLONE({"hidden_inputs": hidden}), dynamic.folded(schema.inputs, values)

        if cls.FUNCTION == ASYNC:

            async def call_async(**given: Any) -> NodeResult:
                clone, values = prepared(given)
                return as_result(await clone.EXECUTE_NORMALIZED_ASYNC(**values), count)

            return call_async

        def call(**given: Any) -> NodeResult:
            clone, values = prepared(given)
            return as_result(clone.EXECUTE_NORMALIZED(**values), count)

        return call

    def _own(self, name: CompanionName) -> bool:
        return first_real_override(self.cls, _METHODS[name], base=ComfyNode) is not None

    def companion(self, name: CompanionName, instance: Any | None) -> Callable[..., Any] | None:
        """The companion, or None. It is one object as long as this adapter, with the signature of the class's own."""
        del instance
        if name != "lazy" and not self._own(name):
            return None
        if name not in self._companions:
            self._companions[name] = self._companion(name)
        return self._companions[name]

    def _companion(self, name: CompanionName) -> Callable[..., Any]:
        cls, method = self.cls, _METHODS[name]
        schema: NodeSchema = cls.FINALIZE_SCHEMA()
        signature = inspect.signature(getattr(cls, method))
        takes_all = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
        has_slots = any(isinstance(one, dynamic.Slots) for one in schema.inputs)

        def companion(**given: Any) -> Any:
            values, hidden = _apart(given)
            if has_slots:
                values = dynamic.folded(schema.inputs, _named(values, schema.inputs) if name == "lazy" else values)
                if not takes_all:
                    values = {key: value for key, value in values.items() if key in signature.parameters}
            return getattr(cls.PREPARE_CLASS_CLONE({"hidden_inputs": hidden}), method)(**values)

        companion.__signature__ = _told(signature, schema, takes_all or has_slots)  # type: ignore[attr-defined]
        return companion


def _told(signature: inspect.Signature, schema: NodeSchema, takes_all: bool) -> inspect.Signature:
    """The signature by which the engine chooses what to give: the class's own, and the hidden values."""
    kinds = inspect.Parameter
    own = [
        one for one in signature.parameters.values() if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]
    if takes_all:
        return inspect.Signature([kinds("given", kinds.VAR_KEYWORD)])
    hidden = [kinds(_HIDDEN + one.name, kinds.KEYWORD_ONLY, default=None) for one in schema.hidden]
    return inspect.Signature([*(one.replace(kind=kinds.KEYWORD_ONLY) for one in own), *hidden])


def _apart(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs, and hidden values by their own names. A node that takes whole lists gets each of these in a list."""
    values = {name: value for name, value in given.items() if not name.startswith(_HIDDEN)}
    hidden = {name[len(_HIDDEN) :]: value for name, value in given.items() if name.startswith(_HIDDEN)}
    return values, {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in hidden.items()
    }


def _named(values: Mapping[str, Any], inputs: Sequence[Input]) -> dict[str, Any]:
    """Values behind dynamic inputs as (value, name in the prompt), by which a node asks for those that are lazy."""
    starts = tuple(f"{one.id}." for one in inputs if isinstance(one, dynamic.Slots))
    return {name: (value, name) if name.startswith(starts) else value for name, value in values.items()}


def as_result(output: NodeOutput, count: int) -> NodeResult:
    """What a node gave in the engine's form. count: how many outputs it has."""
    ui = output.ui
    if hasattr(ui, "as_dict"):
        ui = ui.as_dict()
    if output.block_execution is not None:
        return NodeResult((Blocker(output.block_execution),) * count, output.expand, ui or {})
    values = output.args[:count] + (None,) * (count - len(output.args))
    return NodeResult(values, output.expand, ui or {})


def _port(one: Input) -> Port:
    """An input as the engine sees it. A choice is not held against its values (rule V10), they may change meanwhile."""
    options = one.as_dict()
    tooltip = str(options.pop("tooltip", "") or "")
    return Port(one.id, dynamic.wire_kind(one), not one.optional, options, tooltip=tooltip)


def _output(one: Any) -> Port:
    kind = dynamic.wire_kind(one)
    choices = tuple(kind) if isinstance(kind, list) else None
    return Port(
        shown_name(one),
        "COMBO" if choices is not None else kind,
        choices=choices,
        is_list=bool(one.is_output_list),
        tooltip=one.tooltip or "",
    )


async def extension_classes(module: ModuleType) -> list[Any]:
    """The node classes of a module that has a `comfy_entrypoint`, its `on_load` done.

    Raises what the pack raises, and BadInput when it gives something else than an extension with classes.
    """
    found = module.comfy_entrypoint()
    extension = await found if inspect.isawaitable(found) else found
    if not isinstance(extension, ComfyExtension):
        raise BadInput(
            f"comfy_entrypoint of {module.__name__} gave {type(extension).__name__}.",
            why="It must give a ComfyExtension.",
        )
    loading = extension.on_load()
    if inspect.isawaitable(loading):
        await loading
    listed: Any = extension.get_node_list()
    classes = await listed if inspect.isawaitable(listed) else listed
    wrong = [one for one in classes if not kind_of(one)] if isinstance(classes, (list, tuple)) else [classes]
    if wrong:
        raise BadInput(
            f"get_node_list of {type(extension).__name__} gave {wrong[0]!r}.",
            why="It must give a list of subclasses of io.ComfyNode.",
        )
    return list(classes)


def kind_of(cls: Any) -> str:
    """The kind of a class in an extension's list, "" for what is no node.

    Packs that are half way to V3 list V1 classes that only have a GET_SCHEMA, with `node_id` and `display_name`.
    """
    if is_v3(cls):
        return str(V3Class(cls).kind)
    describe = getattr(cls, "GET_SCHEMA", None) if inspect.isclass(cls) else None
    return str(getattr(describe(), "node_id", "") or "") if callable(describe) else ""


def title_of(cls: Any) -> str:
    """The title of a class in an extension's list, "" where it has none."""
    return str((V3Class(cls).title if is_v3(cls) else getattr(cls.GET_SCHEMA(), "display_name", "")) or "")
