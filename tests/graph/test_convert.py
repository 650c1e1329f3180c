"""UI workflows to prompts: formats, widget order, links, virtual nodes, modes."""

import json
from importlib import resources

import pytest

from limner.errors import BadInput
from limner.graph import MissingNodeTypes, convert_workflow, is_api_prompt, is_ui_workflow, unwrap
from tests.graph.workflows import SCHEMAS, into, node, out, workflow

API = {"1": {"class_type": "Load", "inputs": {}}}


def convert(nodes, links=(), **more):
    return convert_workflow(workflow(nodes, links, **more), SCHEMAS)


def inputs_of(nodes, links=(), of="1", **more):
    return convert(nodes, links, **more)[of]["inputs"]


def test_formats_are_told_apart():
    ui = workflow([])
    assert is_ui_workflow(ui)
    assert not is_ui_workflow(API)
    assert not is_ui_workflow({"nodes": [], "version": True})
    assert is_api_prompt(API)
    assert not is_api_prompt(ui)
    assert not is_api_prompt({})


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"prompt": x}, lambda x: {"workflow": x, "other": 1}])
def test_wrapped_prompts_and_workflows_are_unwrapped(wrap):
    assert unwrap(wrap(API)) == API
    assert unwrap(wrap(workflow([]))) == workflow([])


def test_the_workflow_beside_a_prompt_that_is_none_is_found():
    body = {"prompt": {}, "extra_data": {"extra_pnginfo": {"workflow": workflow([])}}}
    assert unwrap(body) == workflow([])


@pytest.mark.parametrize("data", [None, [], {}, {"prompt": 3}, {"nodes": []}, "text"])
def test_other_json_is_refused(data):
    with pytest.raises(BadInput, match="neither a workflow nor a prompt"):
        unwrap(data)


def test_a_node_becomes_a_call_with_its_title_and_provenance():
    properties = {"cnr_id": "comfy-core", "ver": "0.3.64", "aux_id": 3}
    prompt = convert([node(1, "Text", values=["a fox"], title="Words", properties=properties)])
    assert prompt == {
        "1": {
            "class_type": "Text",
            "inputs": {"text": "a fox"},
            "_meta": {"title": "Words", "cnr_id": "comfy-core", "ver": "0.3.64"},
        }
    }


def test_a_node_without_a_title_has_its_schemas():
    assert convert([node(1, "Text", values=[""])])["1"]["_meta"] == {"title": "The Text"}


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("Sample", [7, "randomize", 4, "heun"], {"seed": 7, "steps": 4, "method": "heun"}),
        ("Sample", [7, True, 4, "heun"], {"seed": 7, "steps": 4, "method": "heun"}),
        ("Sample", [7, 4, "heun"], {"seed": 7, "steps": 4, "method": "heun"}),
        ("Sample", [7, "fixed", 4, "heun", "", None], {"seed": 7, "steps": 4, "method": "heun"}),
        ("Sample", [7], {"seed": 7, "steps": 20, "method": "euler"}),
        ("Sample", None, {"seed": 0, "steps": 20, "method": "euler"}),
        ("Sample", [None, "fixed", 4], {"seed": 0, "steps": 4, "method": "euler"}),
        ("Plain", [5, "increment", False], {"noise_seed": 5, "on": False}),
        ("Plain", [5, False], {"noise_seed": 5, "on": False}),
        ("Plain", [5, True, False], {"noise_seed": 5, "on": False}),
        ("NoControl", [5, 9], {"seed": 5, "steps": 9}),
        ("NoControl", [5, "fixed", 9], {"seed": 5, "steps": 9}),
        ("Pick", ["b", "fixed", "", 9], {"name": "b", "steps": 9}),
        ("Pick", ["b", "increment-wrap", "/x/", 9], {"name": "b", "steps": 9}),
        ("Pick", ["b", "fixed", 9], {"name": "b", "steps": 9}),
        ("Pick", ["b", 9], {"name": "b", "steps": 9}),
        ("Mixed", ["one", 3], {"first": "one", "late": 3}),
        ("Mixed", ["one"], {"first": "one"}),
        ("Upload", ["fox.png", "heun", "image"], {"file": "fox.png", "method": "heun"}),
        ("List", [[1, 2]], {"points": {"__value__": [1, 2]}}),
    ],
)
def test_widget_values_are_told_by_their_place(kind, values, expected):
    assert inputs_of([node(1, kind, values=values)]) == expected


def test_widget_values_in_a_dict_are_told_by_their_name():
    values = {"seed": 3, "method": "heun", "videopreview": {}}
    assert inputs_of([node(1, "Sample", values=values)]) == {"seed": 3, "steps": 20, "method": "heun"}


def test_named_values_win_over_the_list():
    made = node(1, "Sample", values=[0, "fixed"], widgets_values_named={"seed": 3, "steps": 2, "method": "heun"})
    assert inputs_of([made]) == {"seed": 3, "steps": 2, "method": "heun"}


def test_links_of_version_0_4_are_lists():
    nodes = [node("9", "Load", values=["a"]), node(1, "Show", [into("anything", "*", 5)])]
    assert inputs_of(nodes, [(5, 9, 1, 1, 0, "IMAGE")]) == {"anything": ["9", 1]}


