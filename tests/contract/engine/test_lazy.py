"""Rules L: inputs that run only when they are asked for."""

import pytest

from tests.contract.engine import classes
from tests.contract.engine.make import POLICIES, call, called, engine, error, out, shown


class Choose(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        lazy = ("STRING", {"lazy": True})
        return {"required": {"which": ("STRING", {})}, "optional": {"a": lazy, "b": lazy}}

    def check_lazy_status(self, which, a=None, b=None):
        classes.calls.append(("asked", (a, b)))
        if which == "none":
            return None
        return [name for name in which if {"a": a, "b": b}.get(name) is None]

    def go(self, which, a=None, b=None):
        return (f"{a} {b}",)


class ChooseList(Choose):
    INPUT_IS_LIST = True

    def check_lazy_status(self, which, a, b):
        classes.calls.append(("asked", (which, a, b)))
        return ["a"] if a == (None,) else []

    def go(self, which, a, b=None):
        return (f"{a} {b}",)


def prompt(which, kind="Choose", **more):
    raw = {"x": call("Plain", text="x"), "y": call("Plain", text="y")}
    given = {"a": ["x", 0], "b": ["y", 0], **more}
    return raw | {"m": call(kind, which=which, **given), "o": out("m")}


@pytest.mark.parametrize("policy", POLICIES, ids=str)
async def test_only_what_is_asked_for_runs_and_each_attempt_is_told(policy, tmp_path):
    """Rules L1, L2, C7: executing m, x, m, o under every policy."""
    async with engine(tmp_path, Choose, **policy) as b:
        assert shown(await b.run(prompt("a"))) == {"o": ["x None"]}
        assert [d["node"] for d in b.data("executing")] == ["m", "x", "m", "o", None]
        assert called("asked") == [(None, None), ("x", None)]
        assert called("Plain") == []


async def test_what_is_there_already_is_given_at_once(tmp_path):
    """Rule L1: missing ones are None, others are not."""
    async with engine(tmp_path, Choose) as b:
        raw = prompt("b") | {"0": out("x")}
        assert shown(await b.run(raw))["o"] == ["x y"]


@pytest.mark.parametrize("which", ["none", ""])
async def test_nothing_may_be_asked_for(which, tmp_path):
    """Rules L3, L5: None returns are allowed; what is never asked for is None."""
    async with engine(tmp_path, Choose) as b:
        assert shown(await b.run(prompt(which))) == {"o": ["None None"]}
        assert called("Plain") == []


@pytest.mark.parametrize("name", ["a", "c"])
async def test_asking_for_what_is_no_link_is_an_error(name, tmp_path):
    """Rule L3: a constant that is missing, or a name that is not there."""
    async with engine(tmp_path, Choose) as b:
        raw = prompt(name)
        del raw["m"]["inputs"]["a"]
        found = error(await b.run(raw))
        assert found["exception_type"].endswith("NodeInputError")
        assert found["node_id"] == "m"


async def test_with_lists_a_missing_value_is_a_tuple_of_none(tmp_path):
    """Rule L4."""
    async with engine(tmp_path, ChooseList) as b:
        assert shown(await b.run(prompt("a", "ChooseList"))) == {"o": ["['x'] [None]"]}
        assert called("asked")[0] == (("a",), (None,), (None,))
