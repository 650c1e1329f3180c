"""Rules I: IS_CHANGED and fingerprint_inputs."""

import pytest

from tests.contract.engine import classes
from tests.contract.engine.make import call, called, engine, out


class Tracked(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"text": ("STRING", {})},
            "optional": {"more": ("STRING", {})},
            "hidden": {"prompt": "PROMPT"},
        }

    @classmethod
    def IS_CHANGED(cls, text, more="absent", prompt=None):
        classes.calls.append(("asked", (text, more, prompt)))
        if text == "fails":
            raise OSError("gone")
        return {"always": float("nan"), "never": False}.get(text, text)

    def go(self, text, more="absent", prompt=None):
        classes.calls.append(("Tracked", prompt))
        return (text or "linked",)


class Listed(classes.Node):
    INPUT_IS_LIST = True

    @classmethod
    def IS_CHANGED(cls, text):
        classes.calls.append(("asked", text))
        return "x"


class Grows(classes.Node):
    def go(self, text):
        at = classes.prefix()
        return {"result": ([at + "t", 0],), "expand": {at + "t": classes.made("Tracked", text=text)}}


def tracked(text, **more):
    return {"1": call("Tracked", text=text, **more), "2": out("1")}


async def test_each_node_is_asked_once_a_prompt_and_the_answer_is_in_its_prompt(tmp_path):
    """Rules I1, H1: stored as is_changed, which hidden PROMPT has; also nodes that no output needs are asked."""
    async with engine(tmp_path, Tracked) as b:
        entry = await b.run(tracked("never") | {"9": call("Tracked", text="x")})
        assert len(called("asked")) == 2
        assert "is_changed" not in entry["prompt"][2]["1"]
        await b.run(tracked("other"))
        (seen,) = called("Tracked")
        assert seen["1"]["is_changed"] == ["other"]


async def test_a_client_that_sends_it_goes_past_the_class(tmp_path):
    """Rule I1."""
    async with engine(tmp_path, Tracked) as b:
        raw = tracked("always")
        raw["1"]["is_changed"] = ["mine"]
        await b.run(raw)
        assert called("asked") == []
        await b.run(raw)
        assert called("Tracked") == []


async def test_linked_inputs_are_none_and_the_prompt_is_empty(tmp_path):
    """Rule I2."""
    async with engine(tmp_path, Tracked, Listed) as b:
        await b.run({"0": call("Plain", text="x"), "1": call("Tracked", text=["0", 0]), "2": out("1")})
        assert called("asked") == [(None, "absent", {})]
        await b.run({"1": call("Listed", text="x"), "2": out("1")})
        assert called("asked") == [["x"]]


@pytest.mark.parametrize(("text", "again"), [("always", True), ("never", False), ("same", False), ("fails", True)])
async def test_answers_are_compared_by_equality(text, again, tmp_path):
    """Rule I3: NaN is never equal, and an exception counts as NaN; downstream runs too."""
    async with engine(tmp_path, Tracked) as b:
        await b.run(tracked(text))
        called()
        await b.run(tracked(text))
        assert bool(called("Tracked")) is again


async def test_nodes_that_an_expansion_makes_are_asked_when_they_are_made(tmp_path):
    """Rule I4."""
    async with engine(tmp_path, Tracked, Grows) as b:
        await b.run({"1": call("Grows", text="x"), "2": out("1")})
        assert called("asked") == [("x", "absent", {})]
