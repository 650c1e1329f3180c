"""Rules C and Z1 to Z3: what is kept, under which key, and for how long, under each policy."""

import asyncio

import pytest

from limner.engine.cache import ClassicCache, Entry, LruCache, Made, NoCache, RamCache, make_cache, ram_of
from limner.settings import Settings
from tests.contract.engine import classes
from tests.contract.engine.make import POLICIES, call, called, engine, out, shown


class Unique(classes.Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}, "hidden": {"me": "UNIQUE_ID"}}

    def go(self, text, me):
        classes.calls.append(("Unique", me))
        return (text,)


class Keeps(classes.Node):
    """Counts how often its instance was called."""

    times = 0

    def go(self, text):
        self.times += 1
        return (f"{text} {self.times}",)


class Single(classes.Node):
    NOT_IDEMPOTENT = True

    def go(self, text):
        classes.calls.append(("Single", text))
        return (text,)


def text(value="x"):
    return {"1": call("Plain", text=value), "2": out("1")}


def entry(*values):
    return Entry((list(values),))


async def test_results_are_kept_by_signature_and_instances_by_node(tmp_path):
    """Rule C1: another id, the same result; another input, the same instance."""
    async with engine(tmp_path, Keeps) as b:
        await b.run(text())
        called()
        await b.run({"a": call("Plain", text="x"), "b": out("a")})
        assert called() == []
        assert shown(await b.run({"1": call("Keeps", text="a"), "2": out("1")})) == {"2": ["a 1"]}
        assert shown(await b.run({"1": call("Keeps", text="b"), "2": out("1")})) == {"2": ["b 2"]}
        assert shown(await b.run({"9": call("Keeps", text="c"), "2": out("9")})) == {"2": ["c 1"]}


async def test_ids_take_part_where_they_count(tmp_path):
    """Rules C2, C3: NOT_IDEMPOTENT, and a hidden UNIQUE_ID; V3 classes are told apart too here."""
    async with engine(tmp_path, Single, Unique) as b:
        raw = {str(i): call("Single", text="x") for i in range(2)} | {"u": call("Unique", text="x")}
        raw |= {"v": call("Unique", text="x")} | {f"o{one}": out(one) for one in ("0", "1", "u", "v")}
        await b.run(raw)
        assert called("Single") == ["x", "x"]
        await b.run({"w": call("Unique", text="x"), "ow": out("w")})
        assert called("Unique") == ["w"]


async def test_undeclared_inputs_take_part(tmp_path):
    """Rule C4."""
    async with engine(tmp_path) as b:
        await b.run({"1": call("Plain", text="x"), "2": out("1")})
        called()
        await b.run({"1": call("Plain", text="x", more=1), "2": out("1")})
        assert called("Plain") == ["x"]


@pytest.mark.parametrize(
    ("settings", "again"),
    [({}, ["a"]), ({"cache_lru": 10}, []), ({"cache_none": True}, ["a"]), ({"cache_ram": 0.001}, [])],
    ids=str,
)
async def test_a_b_a(settings, again, tmp_path):
    """Rules C5, C6, C7, C8: what of A is left after B."""
    async with engine(tmp_path, **settings) as b:
        await b.run(text("a"))
        await b.run(text("b"))
        called()
        await b.run(text("a"))
        assert called("Plain") == again


def test_lru_evicts_the_oldest_prompt_and_never_the_current_one():
    """Rule C6."""
    cache = LruCache(2)
    for prompt in ((b"a", b"b"), (b"c",), (b"d", b"e", b"f")):
        cache.begin(prompt)
        for signature in prompt:
            cache.put(signature, entry(1))
    assert [cache.has(one) for one in (b"a", b"b", b"c", b"d", b"e", b"f")] == [False, False, False, True, True, True]
    cache.begin((b"e",))
    cache.put(b"g", entry(1))
    assert [cache.has(one) for one in (b"d", b"e", b"f", b"g")] == [False, True, False, True]


async def test_nothing_survives_a_prompt_without_a_cache(tmp_path):
    """Rule C7: execution_cached is empty, and loops and lazy inputs work (see the tests of rules G and L)."""
    async with engine(tmp_path, cache_none=True) as b:
        await b.run(text())
        called()
        await b.run(text())
        assert called("Plain") == ["x"]
        assert b.data("execution_cached")[0]["nodes"] == []


async def test_without_a_cache_results_are_let_go_when_their_consumers_have_run(tmp_path):
    """Rules C7, Z2."""
    import gc
    import weakref

    alive = []

    class Thing:
        """Something large."""

    class Makes(classes.Node):
        RETURN_TYPES = ("THING",)

        def go(self, text):
            thing = Thing()
            alive.append(weakref.ref(thing))
            return (thing,)

    class Uses(classes.Node):
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"thing": ("THING", {})}}

        def go(self, thing):
            return ("used",)

    class Looks(classes.Node):
        def go(self, text):
            gc.collect()
            return (str([one() is not None for one in alive]),)

    async with engine(tmp_path, Makes, Uses, Looks, cache_none=True) as b:
        raw = {
            "1": call("Makes", text="x"),
            "2": call("Uses", thing=["1", 0]),
            "3": call("Looks", text=["2", 0]),
            "4": out("3"),
        }
        assert shown(await b.run(raw)) == {"4": ["[False]"]}


class Ram:
    """An object that says how much memory it holds."""

    def __init__(self, size):
        self.size = size

    def get_ram_usage(self):
        return self.size


