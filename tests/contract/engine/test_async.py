"""Rules A: nodes that are coroutines; other nodes go on meanwhile, and none is left running."""

import asyncio
import time

import pytest

from limner.graph import CURRENT_RUN
from tests.contract.engine import classes
from tests.contract.engine.make import POLICIES, call, called, engine, error, out, shown


class Napper(classes.Node):
    async def go(self, text):
        await asyncio.sleep(0.15)
        return (text,)


class Careful(classes.Node):
    """Its companions are coroutines."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}, "optional": {"more": ("STRING", {"lazy": True})}}

    @classmethod
    async def VALIDATE_INPUTS(cls, text):
        await asyncio.sleep(0)
        return "no x, please" if text == "x" else True

    @classmethod
    async def IS_CHANGED(cls, text, more=None):
        await asyncio.sleep(0)
        classes.calls.append(("asked", (text, more)))
        return text

    async def check_lazy_status(self, text, more=None):
        await asyncio.sleep(0)
        return ["more"] if more is None else []

    def go(self, text, more=None):
        return (f"{text} {more}",)


class Tells(classes.Node):
    """A coroutine that says which call it is, after waiting."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    async def go(self, number):
        await asyncio.sleep(0.001 * (3 - number))
        run = CURRENT_RUN.get()
        run.progress(number, 10)
        return (f"{run.prompt_id} {run.node_id} {run.list_index}",)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
async def test_a_coroutine_is_begun_and_others_run_until_it_is_done(policy, tmp_path):
    """Rules A1, A2: sleep and an independent preview are entered in the order 1, 2 (begun), 4, 3."""
    async with engine(tmp_path, **policy) as b:
        raw = {
            "1": call("Plain", text="x"),
            "2": call("Later", text=["1", 0]),
            "3": out("2"),
            "4": out("1"),
        }
        entry = await b.run(raw)
        assert [d["node"] for d in b.data("executing")] == ["1", "2", "4", "3", None]
        assert shown(entry) == {"3": ["x"], "4": ["x"]}
        assert called("Later began", "Out", "Later ended") == ["x", "x", "x", "x"]


async def test_independent_branches_wait_at_the_same_time(tmp_path):
    """Beyond A1: five coroutines of 0.15 s take 0.15 s, not 0.75 s."""
    async with engine(tmp_path, Napper) as b:
        raw = {str(i): call("Napper", text=str(i)) for i in range(5)}
        raw |= {f"o{i}": out(str(i)) for i in range(5)}
        began = time.monotonic()
        entry = await b.run(raw)
        assert len(entry["outputs"]) == 5
        assert time.monotonic() - began < 0.6


async def test_mapped_calls_of_a_coroutine_wait_at_the_same_time_and_know_who_they_are(tmp_path):
    """Rule A3: prompt, node and place in the list are in a context variable, also after waiting."""
    async with engine(tmp_path, Tells) as b:
        raw = {"0": call("Count", count=3), "1": call("Tells", number=["0", 0]), "2": out("1")}
        entry = await b.run(raw, prompt_id="p")
        assert shown(entry)["2"] == ["p 1 0", "p 1 1", "p 1 2"]
        assert {d["node"] for d in b.data("progress")} == {"1"}


async def test_an_exception_in_a_task_is_its_nodes_and_ends_the_others(tmp_path):
    """Rule A4: it surfaces on the node, and other tasks are cancelled, not left behind."""
    async with engine(tmp_path) as b:
        raw = {
            "1": call("LaterFails", text="boom"),
            "2": call("Forever", text="waiting"),
            "3": out("1"),
            "4": out("2"),
        }
        found = error(await b.run(raw))
        assert (found["node_id"], found["exception_message"]) == ("1", "boom\n")
        assert called("cancelled") == ["waiting"]
        assert (await b.run({"1": call("Out", text="x")}))["status"]["completed"]


async def test_an_interrupt_cancels_what_waits(tmp_path):
    """Rules A1, R4."""
    async with engine(tmp_path) as b:
        accepted = await b.engine.submit({"prompt": {"1": call("Forever", text="x"), "2": out("1")}, "client_id": "me"})
        await b.until("executing")
        b.engine.interrupt(accepted.prompt_id)
        entry = await b.engine.wait(accepted.prompt_id)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert entry["status"]["messages"][-1][1]["node_id"] == "1"
        assert called("cancelled") == ["x"]


async def test_companions_may_be_coroutines(tmp_path):
    """Rules A5, I4, V11."""
    from limner.engine import PromptRejected

    async with engine(tmp_path, Careful) as b:
        raw = {"0": call("Plain", text="m"), "1": call("Careful", text="y", more=["0", 0]), "2": out("1")}
        assert shown(await b.run(raw)) == {"2": ["y m"]}
        assert called("asked") == [("y", None)]
        raw["1"]["inputs"]["text"] = "x"
        with pytest.raises(PromptRejected) as refused:
            await b.engine.submit({"prompt": raw})
        (found,) = refused.value.node_errors["1"]["errors"]
        assert found["details"] == "text - no x, please"


async def test_two_runs_do_not_share_a_context(tmp_path):
    """Rule A6: what a node leaves in the context does not reach the next; prefixes are told by the Run."""
    async with engine(tmp_path) as b:
        entry = await b.run({"1": call("Twice", text="a"), "3": call("Twice", text="b"), "2": out("1"), "4": out("3")})
        assert shown(entry) == {"2": ["aa'"], "4": ["bb'"]}
        assert CURRENT_RUN.get() is None


class Hog(classes.Node):
    """A coroutine that never lets go."""

    async def go(self, text):
        classes.calls.append(("Hog", text))
        while True:
            pass


async def test_a_coroutine_that_hogs_the_processor_is_broken_off(tmp_path):
    """Beyond A1, R4: others are cancelled with it, and the next prompt runs."""
    async with engine(tmp_path, Hog) as b:
        raw = {"1": call("Forever", text="w"), "2": out("1"), "3": call("Hog", text="x"), "4": out("3")}
        accepted = await b.engine.submit({"prompt": raw, "client_id": "me"})
        while ("Hog", "x") not in classes.calls:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        b.engine.interrupt(accepted.prompt_id)
        entry = await b.engine.wait(accepted.prompt_id)
        assert time.monotonic() - began < 5
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert shown(await b.run({"1": call("Later", text="x"), "2": out("1")})) == {"2": ["x"]}
