"""Rules V on whole prompts, as the engine answers them: which errors, on which node, and what runs all the same."""

import pytest

from limner.engine import PromptRejected
from limner.graph import kinds_match
from tests.contract.engine import classes
from tests.contract.engine.make import call, called, engine, out, shown


class Picky(classes.Node):
    """Says what it was asked to validate."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"a": ("INT", {"max": 5}), "b": ("INT", {"max": 5}), "c": (["x", "y"], {})},
            "hidden": {"prompt": "PROMPT", "dynprompt": "DYNPROMPT"},
        }

    def go(self, a, b, c, **hidden):
        return (f"{a} {b} {c}",)


class Named(Picky):
    @classmethod
    def VALIDATE_INPUTS(cls, a, c, prompt, dynprompt, b=None):
        classes.calls.append(("asked", (a, b, c, prompt, dynprompt)))
        return True


class Everything(Picky):
    @classmethod
    def VALIDATE_INPUTS(cls, **inputs):
        classes.calls.append(("asked", sorted(inputs)))
        return "never" if inputs["a"] == 99 else True


class Types(classes.Node):
    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        classes.calls.append(("asked", input_types))
        return True if input_types.get("text") in (None, "STRING", "INT") else "wants a text or a number"

    def go(self, text):
        return (str(text),)


class OfLists(classes.Node):
    INPUT_IS_LIST = True

    @classmethod
    def VALIDATE_INPUTS(cls, text):
        classes.calls.append(("asked", text))
        return True

    def go(self, text):
        return ("".join(text),)


class Breaks(classes.Node):
    @classmethod
    def VALIDATE_INPUTS(cls, text):
        raise RuntimeError("cannot say")


class Any(str):
    """The kind of packs that fits everything."""

    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


class Wild(classes.Node):
    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"thing": (Any("ANYTHING"), {})}}

    def go(self, thing):
        return {"ui": {"text": [str(thing)]}}


class AlmostOutput(classes.Node):
    OUTPUT_NODE = 1


async def refusal(b, raw, **body):
    """The 400 that a prompt gets: top-level error and node errors."""
    with pytest.raises(PromptRejected) as refused:
        await b.engine.submit({"prompt": raw, **body})
    return refused.value.error, refused.value.node_errors


async def test_the_first_unknown_or_nameless_node_refuses_the_prompt(tmp_path):
    """Rule V1: also where no output needs it."""
    async with engine(tmp_path) as b:
        good = {"1": call("Out", text="x")}
        for bad, says in (({"inputs": {}}, "missing the class_type"), (call("Nowhere"), "Nowhere does not exist")):
            top, nodes = await refusal(b, good | {"7": bad, "8": call("Neither")})
            assert (top["type"], top["details"], nodes) == ("invalid_prompt", "Node ID '#7'", {})
            assert says in top["message"]


async def test_outputs_are_what_is_exactly_an_output_and_asked_for(tmp_path):
    """Rule V2."""
    async with engine(tmp_path, AlmostOutput) as b:
        top, _ = await refusal(b, {"1": call("AlmostOutput", text="x")})
        assert (top["type"], top["message"], top["details"]) == ("prompt_no_outputs", "Prompt has no outputs", "")
        raw = {"1": call("Plain", text="x"), "2": out("1"), "3": call("Out", text="y")}
        assert shown(await b.run(raw, partial_execution_targets=["2", "1"])) == {"2": ["x"]}
        top, _ = await refusal(b, raw, partial_execution_targets=["1"])
        assert top["type"] == "prompt_no_outputs"


async def test_a_shared_bad_node_is_told_once(tmp_path):
    """Rules V3, V7: with both outputs that need it; nodes above it have no error of their own."""
    async with engine(tmp_path) as b:
        raw = {"1": call("Plain"), "2": call("Plain", text=["1", 0]), "3": out("2"), "4": out("2")}
        top, nodes = await refusal(b, raw)
        assert top["type"] == "prompt_outputs_failed_validation"
        assert top["details"] == ""
        assert set(nodes) == {"1"}
        assert nodes["1"]["dependent_outputs"] == ["3", "4"]


async def test_missing_and_undeclared_inputs(tmp_path):
    """Rule V4: undeclared ones stay in the stored prompt and are not passed."""
    async with engine(tmp_path) as b:
        top, nodes = await refusal(b, {"2": call("Out")})
        (found,) = nodes["2"]["errors"]
        assert (found["type"], found["details"]) == ("required_input_missing", "text")
        assert top["details"] == "Required input is missing: text"
        entry = await b.run({"2": call("Out", text="x", more="y")})
        assert entry["prompt"][2]["2"]["inputs"]["more"] == "y"


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        (["1"], "bad_linked_input"),
        (["9", 0], "exception_during_validation"),
        (["1", 7], "exception_during_validation"),
        (["1", 0.5], "exception_during_validation"),
    ],
)
async def test_links_that_lead_nowhere(link, kind, tmp_path):
    """Rule V5."""
    async with engine(tmp_path) as b:
        _, nodes = await refusal(b, {"1": call("Plain", text="x"), "2": call("Out", text=link)})
        assert [one["type"] for one in nodes["2"]["errors"]] == [kind]


async def test_one_level_deeper_the_linked_node_has_the_error(tmp_path):
    """Rule V5: exception_during_inner_validation."""
    async with engine(tmp_path) as b:
        _, nodes = await refusal(b, {"1": call("Plain", text=["9", 0]), "2": out("1")})
        assert [one["type"] for one in nodes["1"]["errors"]] == ["exception_during_inner_validation"]


async def test_other_kinds_are_a_mismatch_unless_the_class_looks_itself(tmp_path):
    """Rule V6: VALIDATE_INPUTS that declares input_types gets them, and the check before it is left out."""
    async with engine(tmp_path, Types) as b:
        count = {"0": call("Count", count=1)}
        _, nodes = await refusal(b, count | {"1": call("Plain", text=["0", 0]), "2": out("1")})
        (found,) = nodes["1"]["errors"]
        assert found["type"] == "return_type_mismatch"
        assert found["details"] == "text, received_type(INT) mismatch input_type(STRING)"
        assert shown(await b.run(count | {"1": call("Types", text=["0", 0]), "2": out("1")})) == {"2": ["0"]}
        assert called("asked") == [{"text": "INT"}]
        raw = {"0": call("LoopOpen", turn=1, text=""), "1": call("Types", text=["0", 0]), "2": out("1")}
        _, nodes = await refusal(b, raw)
        assert [one["details"] for one in nodes["1"]["errors"]] == ["input_types - wants a text or a number"]


async def test_a_kind_that_is_never_unequal_fits_everything(tmp_path):
    """Rule V6, as packs use it: a subclass of str whose != is never true."""
    assert kinds_match("INT", Any("ANYTHING"))
    assert kinds_match(Any("ANYTHING"), "INT")
    async with engine(tmp_path, Wild) as b:
        assert shown(await b.run({"0": call("Count", count=1), "1": call("Wild", thing=["0", 0])})) == {"1": ["0"]}


async def test_values_are_converted_and_stored_so(tmp_path):
    """Rule V8: visible in the history."""
    async with engine(tmp_path) as b:
        raw = {"0": call("Count", count="2"), "1": call("Out", text=["0", 0])}
        entry = await b.run(raw)
        assert entry["prompt"][2]["0"]["inputs"] == {"count": 2}
        _, nodes = await refusal(b, {"0": call("Count", count="two"), "1": out("0")})
        assert nodes["0"]["errors"][0]["type"] == "invalid_input_type"


async def test_bounds_and_choices_are_checked_unless_the_class_takes_the_input_over(tmp_path):
    """Rules V9, V10: first failing check only; by name or by **kwargs."""
    async with engine(tmp_path, Picky, Named, Everything) as b:
        _, nodes = await refusal(b, {"1": call("Picky", a=9, b=-1, c="z"), "2": out("1")})
        assert [one["type"] for one in nodes["1"]["errors"]] == ["value_bigger_than_max", "value_not_in_list"]
        for kind in ("Named", "Everything"):
            entry = await b.run({"1": call(kind, a=9, b=9, c="z"), "2": out("1")})
            assert shown(entry) == {"2": ["9 9 z"]}


async def test_validate_inputs_is_given_constants_by_name(tmp_path):
    """Rule V11: linked inputs are None, names filtered to the signature, PROMPT is {} and DYNPROMPT None."""
    async with engine(tmp_path, Named, Everything) as b:
        raw = {"0": call("Count", count=1), "1": call("Named", a=1, b=["0", 0], c="x"), "2": out("1")}
        await b.run(raw)
        assert called("asked") == [(1, None, "x", {}, None)]
        _, nodes = await refusal(b, {"1": call("Everything", a=99, b=1, c="x"), "2": out("1")})
        assert [one["details"] for one in nodes["1"]["errors"]] == ["a - never", "b - never", "c - never"]
        assert called("asked") == [["a", "b", "c", "dynprompt", "prompt"]]


async def test_validate_inputs_of_a_class_that_takes_lists_is_given_lists(tmp_path):
    """Rule V11: mapped as the calls are."""
    async with engine(tmp_path, OfLists) as b:
        await b.run({"1": call("OfLists", text="x"), "2": out("1")})
        assert called("asked") == [["x"]]


async def test_a_class_that_breaks_while_validating_says_so(tmp_path):
    """Rules V11, V14."""
    async with engine(tmp_path, Breaks) as b:
        _, nodes = await refusal(b, {"1": call("Breaks", text="x"), "2": out("1")})
        (found,) = nodes["1"]["errors"]
        assert (found["type"], found["details"]) == ("exception_during_validation", "cannot say")


async def test_one_valid_output_is_enough(tmp_path):
    """Rule V12: only valid outputs run, and the errors are told all the same."""
    async with engine(tmp_path) as b:
        accepted = await b.engine.submit({"prompt": {"1": call("Out", text="x"), "2": call("Out")}})
        assert set(accepted.node_errors) == {"2"}
        assert shown(await b.engine.wait(accepted.prompt_id)) == {"1": ["x"]}


async def test_a_static_cycle_is_refused_and_named(tmp_path):
    """Rule V13: the shape of ComfyUI's answer, with the members it leaves out."""
    async with engine(tmp_path) as b:
        raw = {"1": call("Plain", text=["2", 0]), "2": call("Plain", text=["1", 0]), "3": out("2")}
        top, nodes = await refusal(b, raw)
        assert (top["type"], top["details"]) == ("prompt_outputs_failed_validation", "")
        assert {node: one["errors"][0]["extra_info"]["members"] for node, one in nodes.items()} == {
            "1": ["2", "1"],
            "2": ["2", "1"],
        }


@pytest.mark.parametrize("raw", [[], None, "x", 1, {"1": None}, {"1": []}, {"1": {"class_type": ["Out"]}}])
async def test_no_shape_of_prompt_crashes(raw, tmp_path):
    """Rule V14."""
    async with engine(tmp_path, started=False) as b:
        top, _ = await refusal(b, raw)
        assert top["type"] in ("prompt_no_outputs", "invalid_prompt", "no_prompt")


async def test_ten_thousand_nodes_in_a_row_are_validated(tmp_path):
    """Rules V13, V14: without recursion."""
    raw = {"0": call("Trim", string="x", mode="Both")}
    raw |= {str(i): call("Trim", string=[str(i - 1), 0], mode="Both") for i in range(1, 10_000)}
    async with engine(tmp_path, started=False) as b:
        accepted = await b.engine.submit({"prompt": raw | {"end": call("Show", source=["9999", 0])}})
        assert accepted.node_errors == {}
