"""V1 classes as the engine and `/object_info` see them."""

import asyncio
import json
import sys
from enum import Enum
from pathlib import Path

import pytest

from limner.compat.sources.v1 import MOST_OUTPUTS, V1Class
from limner.graph import Blocker, kinds_match


class AnyType(str):
    def __ne__(self, other):
        return False


class Everything(dict):
    """What packs put in the place of `optional` when any name is an input."""

    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return (AnyType("*"), {"tooltip": "anything"})


class Every(tuple):
    def __getitem__(self, index):
        return AnyType("*")


class Full:
    RETURN_TYPES = ("IMAGE", ["a", "b"], "INT")
    RETURN_NAMES = ("picture", "choice", "count")
    OUTPUT_IS_LIST = (False, False, True)
    OUTPUT_TOOLTIPS = ("one", "two", "three")
    FUNCTION = "work"
    CATEGORY = "tests/v1"
    DESCRIPTION = "Works."
    OUTPUT_NODE = True
    INPUT_IS_LIST = True
    DEPRECATED = True
    EXPERIMENTAL = True
    NOT_IDEMPOTENT = True
    API_NODE = False
    RELATIVE_PYTHON_MODULE = "custom_nodes.tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "mode": (["fast", "slow"], {"default": "fast", "tooltip": "how"}),
                "kind": ("COMBO", {"options": ["x", "y"]}),
                "number": ("INT,FLOAT", {"lazy": True}),
                "steps": ("INT", {"default": 3, "min": 0, "max": 9, "made_up": {"kept": 1}}),
            },
            "optional": {"any": (AnyType("*"),)},
            "hidden": {"id": "UNIQUE_ID", "graph": "PROMPT", "extra": ("INT", {"default": 1})},
        }

    def work(self, **inputs):
        return inputs["returned"]

    def check_lazy_status(self, **inputs):
        return [name for name, value in inputs.items() if value is None]

    @classmethod
    def IS_CHANGED(cls, steps, **kwargs):
        return steps

    @classmethod
    def VALIDATE_INPUTS(cls, steps, input_types):
        return steps < 5 or "too many"


class Bare:
    RETURN_TYPES = ()
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {}

    def go(self):
        return ()


@pytest.fixture
def full():
    return V1Class(Full, "Full", "A full node")


def returned(value, cls=Full):
    one = V1Class(cls, "x")
    return one.function(one.make())(returned=value)


def test_the_description_is_what_the_class_says(full):
    assert full.describe() == {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "mode": [["fast", "slow"], {"default": "fast", "tooltip": "how"}],
                "kind": ["COMBO", {"options": ["x", "y"]}],
                "number": ["INT,FLOAT", {"lazy": True}],
                "steps": ["INT", {"default": 3, "min": 0, "max": 9, "made_up": {"kept": 1}}],
            },
            "optional": {"any": ["*"]},
            "hidden": {"id": "UNIQUE_ID", "graph": "PROMPT", "extra": ["INT", {"default": 1}]},
        },
        "input_order": {
            "required": ["image", "mode", "kind", "number", "steps"],
            "optional": ["any"],
            "hidden": ["id", "graph", "extra"],
        },
        "output": ["IMAGE", ["a", "b"], "INT"],
        "output_is_list": [False, False, True],
        "output_name": ["picture", "choice", "count"],
        "name": "Full",
        "display_name": "A full node",
        "description": "Works.",
        "python_module": "custom_nodes.tests",
        "category": "tests/v1",
        "output_node": True,
        "output_tooltips": ["one", "two", "three"],
        "deprecated": True,
        "experimental": True,
        "api_node": False,
    }


def test_a_class_that_says_little_gets_the_defaults():
    assert V1Class(Bare, "Bare").describe() == {
        "input": {},
        "input_order": {},
        "output": [],
        "output_is_list": [],
        "output_name": [],
        "name": "Bare",
        "display_name": "Bare",
        "description": "",
        "python_module": "nodes",
        "category": "sd",
        "output_node": False,
    }


def test_the_schema_holds_ports_hidden_inputs_and_powers(full):
    schema = full.schema()
    assert [(port.name, str(port.kind), port.required) for port in schema.inputs] == [
        ("image", "IMAGE", True),
        ("mode", "COMBO", True),
        ("kind", "COMBO", True),
        ("number", "INT,FLOAT", True),
        ("steps", "INT", True),
        ("any", "*", False),
        ("extra", "*", False),
    ]
    assert schema.input("mode").choices == ("fast", "slow")
    assert schema.input("kind").choices is None
    assert schema.input("number").lazy
    assert schema.hidden == {"id": "UNIQUE_ID", "graph": "PROMPT"}
    assert [(port.name, port.kind, port.is_list) for port in schema.outputs] == [
        ("picture", "IMAGE", False),
        ("choice", "COMBO", False),
        ("count", "INT", True),
    ]
    assert schema.companions == {"checks", "changes_when", "lazy"}
    assert schema.validates == {"steps", "input_types"}
    assert schema.output_node and schema.input_is_list and schema.not_idempotent  # noqa: PT018


def test_a_wildcard_kind_keeps_its_comparison(full):
    kind = full.schema().input("any").kind
    assert isinstance(kind, AnyType)
    assert kinds_match("LATENT", kind)


def test_inputs_are_asked_for_anew_each_time():
    files = ["a"]

    class Files(Bare):
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"file": (list(files),)}}

    one = V1Class(Files, "Files")
    assert one.schema().input("file").choices == ("a",)
    files.append("b")
    assert one.schema().input("file").choices == ("a", "b")


