import pytest

from limner.graph import Link, NodeCall, PromptError, nearest, normalised, parse
from tests.graph.make import call, table


def test_a_list_of_id_and_place_is_a_link():
    found = parse({"1": call("Text", text="x"), "2": call("Show", source=["1", 0])})
    assert found["2"] == NodeCall("Show", {"source": Link("1", 0)})


def test_a_wrapped_list_is_a_value_v8():
    assert parse({"1": call("Text", text={"__value__": ["1", 0]})})["1"].inputs["text"] == ("1", 0)


def test_a_malformed_link_stays_a_list_for_validation():
    assert parse({"1": call("Text", text=["1"])})["1"].inputs["text"] == ["1"]


def test_what_else_the_client_wrote_is_kept():
    found = parse({"1": {**call("Text", text="x"), "_meta": {"title": "Mine"}, "is_changed": 3}})["1"]
    assert found.title == "Mine"
    assert found.extra["is_changed"] == 3


def test_a_node_without_inputs_has_none():
    assert parse({"1": {"class_type": "Text"}})["1"].inputs == {}


@pytest.mark.parametrize("node", [{}, {"inputs": {}}, 5, None, [], {"class_type": None}])
def test_a_node_without_class_type_is_refused_v1(node):
    with pytest.raises(PromptError) as refused:
        parse({"7": node})
    assert refused.value.to_json() == {
        "type": "invalid_prompt",
        "message": "Cannot execute because a node is missing the class_type property.",
        "details": "Node ID '#7'",
        "extra_info": {},
    }


@pytest.mark.parametrize("kind", ["Txet", 5, ["Text"], {"a": 1}, True])
def test_an_unknown_kind_is_refused_v1(kind):
    with pytest.raises(PromptError) as refused:
        parse({"7": {"class_type": kind, "inputs": {}}}, table())
    error = refused.value.to_json()
    assert error["type"] == "invalid_prompt"
    assert error["message"] == f"Cannot execute because node {kind} does not exist."
    assert error["details"] == "Node ID '#7'"


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(PromptError) as refused:
        parse({"7": {"class_type": "text", "inputs": {}}}, table())
    assert refused.value.extra_info["nearest"][0] == "Text"


def test_the_first_bad_node_in_order_is_told_v1():
    with pytest.raises(PromptError, match="#2"):
        parse({"1": call("Text"), "2": call("Gone"), "3": {}}, table())


@pytest.mark.parametrize("inputs", [[], "x", 5, True])
def test_inputs_must_be_an_object(inputs):
    with pytest.raises(PromptError) as refused:
        parse({"1": {"class_type": "Text", "inputs": inputs}})
    assert refused.value.kind == "invalid_prompt"


@pytest.mark.parametrize("raw", [[], None, "x", 5, [1]])
def test_what_is_no_object_has_no_outputs_v14(raw):
    with pytest.raises(PromptError) as refused:
        parse(raw)
    assert refused.value.kind == "prompt_no_outputs"


def test_normalising_shares_what_is_unchanged_and_edits_no_original():
    raw = {"1": call("Text", text=5), "2": call("Text", text="y")}
    out = normalised(raw, {("1", "text"): "5"})
    assert out["1"]["inputs"] == {"text": "5"}
    assert raw["1"]["inputs"] == {"text": 5}
    assert out["2"] is raw["2"]


def test_a_list_value_keeps_its_wrapping_when_stored():
    raw = {"1": call("Text", text={"__value__": ["a"]})}
    assert normalised(raw, {("1", "text"): ("a",)})["1"]["inputs"]["text"] == {"__value__": ["a"]}


def test_nearest_finds_another_case_another_folder_and_a_slip():
    names = ["sd/Fox.safetensors", "bear.ckpt", "heron.pt"]
    assert nearest("fox.safetensors", names)[0] == "sd/Fox.safetensors"
    assert nearest("baer.ckpt", names)[0] == "bear.ckpt"
    assert nearest("zzz", names) == []