def test_ram_counts_tensors_half_lists_and_what_objects_say():
    """Rule C8: Σ cpu tensor bytes × 0.5 + what objects report; lists are walked."""
    assert ram_of([[Ram(7), {"a": (Ram(1),)}], "text"]) == 8
    torch = pytest.importorskip("torch")
    assert ram_of([torch.zeros(10)]) == 20


def test_ram_evicts_the_largest_and_oldest_first_until_there_is_room():
    """Rule C8: score 1.3^age × (0.1 + size), by the outputs, until a tenth more than the headroom is free; Z3."""
    gone = []
    cache = RamCache(10 / 1024**3, lambda: 0 if not gone else 11, interval=0)
    sizes = {b"old": 100, b"large": 120, b"small": 1}
    cache.begin(())
    cache.put(b"old", entry(Ram(sizes[b"old"])))
    cache.begin(())
    cache.put(b"large", entry(Ram(sizes[b"large"])))
    cache.put(b"small", entry(Ram(sizes[b"small"])))
    free = iter([0, 0, 12, 12])
    cache = _with(cache, lambda: next(free))
    cache.poll(set)
    assert [cache.has(one) for one in sizes] == [False, True, True]  # 1.3 × 100 is more than 120


def _with(cache, available):
    cache._available = available
    return cache


def test_ram_ties_go_to_the_oldest_and_what_the_run_holds_stays():
    """Rule C8: ties pop the oldest touch; results that the run holds free nothing."""
    free = iter([0, 0, 0, 12, 12])
    cache = RamCache(10 / 1024**3, lambda: next(free), interval=0)
    cache.begin(())
    for name in (b"held", b"first", b"second"):
        cache.put(name, entry("x"))
    cache.poll(lambda: {b"held"})
    assert [cache.has(one) for one in (b"held", b"first", b"second")] == [True, False, True]


def test_with_room_enough_nothing_goes():
    """Rule C8."""
    cache = RamCache(1, lambda: 2 * 1024**3, interval=0)
    cache.begin(())
    cache.put(b"x", entry(Ram(1e12)))
    cache.poll(set)
    assert cache.has(b"x")


async def test_a_run_under_memory_pressure_still_comes_to_its_end(tmp_path):
    """Rules C8, Z2, Z3: the cache is looked at after every node, and the run holds what is waited for."""
    async with engine(tmp_path, cache_ram=1e6) as b:  # never that much is free: everything is evicted at once
        raw = {
            "0": call("Count", count=3),
            "1": call("OddTwice", number=["0", 0]),
            "2": call("Plain", text=["1", 0]),
            "3": out("2"),
        }
        assert shown(await b.run(raw))["3"] == ["0", "odd 1", "2"]


def test_what_expansions_made_stays_with_its_parent_until_that_is_expanded_anew():
    """Rule C9, for classic."""
    cache = ClassicCache()
    owner = ("3", "Loop")
    cache.begin({b"p"})
    for name in (b"c1", b"c2"):
        cache.put(name, entry(1), Made(owner))
    cache.begin({b"p2"}, lambda one: one == owner)
    assert cache.has(b"c1")
    assert cache.has(b"c2")
    cache.get(b"c1")
    cache.put(b"c3", entry(1), Made(owner))
    cache.begin({b"p3"}, lambda one: one == owner)
    assert [cache.has(one) for one in (b"c1", b"c2", b"c3")] == [True, False, True]
    cache.begin({b"p3"}, lambda one: False)
    assert not cache.has(b"c1")


@pytest.mark.parametrize("client", ["me", None])
async def test_cached_outputs_are_told_and_in_the_history(client, tmp_path):
    """Rules C10, C11: executed with the stored ui and a finished state; every cached node listed in prompt order."""
    async with engine(tmp_path) as b:
        raw = {"9": call("Plain", text="x"), "1": out("9"), "3": call("Out", text="z")}
        await b.run(raw, client_id=client)
        again = await b.run(raw, client_id=client)
        assert shown(again) == {"1": ["x"], "3": ["z"]}
        assert set(again["meta"]) == {"1", "3"}
        (cached,) = [data for kind, data in again["status"]["messages"] if kind == "execution_cached"]
        assert cached["nodes"] == ["9", "1", "3"]
        if client:
            assert [d["node"] for d in b.data("executed")] == ["1", "3"]
            assert b.data("progress_state")[-1]["nodes"]["1"]["state"] == "finished"


@pytest.mark.parametrize("policy", POLICIES, ids=str)
async def test_free_memory_forgets_results_and_instances(policy, tmp_path):
    """Rule C12."""
    async with engine(tmp_path, Keeps, **policy) as b:
        raw = {"1": call("Keeps", text="a"), "2": out("1")}
        assert shown(await b.run(raw)) == {"2": ["a 1"]}
        b.engine.free(free_memory=True)
        for _ in range(200):
            if not b.engine._worker._executor.instances._kept:
                break
            await asyncio.sleep(0.005)
        assert shown(await b.run(raw)) == {"2": ["a 1"]}


def test_the_policies_and_which_goes_before_which():
    """Rule Z1: lru, ram, none, else classic."""
    kinds = [
        make_cache(Settings(cache_lru=3, cache_ram=2.0, cache_none=True)),
        make_cache(Settings(cache_ram=2.0, cache_none=True)),
        make_cache(Settings(cache_none=True)),
        make_cache(Settings()),
    ]
    assert [type(one) for one in kinds] == [LruCache, RamCache, NoCache, ClassicCache]
