"""Subgraphs: nested, promoted, bypassed; and files that are no workflows."""

import copy
import random

import pytest

from limner.errors import BadInput, LimnerError
from limner.graph import convert_workflow
from tests.graph.workflows import SCHEMAS, into, node, out, subgraph, workflow


def convert(nodes, links=(), subgraphs=()):
    return convert_workflow(workflow(nodes, links, subgraphs), SCHEMAS)


SAMPLER = subgraph(
    "sub",
    [
        node(8, "Sample", [into("image", "IMAGE", 1), into("steps", "INT", 2, True)], values=[5, "fixed", 9, "heun"]),
        node(9, "Reroute", [into("", "*", 3)]),
    ],
    [(1, -10, 0, 8, 0), (2, -10, 1, 8, 1), (3, 8, 0, 9, 0), (4, 9, 0, -20, 0)],
    inputs=[("image", "IMAGE"), ("steps", "INT")],
)
LOAD = node(1, "Load", values=["a"])
SAVE = node(3, "Save", [into("images", "IMAGE", 11)], [], ["x"])
AROUND = [(10, 1, 0, 57, 0, "IMAGE"), (11, 57, 0, 3, 0, "IMAGE")]


def instance(name=57, values=None, link=10, **more):
    return node(name, "sub", [into("image", "IMAGE", link), into("steps", "INT", None, True)], values=values, **more)


def test_inner_nodes_get_the_path_of_ids_and_links_cross_the_walls():
    prompt = convert([LOAD, instance(), SAVE], AROUND, [SAMPLER])
    assert list(prompt) == ["1", "57:8", "3"]
    assert prompt["57:8"]["inputs"] == {"image": ["1", 0], "seed": 5, "steps": 9, "method": "heun"}
    assert prompt["3"]["inputs"]["images"] == ["57:8", 0]


def test_the_hosts_value_is_sent_for_a_promoted_widget():
    prompt = convert([LOAD, instance(values=[33]), SAVE], AROUND, [SAMPLER])
    assert prompt["57:8"]["inputs"]["steps"] == 33


def test_an_outer_link_wins_over_the_hosts_value():
    host = node(57, "sub", [into("image", "IMAGE", 10), into("steps", "INT", 12, True)], values=[33])
    nodes = [LOAD, host, SAVE, node(4, "Text", values=["x"])]
    prompt = convert(nodes, [*AROUND, (12, 4, 0, 57, 1, "INT")], [SAMPLER])
    assert prompt["57:8"]["inputs"]["steps"] == ["4", 0]


def test_a_primitive_outside_reaches_a_promoted_widget():
    host = node(57, "sub", [into("image", "IMAGE", 10), into("steps", "INT", 12, True)], values=[33])
    nodes = [LOAD, host, SAVE, node(4, "PrimitiveNode", values=[44, "fixed"])]
    prompt = convert(nodes, [*AROUND, (12, 4, 0, 57, 1, "INT")], [SAMPLER])
    assert prompt["57:8"]["inputs"]["steps"] == 44


def test_a_host_that_lists_fewer_inputs_is_matched_by_name():
    host = node(57, "sub", [into("steps", "INT", 12, True)])
    prompt = convert([host, node(4, "Text", values=["x"])], [(12, 4, 0, 57, 0, "INT")], [SAMPLER])
    assert prompt["57:8"]["inputs"] == {"seed": 5, "steps": ["4", 0], "method": "heun"}


def test_two_instances_are_apart():
    nodes = [LOAD, instance(values=[1]), instance(58, values=[2], link=None)]
    prompt = convert(nodes, AROUND[:1], [SAMPLER])
    assert (prompt["57:8"]["inputs"]["steps"], prompt["58:8"]["inputs"]["steps"]) == (1, 2)


def test_inner_ids_may_repeat_outer_ones():
    inner = subgraph("sub", [node(1, "Load", values=["b"])], [(4, 1, 0, -20, 0)])
    prompt = convert([node(1, "sub"), node(2, "Show", [into("anything", "*", 5)])], [(5, 1, 0, 2, 0, "*")], [inner])
    assert prompt["2"]["inputs"] == {"anything": ["1:1", 0]}


