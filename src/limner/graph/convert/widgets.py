"""The values of a node's widgets, by name, from the list or dict that the front end saved.

A saved list holds one value a widget in the order of the schema, and behind some widgets what the front end adds of its
own: what to do with a seed after the run, a filter for a long choice. Those are told by the rules below and dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limner.graph.convert.workflow import UiNode
from limner.graph.schema import Port, Schema

WIDGET_KINDS = frozenset(
    """
    INT FLOAT STRING BOOLEAN COMBO MARKDOWN TEXTAREA COLOR COLORS CURVE RANGE CHART GALLERIA IMAGECOMPARE BOUNDING_BOX
    BOUNDING_BOXES PAINTER COMPOSITOR VIDEO_EDIT RESOLUTION_PREVIEW LIGHT_INFO_PREVIEW IMAGEUPLOAD AUDIOUPLOAD
    AUDIO_UI AUDIO_RECORD WEBCAM LOAD_3D LOAD_3D_ADVANCED PREVIEW_3D CAMERA_INFO_STATE CAMERA_ANGLE_VIEW
    COMFY_DYNAMICCOMBO_V3 COMFY_DYNAMICGROUP_V3
    """.split()  # noqa: SIM905 - a list of forty quoted names is harder to read
)
CONTROL_WORDS = frozenset(("fixed", "increment", "decrement", "randomize", "increment-wrap"))
SEEDS = frozenset(("seed", "noise_seed"))


def widget_ports(schema: Schema) -> list[Port]:
    """The inputs a person fills in, in the order in which their values are saved: required ones first."""
    ordered = sorted(schema.inputs, key=lambda port: not port.required)
    return [
        port
        for port in ordered
        if not port.options.get("forceInput") and port.options.get("widgetType", port.kind) in WIDGET_KINDS
    ]


def own_values(node: UiNode, schema: Schema) -> dict[str, Any]:
    """The node's widget values by name; what was not saved is the schema's default where the input is required."""
    ports = widget_ports(schema)
    if node.named is not None:
        saved = {port.name: node.named[port.name] for port in ports if port.name in node.named}
    elif isinstance(node.values, dict):
        saved = {port.name: node.values[port.name] for port in ports if port.name in node.values}
    else:
        saved = _by_position(ports, node.value_list())
    values: dict[str, Any] = {}
    for port in ports:
        value = saved.get(port.name)
        if value is None and port.required:
            value = _default(port)
        if value is not None:
            values[port.name] = value
    return values


def unknown_values(node: UiNode) -> dict[str, Any]:
    """The widget values of a node without a schema, as far as the file itself says which is whose.

    Newer files mark every socket that stands for a widget; surplus values are the front end's own.
    """
    if node.named is not None:
        return dict(node.named)
    if isinstance(node.values, dict):
        return dict(node.values)
    names = [socket.widget for socket in node.inputs if socket.widget]
    values = node.value_list()
    found: dict[str, Any] = {}
    at = 0
    for name in names:
        surplus = len(values) - at > len(names) - len(found)
        if surplus and found and _is_control(values[at]):
            at += 1
        if at >= len(values):
            break
        if values[at] is not None:
            found[name] = values[at]
        at += 1
    return found


def _default(port: Port) -> Any:
    if "default" in port.options:
        return port.options["default"]
    return port.choices[0] if port.choices else None


def _extras(port: Port) -> int:
    """How many values of the front end's own follow this widget's."""
    control = port.options.get("control_after_generate")
    if port.kind == "INT":
        return int(bool(control) if control is not None else port.name in SEEDS)
    return 2 if port.kind == "COMBO" and control else 0


def _by_position(ports: Sequence[Port], values: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    at = 0
    for index, port in enumerate(ports):
        if at < len(values) and port.kind in ("INT", "FLOAT", "BOOLEAN") and _is_control(values[at]):
            at += 1  # the file was saved by a version that put a control word where we expect none
        if at >= len(values):
            break
        found[port.name] = values[at]
        at += 1
        if _extras(port) and at < len(values):
            at += _extras_present(port, ports[index + 1 :], values[at:])
    return found


def _is_control(value: Any) -> bool:
    return isinstance(value, str) and value in CONTROL_WORDS


def _extras_present(port: Port, after: Sequence[Port], values: Sequence[Any]) -> int:
    """How many of `values` belong to the extras of `port`: files of older versions lack some or all of them."""
    needed = sum(1 + _extras(later) for later in after)
    if _is_control(values[0]):
        has_filter = _extras(port) == 2 and len(values) > 1 and (values[1] in ("", None) or len(values) - 1 > needed)
        return 2 if has_filter else 1
    if after and _fits(after[0], values[0]) and len(values) <= needed:
        return 0
    return 1 if values[0] is None or isinstance(values[0], bool) or not (after and _fits(after[0], values[0])) else 0


def _fits(port: Port, value: Any) -> bool:
    """Whether a saved value can be this widget's."""
    if port.kind == "COMBO" and port.choices is not None:
        return value in port.choices
    if port.kind in ("INT", "FLOAT"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, bool) if port.kind == "BOOLEAN" else isinstance(value, str)
