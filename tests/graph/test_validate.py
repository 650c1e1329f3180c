import json

import pytest

from limner.graph import NoFiles, Port, parse, validate
from tests.graph.make import call, ladder, port, schema, table

NUMBERS = schema(
    "Numbers",
    port("i", "INT", options={"min": 0, "max": 9}),
    port("f", "FLOAT", options={"min": -1.0, "max": 1.0}),
    port("on", "BOOLEAN"),
    outputs=("INT",),
    output_node=True,
)
PICK = schema("Pick", port("which", "COMBO", choices=("red", "blue")), output_node=True)
PICTURE = schema("Picture", outputs=("IMAGE", "MASK"))
SAVE = schema("Save", port("images", "IMAGE"), port("prefix"), port("mask", "MASK", required=False), output_node=True)


def check(raw, *more, **options):
    registry = table(NUMBERS, PICK, PICTURE, SAVE, *more)
    return validate(parse(raw, registry), registry, **options)


def reasons(found, node):
    return found.node_errors[node]["errors"]


def number(**inputs):
    return {"1": call("Numbers", **{"i": 1, "f": 0.5, "on": True, **inputs})}


def one(found, node="1"):
    (only,) = reasons(found, node)
    return only


def test_a_sound_prompt_has_no_errors():
    found = check({"1": call("Text", text="x"), "2": call("Show", source=["1", 0])})
    assert (found.outputs, found.node_errors, found.error) == (["2"], {}, None)


def test_every_missing_input_is_told_at_once_v4():
    found = check({"2": call("Save")})
    assert found.error == {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "Required input is missing: images\nRequired input is missing: prefix",
        "extra_info": {},
    }
    assert found.node_errors == {
        "2": {
            "errors": [
                {
                    "type": "required_input_missing",
                    "message": "Required input is missing",
                    "details": name,
                    "extra_info": {"input_name": name},
                }
                for name in ("images", "prefix")
            ],
            "dependent_outputs": ["2"],
            "class_type": "Save",
        }
    }


def test_errors_come_in_the_order_of_the_schema():
    found = check(number(i="x", f="y"))
    assert [one["extra_info"]["input_name"] for one in reasons(found, "1")] == ["i", "f"]


def test_an_undeclared_input_is_ignored_v4():
    assert check({"1": call("Text", text="x"), "2": call("Show", source=["1", 0], more=["gone", 7])}).error is None


@pytest.mark.parametrize("link", [[], ["1"], ["1", 0, 0]])
def test_a_link_of_another_length_is_bad_v5(link):
    found = one(check({"2": call("Show", source=link)}), "2")
    assert found["type"] == "bad_linked_input"
    assert found["message"] == "Bad linked input, must be a length-2 list of [node_id, slot_index]"
    assert found["details"] == "source"
    assert found["extra_info"] == {"input_name": "source", "input_config": ["*", {}], "received_value": link}


@pytest.mark.parametrize(
    ("link", "kind", "says"),
    [
        (["9", 0], "KeyError", "node '9' is not in the prompt"),
        ([1, 0], "KeyError", "not a text"),
        (["1", 1], "IndexError", "has 1 outputs, so no output 1"),
        (["1", -1], "IndexError", "no output -1"),
        (["1", 0.5], "TypeError", "not a whole number"),
        (["1", "0"], "TypeError", "not a whole number"),
        (["1", True], "TypeError", "not a whole number"),
        (["1", None], "TypeError", "not a whole number"),
        ([None, 0], "KeyError", "not a text"),
        ([{}, {}], "KeyError", "not a text"),
    ],
)
def test_a_link_to_nothing_is_an_exception_of_the_output_v5(link, kind, says):
    found = one(check({"1": call("Text", text="x"), "2": call("Show", source=link)}), "2")
    assert found["type"] == "exception_during_validation"
    assert found["message"] == "Exception when validating node"
    assert found["extra_info"]["exception_type"] == kind
    assert says in found["details"]


def test_one_level_deeper_it_is_an_inner_exception_of_the_linked_node_v5():
    found = check({"1": call("Text", text=["9", 0]), "2": call("Show", source=["1", 0])})
    assert found.error["details"] == ""
    error = one(found, "1")
    assert error["type"] == "exception_during_inner_validation"
    assert error["extra_info"]["linked_node"] == ["1", 0]
    assert error["extra_info"]["input_name"] == "source"