def test_a_muted_instance_gives_nothing():
    prompt = convert([LOAD, instance(mode=2), SAVE], AROUND, [SAMPLER])
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"] == {"prefix": "x"}


def test_a_bypassed_instance_passes_its_input_on():
    prompt = convert([LOAD, instance(mode=4), SAVE], AROUND, [SAMPLER])
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"]["images"] == ["1", 0]


def test_a_bypassed_node_inside_passes_what_comes_through_the_wall():
    inner = subgraph(
        "sub",
        [node(8, "Sample", [into("image", "IMAGE", 1)], mode=4)],
        [(1, -10, 0, 8, 0), (4, 8, 0, -20, 0)],
        inputs=[("image", "IMAGE")],
    )
    host = node(57, "sub", [into("image", "IMAGE", 10)])
    assert convert([LOAD, host, SAVE], AROUND, [inner])["3"]["inputs"]["images"] == ["1", 0]


def nested(values=None, middle_values=None, **more):
    """Root 57 holds `outer`, which holds 12, an instance of `sub`."""
    outer = subgraph(
        "outer",
        [node(12, "sub", [into("image", "IMAGE", 1), into("steps", "INT", 2, True)], values=middle_values, **more)],
        [(1, -10, 0, 12, 0), (2, -10, 1, 12, 1), (4, 12, 0, -20, 0)],
        inputs=[("image", "IMAGE"), ("steps", "INT")],
    )
    host = node(57, "outer", [into("image", "IMAGE", 10), into("steps", "INT", None, True)], values=values)
    return [LOAD, host, SAVE], AROUND, [outer, SAMPLER]


def test_nested_instances_have_long_ids():
    prompt = convert(*nested())
    assert prompt["57:12:8"]["inputs"]["image"] == ["1", 0]
    assert prompt["3"]["inputs"]["images"] == ["57:12:8", 0]


def test_a_widget_is_promoted_through_two_levels():
    assert convert(*nested(values=[77]))["57:12:8"]["inputs"]["steps"] == 77


def test_nested_definitions_are_found_inside_their_parents():
    nodes, links, (outer, inner) = nested()
    prompt = convert(nodes, links, [outer | {"definitions": {"subgraphs": [inner]}}])
    assert "57:12:8" in prompt


def proxied(entries, values):
    return instance(values=values, properties={"proxyWidgets": entries})


def test_a_proxy_widget_sets_an_inner_widget():
    host = proxied([["8", "seed"], ["8", "method"]], [123, "euler"])
    assert convert([host], [], [SAMPLER])["57:8"]["inputs"] == {"seed": 123, "steps": 9, "method": "euler"}


def test_a_proxy_widget_without_a_value_keeps_the_inner_one():
    host = proxied([["8", "seed"], ["8", "method"]], [None])
    assert convert([host], [], [SAMPLER])["57:8"]["inputs"] == {"seed": 5, "steps": 9, "method": "heun"}


def test_previews_among_proxy_widgets_set_nothing():
    host = proxied([["8", "$$canvas-image-preview"], ["8", "seed"]], ["", 4])
    assert convert([host], [], [SAMPLER])["57:8"]["inputs"]["seed"] == 4


def test_proxy_widgets_name_the_hosts_own_inputs_with_minus_one():
    host = proxied([["8", "seed"], ["-1", "steps"]], [4, 21])
    assert convert([host], [], [SAMPLER])["57:8"]["inputs"] == {"seed": 4, "steps": 21, "method": "heun"}


def test_proxy_widgets_reach_through_an_instance_that_shows_the_widget():
    nodes, links, definitions = nested(properties={"proxyWidgets": [["8", "seed"]]}, middle_values=[2])
    nodes[1]["properties"] = {"proxyWidgets": [["12", "seed"]]}
    nodes[1]["widgets_values"] = [99]
    assert convert(nodes, links, definitions)["57:12:8"]["inputs"]["seed"] == 99