def test_only_exactly_true_makes_an_output_node():
    class Truthy(Bare):
        OUTPUT_NODE = 1

    assert not V1Class(Truthy, "Truthy").schema().output_node


def test_an_optional_section_that_claims_every_name_takes_every_name():
    class Open(Bare):
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}, "optional": Everything()}

    schema = V1Class(Open, "Open").schema()
    assert schema.more.kind == "*"
    assert "lora_7" in schema.ports()
    assert schema.ports()["lora_7"].kind == "*"


def test_return_types_that_answer_for_every_index_are_many_outputs():
    class Many(Bare):
        RETURN_TYPES = Every(("*",))

        def go(self):
            return (1, 2)

    one = V1Class(Many, "Many")
    assert len(one.schema().outputs) == MOST_OUTPUTS
    assert one.describe()["output"] == ["*"]
    assert one.function(one.make())().values == (1, 2, *[None] * (MOST_OUTPUTS - 2))


def test_variable_keywords_of_the_check_take_every_input_over():
    class Loose(Full):
        @classmethod
        def VALIDATE_INPUTS(cls, **kwargs):
            return True

    assert V1Class(Loose, "Loose").schema().validates == {"*"}


def test_a_tuple_and_a_list_are_values():
    assert returned((1, 2, [3])).values == (1, 2, [3])
    assert returned([1, 2, [3]]).values == (1, 2, [3])


def test_a_dict_may_hold_what_to_show_values_and_an_expansion():
    found = returned({"ui": {"text": ["x"]}, "result": (1, 2, [3]), "expand": {"9": {}}})
    assert (found.ui, found.values, found.expansion) == ({"text": ["x"]}, (1, 2, [3]), {"9": {}})
    assert returned({"ui": {"text": ["x"]}}).values == (None, None, None)
    assert returned({}).values == (None, None, None)


def test_a_blocker_blocks_every_output():
    blocker = Blocker("stop")
    assert returned(blocker).values == (blocker,) * 3
    assert returned({"result": blocker}).values == (blocker,) * 3
    assert returned((1, blocker, [])).values == (1, blocker, [])


def test_none_is_the_error_of_the_reference():
    with pytest.raises(TypeError, match="object of type 'NoneType' has no len"):
        returned(None)


def test_values_that_are_missing_are_none():
    assert returned((1,)).values == (1, None, None)


def test_a_coroutine_is_awaited():
    class Slow(Full):
        async def work(self, **inputs):
            await asyncio.sleep(0)
            return (inputs["a"], 2, [])

    one = V1Class(Slow, "Slow")
    call = one.function(one.make())
    assert asyncio.iscoroutinefunction(call)
    assert asyncio.run(call(a=1)).values == (1, 2, [])


def test_companions_are_found_where_the_protocol_has_them(full):
    instance = full.make()
    assert full.companion("lazy", instance)(a=None, b=1) == ["a"]
    assert full.companion("changes_when", None)(steps=4, other=1) == 4
    assert full.companion("checks", None)(steps=7, input_types={}) == "too many"
    assert V1Class(Bare, "Bare").companion("checks", None) is None


def test_is_changed_is_given_every_input():
    class Narrow(Full):
        @classmethod
        def IS_CHANGED(cls, steps):
            return steps

    with pytest.raises(TypeError):
        V1Class(Narrow, "Narrow").companion("changes_when", None)(steps=1, image=None)


def test_a_class_without_a_mapping_of_inputs_is_refused():
    class Odd(Bare):
        @classmethod
        def INPUT_TYPES(cls):
            return ["x"]

    with pytest.raises(Exception, match="INPUT_TYPES gives list"):
        V1Class(Odd, "Odd").schema()


def test_what_json_cannot_say_is_made_plain():
    class Colour(Enum):
        RED = "red"

    class Odd(Bare):
        @classmethod
        def INPUT_TYPES(cls):
            return {
                "required": {
                    "a": (
                        "FLOAT",
                        {"max": float("inf"), "default": float("nan"), "where": Path("/x"), "set": {"b", "a"}},
                    ),
                    "b": ((Colour.RED, "blue"), {"default": Colour.RED}),
                },
                "optional": None,
            }

    entry = V1Class(Odd, "Odd").describe()
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    options = entry["input"]["required"]["a"][1]
    assert options == {"max": sys.float_info.max, "default": None, "where": "/x", "set": ["a", "b"]}
    assert entry["input"]["required"]["b"] == [["red", "blue"], {"default": "red"}]


def test_a_class_without_return_types_has_no_outputs():
    class Nothing:
        FUNCTION = "go"

        @classmethod
        def INPUT_TYPES(cls):
            return {}

    assert V1Class(Nothing, "Nothing").schema().outputs == ()
    assert V1Class(Nothing, "Nothing").describe()["output"] == []


def test_a_kind_that_equals_everything_and_has_no_hash_is_taken():
    class Equal(str):
        def __eq__(self, other):
            return True

        def __ne__(self, other):
            return False

        __hash__ = None

    class Loop(Bare):
        RETURN_TYPES = (Equal("*"),)

        @classmethod
        def INPUT_TYPES(cls):
            return {"optional": {"a": (Equal("*"),)}, "hidden": {"id": "UNIQUE_ID", "b": (Equal("*"),)}}

    one = V1Class(Loop, "Loop")
    schema = one.schema()
    assert schema.hidden == {"id": "UNIQUE_ID"}
    assert kinds_match("LATENT", schema.input("a").kind)
    assert schema.input("a").kind not in frozenset(("INT", "STRING"))
    assert json.dumps(one.describe()["output"]) == '["*"]'