def test_an_output_of_another_kind_is_a_mismatch_v6():
    found = one(check({"1": call("Text", text="x"), "2": call("Save", images=["1", 0], prefix="p")}), "2")
    assert found["type"] == "return_type_mismatch"
    assert found["details"] == "images, received_type(STRING) mismatch input_type(IMAGE)"
    assert found["extra_info"] == {
        "input_name": "images",
        "input_config": ["IMAGE", {}],
        "received_type": "STRING",
        "linked_node": ["1", 0],
    }


def test_the_node_behind_a_mismatch_is_not_looked_at_v6():
    found = check({"1": call("Text"), "2": call("Save", images=["1", 0], prefix="p")})
    assert set(found.node_errors) == {"2"}


@pytest.mark.parametrize("wanted", ["*", "IMAGE", "IMAGE,MASK", "MASK, IMAGE"])
def test_a_union_takes_any_member_and_a_star_takes_all_v6(wanted):
    taker = schema("Taker", port("x", wanted), outputs=(), output_node=True)
    assert check({"1": call("Picture"), "2": call("Taker", x=["1", 0])}, taker).error is None


def test_a_union_without_the_kind_is_a_mismatch_v6():
    taker = schema("Taker", port("x", "LATENT,MODEL"), outputs=(), output_node=True)
    assert check({"1": call("Picture"), "2": call("Taker", x=["1", 0])}, taker).error


def test_a_consumer_of_a_bad_node_has_no_error_of_its_own_v7():
    found = check({"1": call("Text"), "2": call("Show", source=["1", 0])})
    assert set(found.node_errors) == {"1"}
    assert found.node_errors["1"]["dependent_outputs"] == ["2"]
    assert found.error["details"] == ""


@pytest.mark.parametrize(
    ("kind", "given", "becomes"),
    [
        ("i", "3", 3),
        ("i", 1.7, 1),
        ("i", True, 1),
        ("f", "0.5", 0.5),
        ("f", 1, 1.0),
        ("on", "False", True),
        ("on", 0, False),
        ("i", {"__value__": "7"}, 7),
        ("i", {"__value__": 7}, 7),
    ],
)
def test_values_become_the_declared_type_v8(kind, given, becomes):
    found = check(number(**{kind: given}))
    assert found.error is None
    value = found.changes["1", kind]
    assert value == becomes
    assert type(value) is type(becomes)


def test_a_number_becomes_text_v8():
    assert check({"1": call("Text", text=5), "2": call("Show", source=["1", 0])}).changes == {("1", "text"): "5"}


def test_a_value_of_the_right_type_is_no_change():
    assert check(number()).changes == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("i", value) for value in ("x", "1.5", None, {}, {"a": 1}, float("nan"), float("inf"), "", "9" * 5000)),
        *(("f", value) for value in ("x", None, {}, float("nan"), float("-inf"), "nan", "inf", 10**400)),
    ],
)
def test_what_cannot_be_converted_is_invalid_v8(name, value):
    found = one(check(number(**{name: value})))
    wanted = {"i": "INT", "f": "FLOAT"}[name]
    assert found["type"] == "invalid_input_type"
    assert found["message"] == f"Failed to convert an input value to a {wanted} value"
    assert found["details"].startswith(f"{name}, ")
    assert found["extra_info"]["input_name"] == name
    assert found["extra_info"]["exception_message"]
    json.dumps(found, allow_nan=False)


def test_an_object_is_no_text():
    found = check({"1": call("Text", text={"a": 1}), "2": call("Show", source=["1", 0])})
    assert one(found)["type"] == "invalid_input_type"


@pytest.mark.parametrize("value", ["x", 5, True, {"a": 1}, None])
def test_a_constant_is_no_picture(value):
    assert one(check({"1": call("Save", images=value, prefix="p")}))["type"] == "invalid_input_type"


def test_null_for_an_optional_picture_is_as_good_as_none():
    raw = {"1": call("Picture"), "2": call("Save", images=["1", 0], prefix="p", mask=None)}
    assert check(raw).error is None


