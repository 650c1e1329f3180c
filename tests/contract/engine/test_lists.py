"""Rules M: every slot is a list, and calls are mapped over them."""

import pytest

from limner.graph import NodeResult
from tests.contract.engine import classes
from tests.contract.engine.make import call, called, engine, error, out, shown


class Pair(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("INT", {}), "b": ("INT", {})}}

    def go(self, a, b):
        classes.calls.append(("Pair", (a, b)))
        return (f"{a}{b}",)


class Whole(classes.Node):
    INPUT_IS_LIST = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("INT", {}), "b": ("INT", {})}}

    def go(self, a, b):
        classes.calls.append(("Whole", (a, b)))
        return (f"{a} {b}",)


class Spread(classes.Node):
    """A list output beside a plain one."""

    RETURN_TYPES = ("INT", "INT")
    OUTPUT_IS_LIST = (True, False)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def go(self, number):
        return ([number, number], number)


class Bare(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def go(self):
        classes.calls.append(("Bare", ()))
        return ("bare",)


class Hidden(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}, "hidden": {"me": "UNIQUE_ID"}}

    def go(self, number, me):
        return (f"{me}:{number}",)


class Shows(classes.Node):
    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def go(self, number):
        return {"ui": {"text": [str(number)], "more": (number,)}}


class Fewer(classes.Node):
    """Gives fewer values than it has outputs."""

    RETURN_TYPES = ("STRING", "STRING")

    def go(self, text):
        return (text,)


ALL = (Pair, Whole, Spread, Bare, Hidden, Shows, Fewer)


def counts(**of):
    return {name: call("Count", count=count) for name, count in of.items()}


async def test_a_link_brings_its_list_and_a_constant_a_list_of_one(tmp_path):
    """Rules M1, M2: shorter lists repeat their last element (3 × 2: 00, 11, 21)."""
    async with engine(tmp_path, *ALL) as b:
        raw = counts(x=3, y=2) | {"1": call("Pair", a=["x", 0], b=["y", 0]), "2": out("1")}
        assert shown(await b.run(raw)) == {"2": ["00", "11", "21"]}
        raw = counts(x=2) | {"1": call("Pair", a=["x", 0], b=9), "2": out("1")}
        assert shown(await b.run(raw)) == {"2": ["09", "19"]}


async def test_list_outputs_are_joined_and_others_appended(tmp_path):
    """Rule M3."""
    async with engine(tmp_path, *ALL) as b:
        raw = counts(x=2) | {"1": call("Spread", number=["x", 0]), "2": out("1", 0), "3": out("1", 1)}
        assert shown(await b.run(raw)) == {"2": ["0", "0", "1", "1"], "3": ["0", "1"]}


async def test_a_class_that_takes_lists_is_called_once_with_all(tmp_path):
    """Rule M4: a constant is [v]."""
    async with engine(tmp_path, *ALL) as b:
        await b.run(counts(x=3) | {"1": call("Whole", a=["x", 0], b=9), "2": out("1")})
        assert called("Whole") == [([0, 1, 2], [9])]


async def test_no_inputs_are_one_call_and_hidden_ones_are_lists_of_one(tmp_path):
    """Rule M5."""
    async with engine(tmp_path, *ALL) as b:
        raw = counts(x=2) | {"1": call("Bare"), "2": out("1"), "3": call("Hidden", number=["x", 0]), "4": out("3")}
        assert shown(await b.run(raw)) == {"2": ["bare"], "4": ["3:0", "3:1"]}
        assert called("Bare") == [()]


@pytest.mark.parametrize(("b", "kind"), [(["x", 0], "TypeError"), (1, "IndexError")])
async def test_empty_lists(b, kind, tmp_path):
    """Rule M6: all empty is one call without arguments; some empty has no last element."""
    async with engine(tmp_path, *ALL) as bench:
        found = error(await bench.run(counts(x=0) | {"1": call("Pair", a=["x", 0], b=b), "2": out("1")}))
        assert found["exception_type"] == kind
        if kind == "IndexError":
            assert found["exception_message"] == "list index out of range\n"


async def test_ui_is_joined_by_key(tmp_path):
    """Rule M7."""
    async with engine(tmp_path, *ALL) as b:
        entry = await b.run(counts(x=2) | {"1": call("Shows", number=["x", 0])})
        assert entry["outputs"]["1"] == {"text": ["0", "1"], "more": [0, 1]}


async def test_each_call_asks_the_source_for_what_to_call_once_per_node(tmp_path):
    """Rule M8, the engine's part: the instance of a V1 class is one; a V3 source gives a fresh class in each call."""
    from tests.engine.classes import ClassSource

    class Fresh(ClassSource):
        def function(self, kind, instance):
            return lambda **inputs: NodeResult((str(id(instance) == first.setdefault("id", id(instance))),))

    first: dict[str, int] = {}
    async with engine(tmp_path, source=Fresh({"One": Pair})) as b:
        raw = counts(x=2) | {"1": call("One", a=["x", 0], b=1), "2": out("1")}
        assert shown(await b.run(raw)) == {"2": ["True", "True"]}


async def test_a_class_may_give_fewer_values_than_it_has_outputs(tmp_path):
    """As packs do: only who needs the missing one fails, and is told."""
    async with engine(tmp_path, *ALL) as b:
        raw = {"1": call("Fewer", text="x"), "2": out("1", 0)}
        assert shown(await b.run(raw)) == {"2": ["x"]}
        found = error(await b.run(raw | {"3": out("1", 1)}))
        assert found["node_id"] == "3"
        assert "gave 1 outputs" in found["exception_message"]
