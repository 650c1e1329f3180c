from limner.graph import Schedule, parse, plan
from tests.graph.make import call, ladder


def order(raw, *outputs, **options):
    prompt = parse(raw)
    schedule = Schedule(prompt, outputs, **options)
    found = []
    while (node := schedule.next()) is not None:
        found.append(node)
        schedule.done(node)
    return found


DIAMOND = {
    "load": call("Text", text="x"),
    "left": call("Text", text=["load", 0]),
    "right": call("Text", text=["load", 0]),
    "save": call("Join", a=["left", 0], b=["right", 0]),
}


def test_each_node_comes_after_what_it_needs():
    found = order(DIAMOND, "save")
    assert found[0] == "load"
    assert found[-1] == "save"
    assert sorted(found) == sorted(DIAMOND)


def test_only_what_outputs_need_runs_x1():
    raw = {**DIAMOND, "other": call("Text", text="y")}
    assert "other" not in order(raw, "save")


def test_an_output_that_is_ready_comes_first_x3():
    raw = {
        "a": call("Text", text="x"),
        "show": call("Show", source=["a", 0]),
        "b": call("Text", text=["a", 0]),
        "c": call("Text", text=["b", 0]),
        "save": call("Show", source=["c", 0]),
    }
    assert order(raw, "save", "show") == ["a", "show", "b", "c", "save"]


def test_then_what_feeds_an_output_then_what_feeds_that_x3():
    raw = {
        "far": call("Text", text=""),
        "x": call("Text", text=["far", 0]),
        "y": call("Text", text=["x", 0]),
        "save": call("Show", source=["y", 0]),
        "near": call("Text", text=""),
        "show": call("Show", source=["near", 0]),
    }
    assert order(raw, "save", "show")[:2] == ["near", "show"]


def test_a_cached_node_blocks_nobody_and_is_not_scheduled_x4():
    assert order(DIAMOND, "save", cached={"left": 1, "right": 1}.get) == ["save"]


def test_a_cached_output_is_visited_alone_c10():
    assert order(DIAMOND, "save", cached={"save": 1}.get) == ["save"]


def test_a_cycle_leaves_nodes_unfinished():
    raw = {"a": call("Text", text=["b", 0]), "b": call("Text", text=["a", 0])}
    schedule = Schedule(parse(raw), ["a"])
    assert schedule.next() is None
    assert set(schedule.unfinished()) == {"a", "b"}


def test_a_lazy_input_waits_only_once_it_is_asked_for_l1():
    raw = {"x": call("Text", text=""), "m": call("Text", text=["x", 0])}
    schedule = Schedule(parse(raw), ["m"], strong=lambda node, call: [])
    assert schedule.next() == "m"
    assert schedule.require("m", ["x"])
    assert schedule.next() == "x"
    schedule.done("x")
    assert schedule.next() == "m"
    assert not schedule.require("m", ["x"])


def test_the_order_of_ten_thousand_nodes_needs_no_recursion():
    assert len(plan(parse(ladder(10_000)), ["end"]).order()) == 10_001


def test_a_node_with_ten_thousand_inputs_is_planned():
    raw = {str(i): call("Text", text="") for i in range(10_000)}
    raw["all"] = call("Join", **{f"i{i}": [str(i), 0] for i in range(10_000)})
    assert len(plan(parse(raw), ["all"]).order()) == 10_001
