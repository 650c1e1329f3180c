"""Kinds that are classes of packs: looked up, validated and run through a NodeSource."""

import asyncio

from limner.graph import CURRENT_RUN, Blocker
from tests.engine.classes import ClassSource
from tests.engine.make import bench, call, registry


class Node:
    """What most classes below share."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}


class Echo(Node):
    def go(self, text):
        return (text + "!",)


class Count(Node):
    """Says how often this instance was called."""

    def __init__(self):
        self.calls = 0

    @classmethod
    def IS_CHANGED(cls, text):
        return float("nan")

    def go(self, text):
        self.calls += 1
        return (f"{text} {self.calls}",)


class Where(Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def go(self, number):
        run = CURRENT_RUN.get()
        return (f"{run.node_id} {run.list_index}",)


class WhereLater(Where):
    async def go(self, number):
        await asyncio.sleep(0)
        run = CURRENT_RUN.get()
        return (f"{run.node_id} {run.list_index}",)


class Stop(Blocker):
    """A blocker as a pack may derive it."""


class Half(Node):
    RETURN_TYPES = ("STRING", "STRING")

    def go(self, text):
        return (text, Stop("no second"))


class Moody(Node):
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        raise RuntimeError("not today")


class Say(Node):
    """Has the name of a built-in node."""

    def go(self, text):
        return (text.upper(),)


def shown(entry):
    return {node: ui["text"] for node, ui in entry["outputs"].items()}


def one(kind, **inputs):
    return {"1": call(kind, **inputs), "2": call("Show", source=["1", 0])}


async def test_a_class_of_a_pack_runs(tmp_path):
    async with bench(tmp_path, Echo) as b:
        assert shown(await b.run(one("Echo", text="hi"))) == {"2": ["hi!"]}


async def test_a_built_in_node_wins_unless_the_source_overrides_it(tmp_path):
    async with bench(tmp_path, Say) as b:
        assert shown(await b.run(one("Say", text="hi"))) == {"2": ["hi"]}
    async with bench(tmp_path / "other", source=ClassSource({"Say": Say}, frozenset({"Say"}))) as b:
        assert shown(await b.run(one("Say", text="hi"))) == {"2": ["HI"]}


def test_kinds_of_sources_come_after_the_built_in_ones():
    kinds = registry()
    kinds.add_source(ClassSource({"Echo": Echo, "Say": Say}))
    assert kinds.kinds()[-1] == "Echo"
    assert "Echo" in kinds
    assert kinds.source("Say") is None
    assert kinds.describe("Echo", None)["name"] == "Echo"


async def test_an_instance_lives_while_its_node_is_in_consecutive_prompts_c1(tmp_path):
    async with bench(tmp_path, Count) as b:
        assert shown(await b.run(one("Count", text="a"))) == {"2": ["a 1"]}
        assert shown(await b.run(one("Count", text="b"))) == {"2": ["b 2"]}
        await b.run({"9": call("Show", source="x")})
        assert shown(await b.run(one("Count", text="c"))) == {"2": ["c 1"]}


async def test_free_memory_drops_instances_c12(tmp_path):
    async with bench(tmp_path, Count) as b:
        await b.run(one("Count", text="a"))
        b.engine.free(free_memory=True)
        await asyncio.sleep(0.05)
        assert shown(await b.run(one("Count", text="a"))) == {"2": ["a 1"]}


async def test_the_current_run_names_node_and_element_also_in_tasks_a3(tmp_path):
    async with bench(tmp_path, Where, WhereLater) as b:
        raw = {
            "0": call("Numbers", count=2),
            "1": call("Where", number=["0", 0]),
            "2": call("WhereLater", number=["0", 0]),
            "3": call("Show", source=["1", 0]),
            "4": call("Show", source=["2", 0]),
        }
        assert shown(await b.run(raw)) == {"3": ["1 0", "1 1"], "4": ["2 0", "2 1"]}


async def test_a_blocker_of_a_pack_blocks_only_its_output_b1(tmp_path):
    async with bench(tmp_path, Half) as b:
        raw = one("Half", text="x") | {"3": call("Show", source=["1", 1])}
        assert shown(await b.run(raw)) == {"2": ["x"]}
        assert [d["exception_message"] for d in b.data("execution_error")] == ["Execution Blocked: no second"]


async def test_a_class_that_fails_to_say_its_inputs_refuses_the_prompt_in_its_words(tmp_path):
    from limner.engine import PromptRejected

    async with bench(tmp_path, Moody, Echo) as b:
        try:
            await b.engine.submit({"prompt": {"1": call("Moody")}})
        except PromptRejected as error:
            (found,) = error.node_errors["1"]["errors"]
            assert (found["type"], found["details"]) == ("exception_during_validation", "not today")
        assert set(b.engine.object_info()) & {"Moody", "Echo"} == {"Echo"}
