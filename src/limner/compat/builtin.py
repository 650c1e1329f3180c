"""Limner's own nodes as the V1 classes that packs call, subclass and patch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

from limner.compat.host import Host, current
from limner.engine.files import StoreFiles
from limner.graph import NodeFunction, NodeResult, Schema, Ui
from limner.graph.describe import describe_input


@cache
def methods() -> Mapping[str, str]:
    """The name of the method of each class, where it is not `execute`.

    Behind it the names of its first parameters, where these come in another order than the schema's inputs.
    """
    table: dict[str, str] = json.loads(files(__package__).joinpath("methods.json").read_text(encoding="utf-8"))
    return table


class BuiltinMeta(type):
    """The class of these classes: it notes what packs replace in them, so that the engine uses the replacement."""

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if "KIND" in vars(cls) and name not in ("patched", "RELATIVE_PYTHON_MODULE") and not name.startswith("__"):
            super().__setattr__("patched", True)


class BuiltinNode(metaclass=BuiltinMeta):
    """The base of the generated classes. patched: whether a pack has replaced an attribute."""

    KIND = ""
    patched = False

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs as ComfyUI's classes tell them, lists of files as they are now."""
        return input_types(schema_of(cls.KIND), current())


def schema_of(kind: str) -> Schema:
    """The built-in schema of a kind, lists as packs have made them. Raises AttributeError when there is none."""
    host = current()
    schema = builtin_schema(host, kind)
    if schema is None:
        raise AttributeError(f"There is no built-in node {kind}.")
    return live(schema, host)


def live(schema: Schema, host: Host) -> Schema:
    """The schema with the names of samplers and schedulers that there are now: packs add to the lists of `KSampler`."""
    module = sys.modules.get("limner.sampling.ksampler")
    sampler = None if module is None else builtin_schema(host, "KSampler")
    if module is None or sampler is None:
        return schema
    lists: dict[tuple[Any, ...] | None, tuple[Any, ...] | None] = {
        port.choices: tuple(now)
        for name, now in (("sampler_name", module.KSampler.SAMPLERS), ("scheduler", module.KSampler.SCHEDULERS))
        if (port := sampler.input(name)) is not None and port.choices is not None and port.choices != tuple(now)
    }
    if not any(port.choices in lists for port in schema.inputs):
        return schema
    return replace(
        schema, inputs=tuple(replace(port, choices=lists.get(port.choices, port.choices)) for port in schema.inputs)
    )


def is_live(kind: str, host: Host) -> bool:
    """Whether a built-in kind offers names that packs have added."""
    schema = builtin_schema(host, kind)
    return schema is not None and live(schema, host) is not schema


def builtin_schema(host: Host, kind: str) -> Schema | None:
    """The schema of a built-in kind, whatever packs have made of it."""
    schema: Schema | None = host.registry.get(kind)
    return schema


def input_types(schema: Schema, host: Host) -> dict[str, Any]:
    """INPUT_TYPES of a schema."""
    lookup = StoreFiles(host.store)
    sections: dict[str, dict[str, Any]] = {"required": {}}
    for port in schema.inputs:
        section = sections.setdefault("required" if port.required else "optional", {})
        section[port.name] = tuple(describe_input(port, schema, lookup))
    if schema.hidden:
        sections["hidden"] = dict(schema.hidden)
    return sections


def make_class(schema: Schema) -> type:
    """The class of a built-in kind."""
    names = [port.name for port in schema.outputs]
    kinds = tuple(list(port.choices) if port.choices else port.kind for port in schema.outputs)
    method, *first = methods().get(schema.kind, "execute").split()
    body: dict[str, Any] = {
        "KIND": schema.kind,
        "RETURN_TYPES": kinds,
        "FUNCTION": method,
        "CATEGORY": schema.category,
        "DESCRIPTION": schema.description,
        "OUTPUT_NODE": schema.output_node,
        "__module__": "nodes",
        "__doc__": schema.description or f"The node {schema.kind}.",
        method: make_method(schema, method, first),
    }
    if method != "execute":
        body["execute"] = body[method]
    if any(name != kind for name, kind in zip(names, kinds, strict=True)):
        body["RETURN_NAMES"] = tuple(names)
    if any(port.is_list for port in schema.outputs):
        body["OUTPUT_IS_LIST"] = tuple(port.is_list for port in schema.outputs)
    for attribute, value in (
        ("INPUT_IS_LIST", schema.input_is_list),
        ("DEPRECATED", schema.deprecated),
        ("EXPERIMENTAL", schema.experimental),
        ("NOT_IDEMPOTENT", schema.not_idempotent),
    ):
        if value:
            body[attribute] = True
    body.update(_companions(schema))
    if schema.python_module != "nodes":
        body["RELATIVE_PYTHON_MODULE"] = schema.python_module
    return BuiltinMeta(schema.kind, (BuiltinNode,), body)


