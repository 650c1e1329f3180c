"""Rules G: nodes that return graphs, loops, and who is named for what such nodes do; C9: what is kept of them."""

import pytest

from limner.graph import DuplicateNodeError, DynamicPrompt
from tests.contract.engine.make import POLICIES, call, called, engine, error, out, shown


@pytest.mark.parametrize("policy", POLICIES, ids=str)
async def test_a_returned_graph_runs_in_the_nodes_place(policy, tmp_path):
    """Rules G1, G2, C7: under every cache policy."""
    async with engine(tmp_path, **policy) as b:
        entry = await b.run({"1": call("Twice", text="x"), "2": out("1")})
        assert shown(entry) == {"2": ["xx'"]}
        assert [d["node"] for d in b.data("executing")][:2] == ["1", "1.0.0.q"]


async def test_links_of_a_result_are_waited_for_and_flattened(tmp_path):
    """Rules G2, G3: mapped calls mix plain values and graphs, each resolved in order."""
    async with engine(tmp_path) as b:
        entry = await b.run({"0": call("Count", count=4), "1": call("OddTwice", number=["0", 0]), "2": out("1")})
        assert shown(entry)["2"] == ["0", "odd 1", "2", "odd 3"]


async def test_new_output_nodes_run_too(tmp_path):
    """Rule G2, and R, H: what they show is theirs, with their parent and the prompt's node."""
    async with engine(tmp_path) as b:
        entry = await b.run({"1": call("Shower", text="x"), "2": out("1")})
        assert shown(entry) == {"1.0.0.o": ["x"], "2": ["x"]}
        assert entry["meta"]["1.0.0.o"] == {
            "node_id": "1.0.0.o",
            "display_node": "1",
            "parent_node": "1",
            "real_node_id": "1",
        }


async def test_what_expanded_outputs_showed_is_in_the_history_of_a_cached_run(tmp_path):
    """Rules C9, C11: a parent that is cached is not expanded, and what its nodes showed is told all the same."""
    async with engine(tmp_path) as b:
        raw = {"1": call("Shower", text="x"), "2": out("1")}
        first = await b.run(raw)
        called()
        again = await b.run(raw)
        assert again["outputs"] == first["outputs"]
        assert called() == []


async def test_ids_that_are_there_already_are_refused(tmp_path):
    """Rule G1: graph ids must be new."""
    async with engine(tmp_path) as b:
        entry = await b.run({"1": call("Collide", text="x"), "2": out("1")})
        assert error(entry)["exception_type"].endswith("DuplicateNodeError")
        assert error(entry)["node_id"] == "1"


def test_a_node_that_runs_again_may_return_its_graph_again():
    """Rule Z4: the new definition takes the place of the old, for the same parent."""
    prompt = DynamicPrompt({"1": {"class_type": "A", "inputs": {}}})
    graph = {"1.x": {"class_type": "B", "inputs": {"n": 1}}}
    prompt.grow("1", graph)
    with pytest.raises(DuplicateNodeError):
        prompt.grow("1", graph)
    prompt.grow("1", {"1.x": {"class_type": "B", "inputs": {"n": 2}}}, again={"1.x"})
    assert prompt.get_node("1.x")["inputs"] == {"n": 2}


async def test_events_carry_who_shows_the_progress(tmp_path):
    """Rule G4: display id along the parents; progress_state has parent and real ids too."""
    async with engine(tmp_path) as b:
        await b.run({"1": call("Twice", text="x"), "2": out("1")})
        inner = [d for d in b.data("executing") if d["node"] == "1.0.0.p"]
        assert [d["display_node"] for d in inner] == ["1"]
        state = b.data("progress_state")[-1]["nodes"]["1.0.0.p"]
        assert (state["display_node_id"], state["parent_node_id"], state["real_node_id"]) == ("1", "1", "1")


def test_a_display_id_of_its_own_is_followed():
    """Rule G4: override_display_id, or the parent's."""
    prompt = DynamicPrompt({"1": {"class_type": "A", "inputs": {}}, "7": {"class_type": "A", "inputs": {}}})
    prompt.grow("1", {"a": {"class_type": "B", "inputs": {}, "override_display_id": "7"}})
    prompt.grow("a", {"b": {"class_type": "B", "inputs": {}}})
    assert [prompt.get_display_node_id(one) for one in ("1", "a", "b")] == ["1", "7", "7"]
    assert [prompt.get_real_node_id(one) for one in ("7", "a", "b")] == ["7", "1", "1"]
    assert [prompt.get_parent_node_id(one) for one in ("1", "a", "b")] == [None, "1", "a"]
    assert prompt.all_node_ids() == {"1", "7", "a", "b"}
    assert set(prompt.get_original_prompt()) == {"1", "7"}


async def test_an_unknown_kind_in_a_graph_is_a_key_error(tmp_path):
    """Rule G5: expanded nodes are not validated; an unknown class is found when they are scheduled."""
    async with engine(tmp_path) as b:
        found = error(await b.run({"1": call("Unknown", text="x"), "2": out("1")}))
        assert (found["exception_type"], found["node_id"]) == ("KeyError", "1")
        assert "Nowhere" in found["exception_message"]