def test_links_of_version_1_are_objects():
    nodes = [node(9, "Load", values=["a"]), node(1, "Show", [into("anything", "*", 5)])]
    link = {"id": 5, "origin_id": 9, "origin_slot": 1, "target_id": 1, "target_slot": 0, "type": "IMAGE"}
    made = workflow(nodes) | {"version": 1, "links": [link | {"parentId": 2}]}
    assert convert_workflow(made, SCHEMAS)["1"]["inputs"] == {"anything": ["9", 1]}


def test_a_link_that_is_not_there_is_no_link():
    assert inputs_of([node(1, "Show", [into("anything", "*", 5)])]) == {}


def test_a_linked_widget_takes_the_link_and_the_next_widget_keeps_its_place():
    nodes = [
        node(2, "Text", values=["x"]),
        node(1, "Sample", [into("steps", "INT", 5, True)], values=[1, "fixed", 9, "heun"]),
    ]
    assert inputs_of(nodes, [(5, 2, 0, 1, 0, "INT")]) == {"seed": 1, "steps": ["2", 0], "method": "heun"}


def test_a_widget_socket_without_a_link_keeps_its_value():
    made = node(1, "Sample", [into("steps", "INT", None, True)], values=[1, "fixed", 9, "heun"])
    assert inputs_of([made])["steps"] == 9


@pytest.mark.parametrize("kind", ["Reroute", "Reroute (rgthree)"])
def test_reroutes_are_passed_through(kind):
    nodes = [
        node(9, "Load", values=["a"]),
        node(2, kind, [into("", "*", 5)]),
        node(3, kind, [into("", "*", 6)]),
        node(1, "Show", [into("anything", "*", 7)]),
    ]
    links = [(5, 9, 0, 2, 0, "*"), (6, 2, 0, 3, 0, "*"), (7, 3, 0, 1, 0, "*")]
    prompt = convert(nodes, links)
    assert prompt["1"]["inputs"] == {"anything": ["9", 0]}
    assert set(prompt) == {"9", "1"}


def test_a_reroute_fed_by_nothing_gives_nothing():
    nodes = [node(2, "Reroute", [into("", "*")]), node(1, "Show", [into("anything", "*", 7)])]
    assert inputs_of(nodes, [(7, 2, 0, 1, 0, "*")]) == {}


def test_a_chain_of_ten_thousand_reroutes_does_not_recurse():
    reroutes = [node(k, "Reroute", [into("", "*", k)]) for k in range(1, 10_001)]
    links = [(k, k - 1, 0, k, 0, "*") for k in range(1, 10_002)]
    nodes = [node(0, "Load", values=["a"]), *reroutes, node(10_001, "Show", [into("anything", "*", 10_001)])]
    assert inputs_of(nodes, links, of="10001") == {"anything": ["0", 0]}


def test_reroutes_in_a_circle_are_refused():
    nodes = [
        node(2, "Reroute", [into("", "*", 6)]),
        node(3, "Reroute", [into("", "*", 5)]),
        node(1, "Show", [into("anything", "*", 7)]),
    ]
    with pytest.raises(BadInput, match="circle"):
        convert(nodes, [(5, 2, 0, 3, 0, "*"), (6, 3, 0, 2, 0, "*"), (7, 3, 0, 1, 0, "*")])


def test_notes_are_left_out():
    assert convert([node(1, "Note", values=["read me"]), node(2, "MarkdownNote", values=["# hi"])]) == {}


def test_a_primitive_gives_its_value_to_the_widget():
    nodes = [
        node(2, "PrimitiveNode", values=[1024, "fixed"]),
        node(1, "Sample", [into("steps", "INT", 5, True)], values=[1, "fixed", 9, "heun"]),
    ]
    prompt = convert(nodes, [(5, 2, 0, 1, 0, "INT")])
    assert prompt["1"]["inputs"]["steps"] == 1024
    assert set(prompt) == {"1"}


def test_a_primitive_does_not_reach_through_a_reroute():
    nodes = [
        node(2, "PrimitiveNode", values=[1024, "fixed"]),
        node(3, "Reroute", [into("", "*", 5)]),
        node(1, "Sample", [into("steps", "INT", 6, True)], values=[1, "fixed", 9, "heun"]),
    ]
    assert inputs_of(nodes, [(5, 2, 0, 3, 0, "*"), (6, 3, 0, 1, 0, "*")])["steps"] == 9


def test_an_empty_primitive_leaves_the_widget_alone():
    nodes = [node(2, "PrimitiveNode"), node(1, "Text", [into("text", "STRING", 5, True)], values=["kept"])]
    assert inputs_of(nodes, [(5, 2, 0, 1, 0, "STRING")]) == {"text": "kept"}