def make_method(schema: Schema, name: str, first: Sequence[str] = ()) -> Callable[..., Any]:
    """The method: inputs by name or in order (`first`, then the schema's), then hidden ones; ComfyUI's return forms."""
    order = list(dict.fromkeys([*first, *(port.name for port in schema.inputs), *schema.hidden]))

    def method(*args: Any, **kwargs: Any) -> Any:
        # Called on an instance or on the class: V3 nodes of ComfyUI have class methods.
        if args and _is_node(args[0]):
            args = args[1:]
        if len(args) > len(order):
            raise TypeError(f"{schema.kind}.{name} takes {len(order)} inputs, {len(args)} were given.")
        return call_builtin(schema, {**dict(zip(order, args, strict=False)), **kwargs})

    method.__name__ = name
    method.__qualname__ = f"{schema.kind}.{name}"
    method.__doc__ = schema.description or f"Run the node {schema.kind}."
    return _OnBoth(method) if name == "execute" else method  # type: ignore[return-value]  # a descriptor


def _is_node(value: Any) -> bool:
    """Whether a first argument is what the method is called on: packs also lend it to nodes of their own."""
    cls = value if isinstance(value, type) else type(value)
    return issubclass(cls, BuiltinNode) or (hasattr(cls, "INPUT_TYPES") and hasattr(cls, "FUNCTION"))


class _OnBoth:
    """A method that works on the class as on an instance."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return self._function


def call_builtin(schema: Schema, given: Mapping[str, Any]) -> Any:
    """Call the function of a built-in node; what it returns is a tuple, or a dict with `ui`.

    Raises TypeError for an input that is missing or unknown.
    """
    host = current()
    module, _, attribute = schema.home.partition(":")
    node: NodeFunction[..., Any] = getattr(import_module(module), attribute)
    values = dict(given)
    for port in schema.inputs:
        if port.name not in values and "default" in port.options and port.required:
            values[port.name] = port.options["default"]
    known = {port.name for port in schema.inputs} | set(schema.hidden)
    if unknown := values.keys() - known:
        raise TypeError(f"{schema.kind} has no input {', '.join(sorted(unknown))}.")
    hidden = {marker: values.get(name) for name, marker in schema.hidden.items()}
    if schema.run_parameter:
        values[schema.run_parameter] = host.run(hidden.get("PROMPT"), hidden.get("EXTRA_PNGINFO"))
    return as_v1(node.function(**values), schema)


def as_v1(result: Any, schema: Schema) -> Any:
    """What a built-in function returned, as V1 classes return it."""
    if isinstance(result, Ui):
        return {"ui": dict(result.ui), "result": tuple(result.values)} if result.values else {"ui": dict(result.ui)}
    if isinstance(result, NodeResult):
        plain: dict[str, Any] = {"result": tuple(result.values)}
        if result.ui:
            plain["ui"] = dict(result.ui)
        if result.expansion is not None:
            plain["expand"] = result.expansion
        return plain if len(plain) > 1 else plain["result"]
    if not schema.outputs:
        return ()
    if len(schema.outputs) == 1 and not hasattr(result, "_fields"):
        return (result,)
    return tuple(result)


def _companions(schema: Schema) -> dict[str, Any]:
    """IS_CHANGED, VALIDATE_INPUTS and check_lazy_status where the function has these companions."""
    found: dict[str, Any] = {}
    names = {"changes_when": "IS_CHANGED", "checks": "VALIDATE_INPUTS", "lazy": "check_lazy_status"}
    for companion in schema.companions:
        call = _companion(schema, companion)
        found[names[companion]] = call if companion == "lazy" else classmethod(call)
    return found


def _companion(schema: Schema, name: str) -> Callable[..., Any]:
    def call(_owner: Any, *args: Any, **values: Any) -> Any:
        from limner.engine.executors.functions import call_companion  # noqa: PLC0415 - only nodes with companions

        module, _, attribute = schema.home.partition(":")
        node: NodeFunction[..., Any] = getattr(import_module(module), attribute)
        order = [port.name for port in schema.inputs]
        given = {**dict(zip(order, args, strict=False)), **values}
        return call_companion(node.companions[name], given, current().run)

    return call


def class_of(host: Host, kind: str) -> type:
    """The class of a built-in kind, made once. Raises AttributeError when there is no such node."""
    found = host.tables.builtins.get(kind)
    if found is None:
        schema = builtin_schema(host, kind)
        if schema is None:
            raise AttributeError(f"There is no built-in node {kind}.")
        found = host.tables.builtins[kind] = make_class(schema)
    return found


def fill_tables(host: Host) -> None:
    """Put every built-in class into NODE_CLASS_MAPPINGS and its title into NODE_DISPLAY_NAME_MAPPINGS, once."""
    if host.parts.get("nodes.filled"):
        return
    host.parts["nodes.filled"] = True
    registry = host.registry
    for kind in registry.kinds():
        schema = builtin_schema(host, kind)
        if schema is not None:
            host.tables.classes.setdefault(kind, class_of(host, kind))
            if schema.title:
                host.tables.titles.setdefault(kind, schema.title)
