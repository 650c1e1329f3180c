"""The official templates, as far as their package is installed."""

from __future__ import annotations

import pytest

from limner.engine import NodeRegistry
from limner.graph import convert_workflow
from tests.templates.run import templates, try_all


def test_every_official_template_converts_and_those_of_known_nodes_validate() -> None:
    folder = templates()
    if folder is None:
        pytest.skip("comfyui-workflow-templates-json is not installed.")

    tally = try_all(folder, NodeRegistry.open())

    assert tally.wrong == {}
    assert tally.converted == tally.files > 600
    assert tally.valid + len(tally.later) == tally.whole > len(tally.later)


def test_a_node_without_a_schema_keeps_the_values_that_its_sockets_name() -> None:
    sockets = [
        {"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": None},
        {"name": "prompt", "type": "STRING", "widget": {"name": "prompt"}, "link": None},
    ]
    node = {"id": 3, "type": "Nobody", "inputs": sockets, "outputs": [], "widgets_values": [7, "fixed", "a cat"]}
    workflow = {"version": 0.4, "nodes": [node], "links": []}

    prompt = convert_workflow(workflow, NodeRegistry(), allow_unknown=True)

    assert prompt["3"]["inputs"] == {"seed": 7, "prompt": "a cat"}
