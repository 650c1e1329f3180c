"""Why a node ran: what differs from the last time that this node, of this kind, ran."""

import json

from tests.contract.engine import classes
from tests.contract.engine.make import call, engine, out


class Tracked(classes.Node):
    @classmethod
    def IS_CHANGED(cls, text):
        return next(classes.TICKS)


async def explained(b, raw):
    """Run a prompt; the nodes of its explanation, without how long each took."""
    kept = []
    jobs = b.engine.store.jobs
    finish = jobs.finish
    jobs.finish = lambda *args: (kept.append(args[-1]), finish(*args))[1]
    try:
        await b.run(raw)
    finally:
        jobs.finish = finish
    (found,) = kept
    assert json.loads(json.dumps(found)) == found
    assert all(why["cached"] or why["seconds"] >= 0 for why in found["nodes"].values())
    return {node: {key: why[key] for key in why if key != "seconds"} for node, why in found["nodes"].items()}


def chain(text="x", tail="t"):
    return {
        "1": call("Plain", text=text),
        "2": call("Join", a=["1", 0], b=tail),
        "3": out("2"),
    }


async def test_the_first_time_is_the_first_run(tmp_path):
    async with engine(tmp_path) as b:
        found = await explained(b, chain())
        assert found == {
            "1": {"class_type": "Plain", "cached": False, "reason": "first run"},
            "2": {"class_type": "Join", "cached": False, "reason": "first run"},
            "3": {"class_type": "Out", "cached": False, "reason": "first run"},
        }


async def test_a_changed_input_is_named_and_what_is_below_says_upstream(tmp_path):
    async with engine(tmp_path) as b:
        await b.run(chain())
        found = await explained(b, chain(tail="u"))
        assert found["1"] == {"class_type": "Plain", "cached": True}
        assert found["2"] == {
            "class_type": "Join",
            "cached": False,
            "reason": "input changed",
            "changed": [{"input": "b", "from": "t", "to": "u"}],
        }
        assert (found["3"]["reason"], found["3"]["upstream"]) == ("upstream changed", ["2"])


async def test_another_link_is_a_changed_input(tmp_path):
    async with engine(tmp_path) as b:
        await b.run(chain())
        raw = chain() | {"9": call("Plain", text="other")}
        raw["2"] = call("Join", a=["9", 0], b="t")
        assert (await explained(b, raw))["2"]["changed"] == [{"input": "a", "from": ["1", 0], "to": ["9", 0]}]


async def test_the_same_again_that_was_not_kept_is_evicted(tmp_path):
    async with engine(tmp_path, cache_none=True) as b:
        await b.run(chain())
        assert {one["reason"] for one in (await explained(b, chain())).values()} == {"evicted"}


async def test_a_fingerprint_that_changed_is_said(tmp_path):
    classes.TICKS = iter(range(9))
    async with engine(tmp_path, Tracked) as b:
        raw = {"1": call("Tracked", text="x"), "2": out("1")}
        await b.run(raw)
        found = await explained(b, raw)
        assert found["1"]["reason"] == "is_changed"
        assert found["1"]["changed"] == [{"input": "is_changed", "from": 0, "to": 1}]


async def test_long_texts_are_told_shortly_and_still_compared(tmp_path):
    async with engine(tmp_path) as b:
        await b.run(chain("x" * 5000 + "1"))
        (change,) = (await explained(b, chain("x" * 5000 + "2")))["1"]["changed"]
        assert change["from"] != change["to"]
        assert len(change["from"]) < 300


async def test_another_kind_under_the_same_id_runs_for_the_first_time(tmp_path):
    async with engine(tmp_path) as b:
        await b.run(chain())
        found = await explained(b, {"1": call("Twice", text="x"), "2": out("1")})
        assert found["1"]["reason"] == "first run"
        assert found["1.0.0.j"]["class_type"] == "Join"