def test_old_proxy_names_carry_the_inner_id_before_the_name():
    nodes, links, definitions = nested()
    nodes[1]["properties"] = {"proxyWidgets": [["12", "8: seed"]]}
    nodes[1]["widgets_values"] = [98]
    assert convert(nodes, links, definitions)["57:12:8"]["inputs"]["seed"] == 98


def test_a_proxy_of_a_primitive_sets_what_the_primitive_feeds():
    inner = subgraph(
        "sub",
        [
            node(7, "PrimitiveNode", values=[1, "fixed"]),
            node(8, "Sample", [into("steps", "INT", 1, True)], values=[5, "fixed", 9, "heun"]),
        ],
        [(1, 7, 0, 8, 0)],
    )
    host = node(57, "sub", values=[64], properties={"proxyWidgets": [["7", "value"]]})
    assert convert([host], [], [inner])["57:8"]["inputs"]["steps"] == 64


def test_get_nodes_inside_find_set_nodes_outside():
    inner = subgraph(
        "sub",
        [node(7, "GetNode", values=["pic"]), node(8, "Sample", [into("image", "IMAGE", 1)])],
        [(1, 7, 0, 8, 0)],
    )
    nodes = [LOAD, node(2, "SetNode", [into("IMAGE", "IMAGE", 5)], values=["pic"]), node(57, "sub")]
    assert convert(nodes, [(5, 1, 0, 2, 0, "*")], [inner])["57:8"]["inputs"]["image"] == ["1", 0]


def test_outputs_are_matched_by_name_where_the_host_lists_fewer():
    inner = subgraph(
        "sub",
        [node(8, "Load", values=["b"])],
        [(1, 8, 0, -20, 0), (2, 8, 1, -20, 1)],
        outputs=("IMAGE", "MASK"),
    )
    host = node(57, "sub", outputs=[out("MASK")])
    show = node(2, "Show", [into("anything", "*", 5)])
    assert convert([host, show], [(5, 57, 0, 2, 0, "*")], [inner])["2"]["inputs"] == {"anything": ["57:8", 1]}


def test_a_subgraph_that_contains_itself_is_refused():
    with pytest.raises(BadInput, match="contains itself"):
        convert([node(1, "sub")], [], [subgraph("sub", [node(2, "sub")], [])])


@pytest.mark.parametrize(("many", "deep"), [(10, 8), (1, 200)])
def test_absurdly_many_instances_are_refused(many, deep):
    definitions = [subgraph(f"s{k}", [node(i, f"s{k + 1}") for i in range(many)], []) for k in range(deep)]
    with pytest.raises(BadInput, match="too many subgraphs"):
        convert([node(1, "s0")], [], definitions)


def test_links_that_run_in_a_circle_through_a_wall_are_refused():
    inner = subgraph("sub", [], [(1, -10, 0, -20, 0)], inputs=[("image", "IMAGE")])
    host = node(57, "sub", [into("image", "IMAGE", 5)])
    with pytest.raises(BadInput, match="circle"):
        convert(
            [host, node(2, "Show", [into("anything", "*", 6)])],
            [(5, 57, 0, 57, 0, "*"), (6, 57, 0, 2, 0, "*")],
            [inner],
        )


def places(plain, path=()):
    """The path of every value in a piece of JSON, but for the whole."""
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_whatever_is_changed_in_a_file_is_converted_or_refused_in_words():
    whole = workflow(*nested(values=[3]))
    paths = list(places(whole))
    chance = random.Random(1)
    junk = [None, 3, -1, "x", [], {}, [1], {"a": 1}, True, 1.5, "57"]
    refused = 0
    for *way, last in chance.choices(paths, k=1000):
        changed = copy.deepcopy(whole)
        inner = changed
        for key in way:
            inner = inner[key]
        inner[last] = chance.choice(junk)
        try:
            convert_workflow(changed, SCHEMAS)
        except LimnerError:
            refused += 1
    assert 0 < refused < 1000
