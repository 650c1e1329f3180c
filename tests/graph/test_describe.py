from limner.graph import NoFiles, Port, describe
from tests.graph.make import port, schema


def inputs(*ports, style="v1", files=None):
    found = describe(schema("Own", *ports, style=style), files)["input"]
    return {**found.get("required", {}), **found.get("optional", {})}


def test_an_input_without_options_is_its_kind_alone_in_v1():
    assert inputs(port("x", "IMAGE"))["x"] == ["IMAGE"]
    assert inputs(port("x", "IMAGE"), style="v3")["x"] == ["IMAGE", {}]


def test_a_tooltip_makes_options():
    assert inputs(port("x", "IMAGE", tooltip="what it is"))["x"] == ["IMAGE", {"tooltip": "what it is"}]


def test_a_choice_is_its_values_in_v1_and_a_combo_in_v3():
    pick = port("x", "COMBO", choices=("a", "b"), options={"default": "a"})
    assert inputs(pick)["x"] == [["a", "b"], {"default": "a"}]
    assert inputs(pick, style="v3")["x"] == ["COMBO", {"multiselect": False, "default": "a", "options": ["a", "b"]}]


def test_a_remote_choice_is_a_combo_in_v1():
    assert inputs(port("x", "COMBO", file_in="output", options={"remote": {}}))["x"] == ["COMBO", {"remote": {}}]


def test_file_choices_come_from_the_lookup():
    class Files(NoFiles):
        def choices(self, port: Port):
            return ["a.ckpt", *port.also]

    assert inputs(port("x", "COMBO", folder="vae", also=("pixel_space",)), files=Files())["x"] == [
        ["a.ckpt", "pixel_space"]
    ]


def test_a_v1_entry_field_by_field():
    made = schema(
        "Own",
        port("a", "INT", options={"min": 0}),
        port("b", "MASK", required=False),
        hidden={"prompt": "PROMPT"},
        title="Own Node",
        category="test",
        output_node=True,
    )
    assert describe(made) == {
        "input": {"required": {"a": ["INT", {"min": 0}]}, "optional": {"b": ["MASK"]}, "hidden": {"prompt": "PROMPT"}},
        "input_order": {"required": ["a"], "optional": ["b"], "hidden": ["prompt"]},
        "output": ["STRING"],
        "output_is_list": [False],
        "output_name": ["STRING"],
        "name": "Own",
        "display_name": "Own Node",
        "description": "",
        "python_module": "nodes",
        "category": "test",
        "output_node": True,
    }


def test_a_v3_entry_says_everything_always():
    found = describe(schema("Own", style="v3", hidden={"unique_id": "UNIQUE_ID"}))
    assert found["input"] == {"required": {}, "hidden": {"unique_id": ["UNIQUE_ID"]}}
    assert (found["deprecated"], found["experimental"], found["api_node"]) == (False, False, False)
    assert found["output_tooltips"] == [None]
    assert found["display_name"] is None


def test_v1_flags_are_there_only_when_true():
    found = describe(schema("Own", deprecated=True))
    assert found["deprecated"] is True
    assert "experimental" not in found
