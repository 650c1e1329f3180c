"""Rules R: what a failed or interrupted run says, and where."""

import pytest

from limner.errors import OutOfMemory
from tests.contract.engine import classes
from tests.contract.engine.make import call, called, engine, error, out, shown
from tests.engine.make import FakeMemory


class Thing:
    def __str__(self):
        return "a thing"


class Makes(classes.Node):
    RETURN_TYPES = ("THING",)

    def go(self, text):
        return (Thing(),)


class Breaks(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        plain = {"text": ("STRING", {}), "number": ("FLOAT", {}), "on": ("BOOLEAN", {}), "thing": ("THING", {})}
        return {"required": plain}

    def go(self, text, number, on, thing):
        raise KeyError("k")


class Full(classes.Node):
    def go(self, text):
        raise OutOfMemory("full") if text == "limner" else MemoryError("full")


class Waits(classes.Node):
    """Takes the whole list one by one and asks for an interrupt in the first call."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def go(self, number):
        from limner.graph import CURRENT_RUN

        classes.calls.append(("Waits", number))
        CURRENT_RUN.get().sink._job.interrupted = True
        return (str(number),)


class Progresses(Waits):
    def go(self, number):
        from limner.graph import CURRENT_RUN

        run = CURRENT_RUN.get()
        run.progress(0, 2)
        run.sink._job.interrupted = True
        run.progress(1, 2)
        classes.calls.append(("after", number))
        return ("",)


async def test_the_fields_of_an_error(tmp_path):
    """Rules R1, R2: plain values are kept, others are texts; the message ends with a line break and tips."""
    async with engine(tmp_path, Makes, Breaks) as b:
        raw = {
            "1": call("Makes", text="x"),
            "2": call("Breaks", text="t", number=0.5, on=True, thing=["1", 0]),
            "3": out("2"),
        }
        entry = await b.run(raw)
        found = error(entry)
        assert found["current_inputs"] == {"text": ["t"], "number": [0.5], "on": [True], "thing": ["a thing"]}
        assert (found["exception_message"], found["exception_type"]) == ("'k'\n", "KeyError")
        assert (found["node_id"], found["node_type"], found["executed"]) == ("2", "Breaks", ["1"])
        assert set(found["current_outputs"]) == {"1", "2", "3"}
        assert isinstance(found["timestamp"], int)
        assert any('raise KeyError("k")' in frame for frame in found["traceback"])
        assert all(isinstance(frame, str) and frame.endswith("\n") for frame in found["traceback"])
        assert b.data("execution_error") == [found]
        assert entry["status"]["status_str"] == "error"


@pytest.mark.parametrize("kind", ["limner", "python"])
async def test_out_of_memory_unloads_models_and_gives_a_tip(kind, tmp_path):
    """Rule R3."""
    memory = FakeMemory()

    class Loads(classes.Node):
        def go(self, text):
            from limner.graph import CURRENT_RUN

            return (str(CURRENT_RUN.get().memory is not None),)

    async with engine(tmp_path, Full, Loads) as b:
        b.engine._worker._executor._make_memory = lambda: memory
        raw = {"0": call("Loads", text="x"), "1": call("Full", text=kind), "2": out("1"), "3": out("0")}
        raw["1"]["inputs"]["text"] = ["4", 0]
        raw |= {"4": call("Join", a=["0", 0], b="")}
        raw["1"]["inputs"]["text"] = kind
        await b.run({"0": raw["0"], "3": raw["3"]})
        found = error(await b.run({"1": raw["1"], "2": raw["2"]}))
        assert found["exception_message"].partition("\n")[2]
        assert memory.calls == ["unload_all"]


async def test_an_interrupt_is_seen_before_each_mapped_call(tmp_path):
    """Rule R4."""
    async with engine(tmp_path, Waits) as b:
        raw = {"0": call("Count", count=3), "1": call("Waits", number=["0", 0]), "2": out("1")}
        entry = await b.run(raw)
        assert called("Waits") == [0]
        kind, data = entry["status"]["messages"][-1]
        assert kind == "execution_interrupted"
        assert (data["node_id"], data["node_type"], data["executed"]) == ("1", "Waits", ["0"])
        assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)


async def test_an_interrupt_is_seen_in_progress(tmp_path):
    """Rules R4, P2."""
    async with engine(tmp_path, Progresses) as b:
        entry = await b.run({"0": call("Count", count=1), "1": call("Progresses", number=["0", 0]), "2": out("1")})
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert called("after") == []


async def test_an_interrupt_inside_a_graph_names_the_prompts_node(tmp_path):
    """Rules R4, R6."""

    class Grows(classes.Node):
        def go(self, text):
            at = classes.prefix()
            return {"result": ([at + "w", 0],), "expand": {at + "w": classes.made("Waits", number=[at + "c", 0]),
                    at + "c": classes.made("Count", count=2)}}  # fmt: skip

    async with engine(tmp_path, Waits, Grows) as b:
        entry = await b.run({"1": call("Grows", text="x"), "2": out("1")})
        data = entry["status"]["messages"][-1][1]
        assert (data["node_id"], data["node_type"]) == ("1", "Grows")


async def test_success_is_said_of_runs_that_succeeded(tmp_path):
    """Rule R7: ComfyUI tells of the last node; a run that failed is not a success, whatever ran last."""
    async with engine(tmp_path) as b:
        for raw, good in (
            ({"1": call("Out", text="x")}, True),
            ({"1": call("Fails", text="x"), "2": out("1")}, False),
            ({"1": call("Ring", text="x"), "2": out("1")}, False),
        ):
            entry = await b.run(raw)
            assert entry["status"]["completed"] is good
            assert entry["status"]["status_str"] == ("success" if good else "error")
            assert ("execution_success" in b.types()) is good


async def test_after_a_failure_the_next_prompt_runs(tmp_path):
    """Rules R1, X6."""
    async with engine(tmp_path) as b:
        await b.run({"1": call("LaterFails", text="x"), "2": out("1")})
        assert shown(await b.run({"1": call("Later", text="x"), "2": out("1")})) == {"2": ["x"]}
