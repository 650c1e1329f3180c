"""Constants of a prompt, held against the port they are for: conversion, bounds and choices (rules V8 to V10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from limner.graph.describe import choices_of, input_config
from limner.graph.prompt import clip, nearest
from limner.graph.registry import FileLookup
from limner.graph.schema import Port, Schema

Reason = dict[str, Any]
"""`{"type", "message", "details", "extra_info"}`."""

LONG_LIST = 20
"""A choice of more values than this is not written out in an error."""


def reason(kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    """An error about one node."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


OBJECT_KINDS = frozenset(
    {
        *("MODEL", "CLIP", "VAE", "CONTROL_NET", "CONDITIONING", "LATENT", "IMAGE", "MASK", "AUDIO"),
        *("SIGMAS", "SAMPLER", "GUIDER", "NOISE"),
    }
)
"""Kinds that only another node can give; a constant for one of them can never work."""


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


def _text(value: Any) -> str:
    if isinstance(value, (dict, tuple, list)):
        raise TypeError("a text is needed, not an object or a list")
    return str(value)


def _whole(value: Any) -> int:
    return int(value)


CONVERTERS: Mapping[str, tuple[type, Callable[[Any], Any]]] = {
    "INT": (int, _whole),
    "FLOAT": (float, _finite),
    "STRING": (str, _text),
    "BOOLEAN": (bool, bool),
}


def unwrap(value: Any) -> Any:
    """`{"__value__": x}` is x: how a client sends a value that would be read as something else (rule V8)."""
    return value["__value__"] if type(value) is dict and "__value__" in value else value


def convert(port: Port, value: Any, schema: Schema, files: FileLookup) -> tuple[Any, Reason | None]:
    """The value as the port's type (rule V8: "16" is 16, 1.7 is 1, any text is True), or why it cannot be."""
    wanted = CONVERTERS.get(port.kind)
    if wanted is None and (port.kind not in OBJECT_KINDS or (value is None and not port.required)):
        return value, None
    if wanted is not None and type(value) is wanted[0] and wanted[0] is not float:
        return value, None
    try:
        if wanted is None:
            raise TypeError(f"a {port.kind} comes from another node; link this input to one")
        return wanted[1](value), None
    except (TypeError, ValueError, OverflowError) as error:
        return value, reason(
            "invalid_input_type",
            f"Failed to convert an input value to a {port.kind} value",
            f"{port.name}, {clip(value)}, {clip(error)}",
            input_name=port.name,
            input_config=input_config(port, schema, files),
            received_value=shown(value),
            exception_message=clip(error),
        )


def out_of_range(port: Port, value: Any, schema: Schema, files: FileLookup) -> Reason | None:
    """Why the value is outside the port's bounds, or None."""
    if not isinstance(value, (int, float)):
        return None
    least, most = port.options.get("min"), port.options.get("max")
    if least is not None and value < least:
        kind, message = "value_smaller_than_min", f"Value {clip(value)} smaller than min of {least}"
    elif most is not None and value > most:
        kind, message = "value_bigger_than_max", f"Value {clip(value)} bigger than max of {most}"
    else:
        return None
    return reason(
        kind,
        message,
        port.name,
        input_name=port.name,
        input_config=input_config(port, schema, files),
        received_value=shown(value),
    )


def not_offered(port: Port, value: Any, schema: Schema, files: FileLookup) -> Reason | None:
    """Why the value is none of the port's choices, or None. The nearest names are in details and extra_info."""
    if port.choices is not None:
        if port.options.get("multiselect") and isinstance(value, (tuple, list)):
            wrong = [one for one in value if one not in port.choices]
            if not wrong:
                return None
            value = wrong[0]
        elif value in port.choices:
            return None
    elif files.accepts(port, value):
        return None
    offered = choices_of(port, files) or []
    if port.file_in is not None:
        return _no_such_file(port, value, offered)
    short = len(offered) <= LONG_LIST
    listed = str(offered) if short else f"(list of length {len(offered)})"
    near = nearest(value, [one for one in offered if isinstance(one, str)]) if isinstance(value, str) else []
    what = f"{port.name}: '{clip(value)}' not in {listed}"
    if near:
        what += f"; nearest: {', '.join(near)}"
    elif not offered and port.folder is not None:
        what += f"; there is no file in the model folder {port.folder}"
    return reason(
        "value_not_in_list",
        "Value not in list",
        what,
        input_name=port.name,
        input_config=input_config(port, schema, files) if short else None,
        received_value=shown(value),
        **({"nearest": near} if near else {}),
    )


def _no_such_file(port: Port, value: Any, offered: list[Any]) -> Reason:
    """A file that is not in its folder: nodes with file inputs have always checked this themselves (rule V11)."""
    near = nearest(value, offered) if isinstance(value, str) else []
    hint = f"; nearest: {', '.join(near)}" if near else ""
    what = "file" if port.suffixes else "image file"
    return reason(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"{port.name} - Invalid {what}: {clip(value)}{hint}",
        input_name=port.name,
        received_value=shown(value),
        **({"nearest": near} if near else {}),
    )


def shown(value: Any) -> Any:
    """A received value as an error may carry it: short, and valid in JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return clip(value, 1000)
    text = str(value)
    if len(text) > 1000 or "nan" in text or "inf" in text:
        return clip(text, 1000)
    return value
