"""Rules B: values that stop what depends on them."""

from limner.graph import Blocker
from tests.contract.engine import classes
from tests.contract.engine.make import call, called, engine, out, shown


class Whole(classes.Node):
    INPUT_IS_LIST = True

    def go(self, text):
        classes.calls.append(("Whole", text))
        return ("".join(text),)


class Some(classes.Node):
    """Blocks odd numbers."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def go(self, number):
        return Blocker("odd") if number % 2 else (str(number),)


class Marked(classes.Node):
    @classmethod
    def IS_CHANGED(cls, text):
        return Blocker("x")


class OwnBlocker(Blocker):
    """As packs derive it."""


class Derived(classes.Node):
    RETURN_TYPES = ("STRING", "STRING")

    def go(self, text):
        return (OwnBlocker("mine"), text)


def blocked(text="no", silent=False):
    return {"1": call("Stops", text=text, silent=silent)}


async def test_a_blocked_element_skips_the_call_and_blocks_every_output(tmp_path):
    """Rule B1."""
    async with engine(tmp_path, Some) as b:
        raw = {"0": call("Count", count=4), "1": call("Some", number=["0", 0]), "2": call("Plain", text=["1", 0])}
        assert shown(await b.run(raw | {"3": out("2")})) == {"3": ["0", "2"]}
        assert called("Plain") == ["0", "2"]


async def test_the_message_comes_once_from_the_first_consumer_and_is_not_in_the_history(tmp_path):
    """Rule B2: type ExecutionBlocked, no timestamp, empty lists; the run goes on and is a success."""
    async with engine(tmp_path) as b:
        raw = blocked() | {"2": call("Plain", text=["1", 0]), "3": call("Plain", text=["2", 0]), "4": out("3")}
        entry = await b.run(raw | {"5": call("Out", text="fine")})
        (told,) = b.data("execution_error")
        assert (told["node_id"], told["exception_type"]) == ("2", "ExecutionBlocked")
        assert told["exception_message"] == "Execution Blocked: no"
        assert "timestamp" not in told
        assert told["traceback"] == told["current_outputs"] == []
        assert entry["status"]["status_str"] == "success"
        assert "execution_error" not in [kind for kind, _ in entry["status"]["messages"]]
        assert shown(entry) == {"5": ["fine"]}


async def test_a_blocker_without_a_message_is_silent(tmp_path):
    """Rule B2: message None."""
    async with engine(tmp_path) as b:
        await b.run(blocked(silent=True) | {"2": out("1")})
        assert b.data("execution_error") == []


async def test_one_blocked_element_blocks_the_call_with_lists(tmp_path):
    """Rule B3."""
    async with engine(tmp_path, Whole, Some) as b:
        raw = {"0": call("Count", count=2), "1": call("Some", number=["0", 0]), "2": call("Whole", text=["1", 0])}
        assert shown(await b.run(raw | {"3": out("2")})) == {}
        assert called("Whole") == []


async def test_a_blocked_output_shows_nothing_counts_as_run_and_is_cached(tmp_path):
    """Rule B4."""
    async with engine(tmp_path) as b:
        raw = blocked() | {"2": out("1")}
        await b.run(raw)
        called()
        await b.run(raw)
        assert b.data("execution_cached")[0]["nodes"] == ["1", "2"]
        assert [d["output"] for d in b.data("executed")] == [None]
        assert b.data("execution_error") == []


async def test_blockers_among_fingerprints_are_none(tmp_path):
    """Rule B5: the result holds while nothing else changes."""
    async with engine(tmp_path, Marked) as b:
        raw = {"1": call("Marked", text="x"), "2": out("1")}
        await b.run(raw)
        called()
        await b.run(raw)
        assert called() == []


async def test_derived_blockers_count_and_block_only_their_own_output(tmp_path):
    """Rule B1, for one value of several."""
    async with engine(tmp_path, Derived) as b:
        raw = {"1": call("Derived", text="x"), "2": out("1", 0), "3": out("1", 1)}
        assert shown(await b.run(raw)) == {"3": ["x"]}
