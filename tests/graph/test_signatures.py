from dataclasses import replace

import pytest

from limner.graph import Link, NodeCall, parse, plan
from tests.graph.make import call, chain, ladder, port, schema, table


def changed(before, after, target):
    old, new = plan(before, [target]).signatures, plan(after, [target]).signatures
    return {node for node in new if new[node] != old[node]}


def alone(value, kind="Text", **options):
    return plan({"1": NodeCall(kind, {"text": value})}, ["1"], **options).signatures["1"]


def test_changing_a_seed_reruns_only_what_lies_downstream():
    before = chain("load", "encode", "sample", "decode", "save")
    after = before | {"sample": replace(before["sample"], inputs={**before["sample"].inputs, "seed": 2})}
    assert changed(before, after, "save") == {"sample", "decode", "save"}


def test_renaming_a_node_keeps_its_signature():
    assert plan(chain("x", "y"), ["y"]).signatures["y"] == plan(chain("p", "q"), ["q"]).signatures["q"]


def test_the_order_of_inputs_does_not_matter():
    a = {"1": NodeCall("Join", {"a": "x", "b": "y"})}
    b = {"1": NodeCall("Join", {"b": "y", "a": "x"})}
    assert plan(a, ["1"]).signatures == plan(b, ["1"]).signatures


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.5), (1, "1"), (True, "True"), (None, "None"), ("a", "b"), ([1], [2]), ({"a": 1}, {"b": 1})]
)
def test_other_constants_are_other_signatures(one, other):
    assert alone(one) != alone(other)


@pytest.mark.parametrize("value", [1, 1.5, "é", "\ud800", None, True, [1, [2]], {"b": 1, "a": [None]}, b"x"])
def test_equal_constants_are_equal_signatures(value):
    assert alone(value) == alone(value)


@pytest.mark.parametrize("value", [float("nan"), [float("nan")], object(), {"a": {1}}])
def test_what_cannot_be_compared_is_never_equal_c2(value):
    assert alone(value) != alone(value)


def test_neighbouring_texts_do_not_run_together():
    a = {"1": NodeCall("Join", {"a": "xb", "b": ""})}
    b = {"1": NodeCall("Join", {"a": "x", "b": "b"})}
    assert plan(a, ["1"]).signatures != plan(b, ["1"]).signatures


def test_the_place_of_an_output_counts():
    def made(slot):
        return {"1": NodeCall("Text", {}), "2": NodeCall("Text", {"text": Link("1", slot)})}

    assert plan(made(0), ["2"]).signatures["2"] != plan(made(1), ["2"]).signatures["2"]


def test_an_unknown_extra_input_takes_part_c4():
    def made(**more):
        return parse({"1": call("Text", text="x", **more)})

    assert plan(made(), ["1"], table()).signatures != plan(made(note=1), ["1"], table()).signatures


def test_a_link_in_an_unknown_input_is_not_followed_c4():
    raw = {"1": call("Text", text="x"), "2": call("Text", text="y", more=["1", 0])}
    other = {**raw, "1": call("Text", text="z")}
    signed = [plan(parse(one), ["2"], table()).signatures["2"] for one in (raw, other)]
    assert signed[0] == signed[1]


def made_of(name, **traits):
    registry = table(schema("Own", port("text"), **traits))
    prompt = {name: NodeCall("Own", {"text": "x"})}
    return plan(prompt, [name], registry).signatures[name]


def test_a_node_that_is_not_idempotent_is_signed_with_its_id_c2():
    assert made_of("1", not_idempotent=True) != made_of("2", not_idempotent=True)
    assert made_of("1") == made_of("2")


def test_so_is_a_node_that_sees_its_id_c2():
    assert made_of("1", hidden={"u": "UNIQUE_ID"}) != made_of("2", hidden={"u": "UNIQUE_ID"})
    assert made_of("1", hidden={"p": "PROMPT"}) == made_of("2", hidden={"p": "PROMPT"})


CHANGING = table(schema("Own", port("text"), companions=frozenset({"changes_when"})))


def fingerprinted(value, **extra):
    prompt = {"1": NodeCall("Own", {"text": "x"}, extra), "2": NodeCall("Text", {"text": Link("1", 0)})}
    return plan(prompt, ["2"], CHANGING, lambda *_: value).signatures["2"]


def test_a_fingerprint_takes_part_downstream_too_i3():
    assert fingerprinted(1) != fingerprinted(2)
    assert fingerprinted("a") == fingerprinted("a")
    assert fingerprinted(False) == fingerprinted(False)


def test_a_fingerprint_of_nan_is_never_equal_i3():
    assert fingerprinted(float("nan")) != fingerprinted(float("nan"))


def test_a_fingerprint_of_the_client_bypasses_the_companion_i1():
    assert fingerprinted(1, is_changed=5) == fingerprinted(2, is_changed=5)


def test_a_missing_node_and_a_cycle_are_signed_unlike_all():
    prompt = parse(
        {"1": call("Text", text=["gone", 0]), "a": call("Text", text=["b", 0]), "b": call("Text", text=["a", 0])}
    )
    first, second = plan(prompt, []).signatures, plan(prompt, []).signatures
    assert all(first[node] != second[node] for node in ("1", "a", "b"))


def test_a_diamond_is_signed_once():
    asked = []
    registry = table(schema("Own", port("text"), companions=frozenset({"changes_when"})))
    raw = {
        "1": call("Own", text="x"),
        "2": call("Join", a=["1", 0], b=["1", 0]),
        "3": call("Join", a=["2", 0], b=["1", 0]),
    }
    plan(parse(raw), ["3"], registry, lambda node, *_: asked.append(node))
    assert asked == ["1"]


def test_ten_thousand_nodes_are_signed_without_recursion():
    prompt = parse(ladder(10_000))
    assert len(plan(prompt, ["end"]).signatures) == 10_001