@pytest.mark.parametrize(
    ("name", "value", "kind", "message"),
    [
        ("i", -1, "value_smaller_than_min", "Value -1 smaller than min of 0"),
        ("i", 10, "value_bigger_than_max", "Value 10 bigger than max of 9"),
        ("f", -1.5, "value_smaller_than_min", "Value -1.5 smaller than min of -1.0"),
        ("f", "1.5", "value_bigger_than_max", "Value 1.5 bigger than max of 1.0"),
        ("i", 10**300, "value_bigger_than_max", None),
    ],
)
def test_a_value_out_of_bounds_v9(name, value, kind, message):
    found = one(check(number(**{name: value})))
    assert found["type"] == kind
    assert message is None or found["message"] == message
    assert found["details"] == name
    assert set(found["extra_info"]) == {"input_name", "input_config", "received_value"}


@pytest.mark.parametrize("value", [0, 9, "0", 0.0])
def test_bounds_are_inclusive(value):
    assert check(number(i=value)).error is None


def test_a_value_that_is_no_choice_v10():
    found = one(check({"1": call("Pick", which="rde")}))
    assert found == {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "which: 'rde' not in ['red', 'blue']; nearest: red",
        "extra_info": {
            "input_name": "which",
            "input_config": [["red", "blue"], {}],
            "received_value": "rde",
            "nearest": ["red"],
        },
    }


def test_a_long_list_of_choices_is_not_written_out_v10():
    many = schema("Many", port("x", "COMBO", choices=tuple(f"{i:03}" for i in range(21))), output_node=True)
    found = one(check({"1": call("Many", x="?")}, many))
    assert found["details"] == "x: '?' not in (list of length 21)"
    assert found["extra_info"]["input_config"] is None


@pytest.mark.parametrize("value", [5, None, True, {"a": 1}, "RED", float("nan"), "x" * 1_000_000])
def test_odd_choices_are_refused_shortly_and_in_json(value):
    found = one(check({"1": call("Pick", which=value)}))
    assert found["type"] == "value_not_in_list"
    assert len(json.dumps(found, allow_nan=False)) < 10_000


def test_several_values_of_a_multiple_choice():
    many = schema("M", port("x", "COMBO", choices=("a", "b"), options={"multiselect": True}), output_node=True)
    assert check({"1": call("M", x={"__value__": ["a", "b"]})}, many).error is None
    found = one(check({"1": call("M", x={"__value__": ["a", "c"]})}, many))
    assert "'c' not in" in found["details"]


class Models(NoFiles):
    def choices(self, port: Port):
        return ["fox.safetensors", "bear.ckpt"]

    def accepts(self, port: Port, value):
        return value in self.choices(port)


LOAD = schema("Load", port("name", "COMBO", folder="checkpoints"), output_node=True)


def test_a_model_that_is_there_is_a_choice_v10():
    assert check({"1": call("Load", name="bear.ckpt")}, LOAD, files=Models()).error is None


def test_a_missing_model_names_the_nearest():
    found = one(check({"1": call("Load", name="foxes.safetensors")}, LOAD, files=Models()))
    assert found["type"] == "value_not_in_list"
    assert found["details"].endswith("nearest: fox.safetensors")


def test_an_empty_model_folder_is_named():
    found = one(check({"1": call("Load", name="fox.safetensors")}, LOAD))
    assert "no file in the model folder checkpoints" in found["details"]


PICTURE_IN = schema("Open", port("image", "COMBO", file_in="input"), output_node=True)


class Pictures(Models):
    def choices(self, port: Port):
        return ["fox.png"]


@pytest.mark.parametrize(("value", "hint"), [("foxes.png", "; nearest: fox.png"), ("/etc/passwd", ""), (5, "")])
def test_a_picture_that_is_not_there_fails_as_the_nodes_own_check_v11(value, hint):
    found = one(check({"1": call("Open", image=value)}, PICTURE_IN, files=Pictures()))
    assert found["type"] == "custom_validation_failed"
    assert found["details"] == f"image - Invalid image file: {value}{hint}"
    assert found["extra_info"]["input_name"] == "image"


