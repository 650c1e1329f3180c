"""Rules X: which node runs, and when."""

from tests.contract.engine import classes
from tests.contract.engine.make import call, called, engine, error, out, shown


def entered(b):
    """The nodes in the order in which they were entered."""
    return [d["node"] for d in b.data("executing") if d["node"] is not None]


async def test_only_what_the_outputs_need_runs(tmp_path):
    """Rule X1."""
    async with engine(tmp_path) as b:
        await b.run({"1": call("Plain", text="x"), "2": out("1"), "3": call("Plain", text="unused")})
        assert entered(b) == ["1", "2"]


async def test_among_ready_nodes_the_first_that_was_added_runs_first(tmp_path):
    """Rule X2: depth first from each output, the last link of a node first."""
    async with engine(tmp_path) as b:
        raw = {
            "a": call("Plain", text="a"),
            "b": call("Plain", text="b"),
            "c": call("Plain", text="c"),
            "ab": call("Join", a=["a", 0], b=["b", 0]),
            "abc": call("Join", a=["ab", 0], b=["c", 0]),
            "d": call("Join", a=["abc", 0], b="."),
            "o": out("d"),
        }
        await b.run(raw)
        assert entered(b) == ["c", "b", "a", "ab", "abc", "d", "o"]


async def test_outputs_and_coroutines_come_first_then_what_feeds_them(tmp_path):
    """Rule X3: output or async; then a direct feeder of an output; then one step further; then the first."""
    async with engine(tmp_path) as b:
        raw = {
            "far": call("Plain", text="far"),
            "f1": call("Plain", text=["far", 0]),
            "f2": call("Plain", text=["f1", 0]),
            "f3": call("Plain", text=["f2", 0]),
            "fo": out("f3"),
            "two": call("Plain", text="two"),
            "one": call("Plain", text=["two", 0]),
            "o2": out("one"),
            "near": call("Plain", text="near"),
            "o1": out("near"),
            "self": call("Out", text="self"),
            "slow": call("Later", text="slow"),
            "s1": call("Plain", text=["slow", 0]),
            "s2": call("Plain", text=["s1", 0]),
            "s3": call("Plain", text=["s2", 0]),
            "so": out("s3"),
        }
        await b.run(raw)
        order = entered(b)
        assert set(order[:2]) == {"self", "slow"}
        assert order[2:6] == ["near", "o1", "two", "one"]
        assert order.index("far") > order.index("o2")


async def test_what_is_above_a_cached_node_is_not_scheduled(tmp_path):
    """Rule X4."""
    async with engine(tmp_path) as b:
        raw = {"1": call("Plain", text="x"), "2": call("Plain", text=["1", 0]), "3": out("2")}
        await b.run(raw)
        await b.run(raw | {"4": call("Both", text=["2", 0])})
        assert entered(b) == ["4"]


async def test_the_second_of_one_signature_is_served_from_the_first(tmp_path):
    """Rule X5: `executed` with output null where it shows nothing."""
    async with engine(tmp_path) as b:
        raw = {"1": call("Plain", text="x"), "2": call("Plain", text="x"), "3": out("1"), "4": out("2")}
        entry = await b.run(raw)
        assert called("Plain") == ["x"]
        assert entry["meta"]["3"] == entry["meta"]["4"]
        assert None in [d["output"] for d in b.data("executed")]


async def test_a_failure_ends_the_run_and_what_is_done_stays(tmp_path):
    """Rules X6, X7: finished results stay cached, finished outputs are in the history."""
    async with engine(tmp_path) as b:
        raw = {
            "1": call("Out", text="done"),
            "2": call("Plain", text="before"),
            "3": call("Fails", text=["2", 0]),
            "4": out("3"),
        }
        entry = await b.run(raw)
        assert shown(entry) == {"1": ["done"]}
        assert error(entry)["executed"] == ["1", "2"]
        called()
        again = await b.run(raw)
        assert called() == []
        assert error(again)["executed"] == []
        assert shown(again) == {"1": ["done"]}


async def test_a_class_with_the_same_inputs_is_another_node(tmp_path):
    """Rule X5: the class is part of the signature."""
    async with engine(tmp_path, classes.Node) as b:
        await b.run({"1": call("Plain", text="x"), "2": call("Node", text="x"), "3": out("1"), "4": out("2")})
        assert called("Plain", "Node") == ["x", "x"]
