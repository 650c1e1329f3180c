"""Schemas as the front end reads them: the entries of /object_info, field by field as ComfyUI lays them out."""

from __future__ import annotations

from typing import Any

from limner.graph.registry import FileLookup, NoFiles
from limner.graph.schema import Port, Schema


def describe(schema: Schema, files: FileLookup | None = None) -> dict[str, Any]:
    """The object_info entry of a node kind; file choices come from `files`."""
    lookup = NoFiles() if files is None else files
    inputs: dict[str, dict[str, Any]] = {}
    for port in schema.inputs:
        section = "required" if port.required else "optional"
        inputs.setdefault(section, {})[port.name] = describe_input(port, schema, lookup)
    inputs = {section: inputs[section] for section in ("required", "optional") if section in inputs}
    inputs.setdefault("required", {})
    if schema.hidden:
        as_list = schema.style == "v3"
        inputs["hidden"] = {name: [marker] if as_list else marker for name, marker in schema.hidden.items()}
    entry: dict[str, Any] = {
        "input": inputs,
        "input_order": {section: list(ports) for section, ports in inputs.items()},
        "output": [port.kind if port.choices is None else list(port.choices) for port in schema.outputs],
        "output_is_list": [port.is_list for port in schema.outputs],
        "output_name": [port.name for port in schema.outputs],
        "name": schema.kind,
        "display_name": schema.title or (None if schema.style == "v3" else schema.kind),
        "description": schema.description,
        "python_module": schema.python_module,
        "category": schema.category,
        "output_node": schema.output_node,
    }
    return {**entry, **_flags(schema)}


def _flags(schema: Schema) -> dict[str, Any]:
    """What a v3 node always says and a v1 node only where there is something to say."""
    tooltips = [port.tooltip or None for port in schema.outputs]
    if schema.style == "v3":
        return {
            "output_tooltips": tooltips,
            "deprecated": schema.deprecated,
            "experimental": schema.experimental,
            "api_node": False,
        }
    flags: dict[str, Any] = {}
    if any(tooltips):
        flags["output_tooltips"] = tooltips
    if schema.deprecated:
        flags["deprecated"] = True
    if schema.experimental:
        flags["experimental"] = True
    return flags


def describe_input(port: Port, schema: Schema, files: FileLookup) -> list[Any]:
    """`[type, options]` of one input; a v1 input without options and tooltip is `[type]`."""
    kind, options = input_config(port, schema, files)
    return [kind, options] if options or schema.style == "v3" else [kind]


def input_config(port: Port, schema: Schema, files: FileLookup) -> list[Any]:
    """`[type, options]` of one input, options always there: what errors carry.

    A v1 choice's type is the list of its values; a v3 choice's is COMBO, with the values among the options.
    """
    options = dict(port.options)
    if port.tooltip:
        options["tooltip"] = port.tooltip
    values = choices_of(port, files)
    if values is None:
        return [port.kind, options]
    if schema.style == "v3":
        return ["COMBO", {"multiselect": False, **options, "options": list(values)}]
    if "remote" in options or "options" in options:
        return ["COMBO", options]
    return [list(values), options]


def choices_of(port: Port, files: FileLookup) -> list[Any] | None:
    """The values of a choice, None for an input that is no choice."""
    if port.choices is not None:
        return list(port.choices)
    if port.folder is not None or port.file_in is not None:
        return list(files.choices(port))
    return None