CHECKED = schema("Checked", port("a", "INT", options={"max": 5}), port("b", "INT"), output_node=True,
                 companions=frozenset({"checks"}), validates=frozenset({"a", "b"}))  # fmt: skip


def custom(answer, seen=None, **inputs):
    def ask(schema, constants, received):
        if seen is not None:
            seen.append((dict(constants), dict(received)))
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    return check({"0": call("Numbers", i=1, f=0, on=1), "1": call("Checked", **inputs)}, CHECKED, check=ask)


def test_what_checks_takes_over_is_not_bounded_v9():
    assert custom(True, a=50, b=1).error is None


def test_checks_sees_constants_and_none_for_links_v11():
    seen = []
    custom(True, seen, a="3", b=["0", 0])
    assert seen == [({"a": 3, "b": None}, {"b": "INT"})]


def test_a_text_of_checks_is_told_once_per_input_v11():
    found = custom("too odd", a=1, b=2)
    assert [(one["type"], one["details"]) for one in reasons(found, "1")] == [
        ("custom_validation_failed", "a - too odd"),
        ("custom_validation_failed", "b - too odd"),
    ]


def test_false_of_checks_has_no_text_v11():
    assert reasons(custom(False, a=1, b=2), "1")[0]["details"] == "a"


def test_a_failure_of_checks_is_told():
    found = one(custom(RuntimeError("boom"), a=1, b=2))
    assert found["type"] == "exception_during_validation"
    assert found["details"] == "boom"


def test_one_valid_output_is_enough_and_the_errors_are_kept_v12():
    found = check({"1": call("Text", text="x"), "2": call("Show", source=["1", 0]), "3": call("Show")})
    assert found.outputs == ["2"]
    assert found.error is None
    assert set(found.node_errors) == {"3"}


def test_a_shared_bad_node_is_told_once_with_both_outputs_v3():
    raw = {"1": call("Text"), "2": call("Show", source=["1", 0]), "3": call("Show", source=["1", 0])}
    found = check(raw)
    assert found.node_errors["1"]["dependent_outputs"] == ["2", "3"]
    assert len(reasons(found, "1")) == 1


def test_later_failing_outputs_are_listed_with_earlier_errors():
    found = check({"1": call("Show"), "2": call("Show")})
    assert found.node_errors["1"]["dependent_outputs"] == ["1", "2"]
    assert found.node_errors["2"]["dependent_outputs"] == ["2"]


def test_a_cycle_is_named_with_its_members_v13():
    raw = {"a": call("Text", text=["b", 0]), "b": call("Text", text=["a", 0]), "c": call("Show", source=["a", 0])}
    found = check(raw)
    assert found.error["type"] == "prompt_outputs_failed_validation"
    assert set(found.node_errors) == {"a", "b"}
    assert one(found, "a")["type"] == "dependency_cycle"
    assert one(found, "a")["details"].startswith("a → b → a")


def test_a_node_that_takes_itself_is_a_cycle_v13():
    echo = schema("Echo", port("x"), output_node=True)
    assert one(check({"1": call("Echo", x=["1", 0])}, echo))["details"].startswith("1 → 1")


def test_no_output_node_v2():
    assert check({"1": call("Text", text="x")}).error["type"] == "prompt_no_outputs"
    assert check({}).error == {
        "type": "prompt_no_outputs",
        "message": "Prompt has no outputs",
        "details": "",
        "extra_info": {},
    }


def test_targets_choose_among_outputs_v2():
    raw = {"1": call("Text", text="x"), "2": call("Show", source=["1", 0]), "3": call("Show")}
    assert check(raw, targets={"2"}).node_errors == {}
    assert check(raw, targets={"1"}).error["type"] == "prompt_no_outputs"
    assert check(raw, targets=set()).error["type"] == "prompt_no_outputs"


def test_ten_thousand_nodes_validate_without_recursion():
    assert check(ladder(10_000)).outputs == ["end"]


def test_a_cycle_of_ten_thousand_is_named_shortly():
    raw = ladder(10_000)
    raw["0"]["inputs"]["text"] = ["9999", 0]
    found = check(raw)
    assert len(found.node_errors) == 10_000
    assert len(json.dumps(found.node_errors["5"])) < 5_000