async def test_a_raw_link_is_given_as_it_is(tmp_path):
    """Rule G6, and what it links to is not run for it."""
    async with engine(tmp_path) as b:
        entry = await b.run({"0": call("Plain", text="x"), "1": call("Link", text=["0", 0]), "2": out("1")})
        assert shown(entry)["2"] == ["['0', 0]"]
        assert called("Plain") == []


def loop(rounds, text="-", tail="!"):
    return {
        "1": call("LoopOpen", turn=rounds, text=text),
        "4": call("Plain", text=tail),
        "2": call("Join", a=["1", 2], b=["4", 0]),
        "3": call("LoopClose", flow=["1", 0], rounds=rounds, text=["2", 0]),
        "5": out("3"),
    }


@pytest.mark.parametrize("policy", POLICIES, ids=str)
async def test_a_loop_clones_its_body_round_by_round(policy, tmp_path):
    """Rule G7: ids grow with each round."""
    async with engine(tmp_path, **policy) as b:
        entry = await b.run(loop(4))
        assert shown(entry) == {"5": ["-!!!!"]}
        nodes = {d["node"] for d in b.data("executing")}
        assert {"3.0.0.Recurse", "3.0.0.Recurse.0.0.Recurse"} <= nodes
        shows = {d["node"]: d["display_node"] for d in b.data("executing") if d["node"]}
        assert shows["3.0.0.2"] == "2"


async def test_a_loop_under_no_cache_runs_what_lies_outside_it_once_more_at_most(tmp_path):
    """Rule C7: results are handed over; those of the prompt's own nodes stay once a graph has grown."""
    async with engine(tmp_path, cache_none=True) as b:
        await b.run(loop(6))
        assert len(called("Plain")) <= 2


async def test_rounds_that_did_not_change_are_reused(tmp_path):
    """Rule C9: one round more runs only that round."""
    async with engine(tmp_path) as b:
        await b.run(loop(3))
        assert len(called("Join")) == 3
        await b.run(loop(3, tail="!") | {"6": call("Out", text="new")})
        assert called("Join") == []
        await b.run(loop(3, text="+"))
        assert len(called("Join")) == 3


async def test_the_parents_ui_is_told_at_once(tmp_path):
    """Rule G8: ui that comes with a graph does not wait for it."""

    class ShowAndGrow:
        RETURN_TYPES = ("STRING",)
        FUNCTION = "go"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"text": ("STRING", {})}}

        def go(self, text):
            graph = {"g": {"class_type": "Plain", "inputs": {"text": text}}}
            return {"ui": {"text": [text]}, "result": (["g", 0],), "expand": graph}

    async with engine(tmp_path, ShowAndGrow) as b:
        entry = await b.run({"1": call("ShowAndGrow", text="x"), "2": out("1")})
        order = [(event.type, getattr(event, "node", None)) for event in b.events]
        assert order.index(("executed", "1")) < order.index(("executing", "g"))
        assert [d["node"] for d in b.data("executed")] == ["1", "2"]
        assert shown(entry) == {"1": ["x"], "2": ["x"]}


async def test_a_cycle_that_a_graph_brings_about_is_named(tmp_path):
    """Rule R5: DependencyCycleError, blamed on what shows the first member; the history says that it failed."""
    async with engine(tmp_path) as b:
        entry = await b.run({"1": call("Ring", text="x"), "2": out("1")})
        found = error(entry)
        assert found["exception_type"] == "graph.DependencyCycleError"
        assert found["exception_message"].startswith("Dependency cycle detected")
        assert "1.0.0.a" in found["exception_message"]
        assert found["node_id"] == "1"
        assert entry["status"]["completed"] is False


async def test_an_error_inside_a_graph_names_the_prompts_node(tmp_path):
    """Rule R6, and X7: `executed` has ids of expanded nodes too."""
    async with engine(tmp_path) as b:
        found = error(await b.run({"1": call("Crash", text="boom"), "2": out("1")}))
        assert (found["node_id"], found["node_type"]) == ("1", "Crash")
        assert found["exception_message"] == "boom\n"
        assert found["current_inputs"] == {"text": ["boom"]}


async def test_executed_lists_expanded_nodes_too(tmp_path):
    """Rule X7."""
    async with engine(tmp_path) as b:
        raw = {"1": call("Twice", text="x"), "3": call("Fails", text=["1", 0]), "2": out("3")}
        assert error(await b.run(raw))["executed"] == ["1.0.0.q", "1.0.0.p", "1.0.0.j", "1"]


async def test_a_coroutine_may_return_a_graph(tmp_path):
    """Rules A1, G1."""
    async with engine(tmp_path) as b:
        assert shown(await b.run({"1": call("LaterTwice", text="x"), "2": out("1")})) == {"2": ["x"]}