@pytest.mark.parametrize(("setter", "getter"), [("SetNode", "GetNode"), ("easy setNode", "easy getNode")])
def test_set_and_get_nodes_are_joined_by_name(setter, getter):
    nodes = [
        node(9, "Load", values=["a"]),
        node(2, setter, [into("IMAGE", "IMAGE", 5)], values=["picture"]),
        node(3, getter, values=["picture"]),
        node(4, getter, values=["unknown"]),
        node(1, "Blend", [into("image", "IMAGE", 6), into("other", "IMAGE", 7)]),
    ]
    links = [(5, 9, 0, 2, 0, "*"), (6, 3, 0, 1, 0, "*"), (7, 4, 0, 1, 1, "*")]
    assert inputs_of(nodes, links) == {"image": ["9", 0]}


def test_a_muted_node_is_left_out_and_its_links_are_dropped():
    nodes = [node(9, "Load", values=["a"], mode=2), node(1, "Show", [into("anything", "*", 5)])]
    assert convert(nodes, [(5, 9, 0, 1, 0, "IMAGE")]) == {
        "1": {"class_type": "Show", "inputs": {}, "_meta": {"title": "The Show"}}
    }


def test_other_modes_run():
    assert set(convert([node(1, "Load", values=["a"], mode=1), node(2, "Load", values=["a"], mode=3)])) == {"1", "2"}


def bypassed(wanted, slot=0, outputs=("IMAGE", "MASK"), inputs=(("mask", "MASK", 5), ("image", "IMAGE", 6))):
    """What arrives at an input of type `wanted` from slot `slot` of a bypassed node fed by Load 8 and Load 9."""
    nodes = [
        node(8, "Load", values=["a"]),
        node(9, "Load", values=["b"]),
        node(2, "Blend", [into(*socket) for socket in inputs], [out(kind) for kind in outputs], mode=4),
        node(1, "Show", [into("anything", wanted, 7)]),
    ]
    return inputs_of(nodes, [(5, 8, 1, 2, 0, ""), (6, 9, 0, 2, 1, ""), (7, 2, slot, 1, 0, "")]).get("anything")


def test_a_bypassed_node_passes_the_first_input_of_the_wanted_type():
    assert bypassed("IMAGE") == ["9", 0]
    assert bypassed("MASK", slot=1) == ["8", 1]


def test_a_bypassed_node_passes_the_input_of_the_same_place_where_types_fit():
    assert bypassed("IMAGE", inputs=(("a", "image", 5), ("b", "IMAGE", 6))) == ["8", 1]


def test_a_bypassed_node_passes_the_same_place_to_an_input_of_any_type():
    assert bypassed("*") == ["8", 1]
    assert bypassed("*", slot=1) == ["9", 0]
    assert bypassed("*", slot=5) == ["8", 1]


def test_a_bypassed_node_passes_a_compatible_input_last():
    assert bypassed("IMAGE", inputs=(("mask", "MASK", 5), ("image", "IMAGE,LATENT", 6))) == ["9", 0]


def test_a_bypassed_node_without_a_fitting_input_gives_nothing():
    assert bypassed("LATENT", outputs=("LATENT",)) is None


def test_a_bypassed_node_does_not_try_a_second_input():
    assert bypassed("IMAGE", inputs=(("a", "IMAGE", None), ("b", "IMAGE", 6))) is None


def test_missing_types_are_reported_by_name():
    nodes = [
        node(3, "Foo", title="My Foo"),
        node(4, "Bar"),
        node(5, "Foo"),
        node(6, "Gone", mode=2),
        node(7, "Off", mode=4),
    ]
    with pytest.raises(MissingNodeTypes, match="Bar, Foo") as caught:
        convert(nodes)
    assert caught.value.missing == [("3", "Foo", "My Foo"), ("4", "Bar", "Bar"), ("5", "Foo", "Foo")]
    assert caught.value.error_type == "missing_node_type"


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": [3]},
        {"nodes": [{"id": 1}]},
        {"nodes": [{"id": None, "type": "Load"}]},
        {"nodes": [{"id": 1, "type": "Load", "inputs": [3]}]},
        {"nodes": [{"id": 1, "type": "Load", "inputs": 3}]},
        {"links": [[1, 2]]},
        {"links": [3]},
        {"links": [[1, [], 0, 1, 0, "*"]]},
        {"definitions": [3]},
        {"definitions": {"subgraphs": {}}},
        {"definitions": {"subgraphs": [None]}},
    ],
)
def test_a_file_that_is_not_laid_out_as_a_workflow_is_refused(change):
    with pytest.raises(BadInput, match="not a workflow"):
        convert_workflow(workflow([]) | change, SCHEMAS)


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image"])
def test_the_workflows_of_the_package_are_whole(name):
    text = resources.files("limner").joinpath("assets", "workflows", f"{name}.json").read_text()
    saved = json.loads(text)
    wires = {link[0]: link for link in saved["links"]}
    by_id = {found["id"]: found for found in saved["nodes"]}
    for found in saved["nodes"]:
        for at, socket in enumerate(found["inputs"]):
            _, origin, slot, target, target_slot, kind = wires[socket["link"]]
            assert (target, target_slot) == (found["id"], at)
            assert by_id[origin]["outputs"][slot]["type"] == kind == socket["type"]
            assert socket["link"] in by_id[origin]["outputs"][slot]["links"]
