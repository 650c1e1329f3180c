"""Results give way to what is loaded, memory comes back when it is asked for and when nothing runs."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import pytest

from limner.engine.cache import ClassicCache, Entry, LruCache, Made, NoCache, RamCache, ResultCache
from limner.engine.executors.failures import is_out_of_memory, message
from limner.engine.worker import IdleClock
from limner.errors import OutOfMemory
from limner.graph import CURRENT_RUN
from tests.contract.engine import classes
from tests.engine.make import Bench, FakeMemory, bench, call

torch = pytest.importorskip("torch")

MIB = 1 << 20
POLICIES = [{}, {"cache_lru": 100}, {"cache_none": True}, {"cache_ram": 0.001}]
alive: list[weakref.ref[Any]] = []
asked: list[int] = []


class Big(classes.Node):
    """A tensor of some MB; weakly remembered."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mib": ("INT", {})}, "optional": {"after": ("*", {})}}

    def go(self, mib, after=None):
        classes.calls.append(("Big", mib))
        tensor = torch.ones(mib * MIB // 4)
        alive.append(weakref.ref(tensor))
        return (tensor,)


class Total(classes.Node):
    """What is in a tensor, as a text."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE", {})}, "optional": {"after": ("*", {})}}

    def go(self, image, after=None):
        return (str(int(image.sum())),)


class Loads(classes.Node):
    """Loads something for which there is too little RAM: everyone is asked for it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("*", {})}, "optional": {"needed": ("INT", {})}}

    def go(self, text, needed=1 << 40):
        asked.extend(function(needed) for function in CURRENT_RUN.get().memory.relief)
        return (str(text),)


class Waits(classes.Node):
    """Waits until a test lets it go on."""

    async def go(self, text):
        while not asked:
            await asyncio.sleep(0.001)
        return (text,)


PACK = (*classes.ALL, Big, Total, Loads, Waits)


def ready() -> FakeMemory:
    classes.calls.clear()
    alive.clear()
    asked.clear()
    return FakeMemory()


def left() -> list[bool]:
    return [one() is not None for one in alive]


def shown(entry: dict[str, Any]) -> list[str]:
    return [text for ui in entry["outputs"].values() for text in ui["text"]]


def held(mib: float = 1.0) -> Entry:
    return Entry(([torch.zeros(int(mib * MIB / 4))],))


# What a policy drops


def filled(cache: ResultCache, **entries: Entry) -> ResultCache:
    cache.begin({name.encode() for name in entries})
    for name, entry in entries.items():
        cache.put(name.encode(), entry)
    return cache


@pytest.mark.parametrize("make", [ClassicCache, lambda: LruCache(9), lambda: RamCache(1)])
def test_the_largest_go_first_and_no_more_than_is_needed(make):
    cache = filled(make(), a=held(2), b=held(4), c=held(3), text=Entry((["x"],)))

    assert cache.relieve(5 * MIB, {}) == 7 * MIB

    assert [cache.has(one) for one in (b"a", b"b", b"c", b"text")] == [True, False, False, True]


def test_age_counts_as_it_does_when_ram_runs_short():
    cache = LruCache(9)
    filled(cache, old=held(3))
    filled(cache, new=held(3.5))

    cache.relieve(1, {})

    assert (cache.has(b"old"), cache.has(b"new")) == (False, True)  # 1.3 × 3 is more than 3.5


def test_thousands_of_prompts_do_not_overflow_the_age():
    cache = filled(LruCache(9), old=held())
    for _ in range(5000):
        cache.begin(())

    assert cache.relieve(1, {}) == MIB


def test_held_results_and_what_they_share_stay():
    shared = held(2)
    cache = filled(ClassicCache(), a=shared, view=Entry(([shared.outputs[0][0][:10]],)), b=held(1))

    assert cache.relieve(1 << 40, {b"a": shared}) == MIB

    assert [cache.has(one) for one in (b"a", b"view", b"b")] == [True, True, False]


def test_memory_that_two_results_share_is_free_once_both_are_gone():
    one = held(2)
    cache = filled(ClassicCache(), a=one, b=Entry(([{"samples": one.outputs[0][0]}],)))

    assert cache.relieve(1, {}) == 2 * MIB

    assert not cache.entries()


def test_results_that_free_nothing_stay():
    class Model:
        def get_ram_usage(self):
            return 10 * MIB

    small = Entry(([torch.zeros(10)],))
    cache = filled(LruCache(9), model=Entry(([Model()],)), text=small)

    assert cache.relieve(1 << 40, {}) == 0

    assert len(cache.entries()) == 2


def test_what_an_expansion_made_ages_from_its_last_use():
    cache, owner = ClassicCache(), ("3", "Loop")
    cache.begin({b"p"})
    cache.put(b"made", held(3), Made(owner))
    cache.begin({b"p"}, lambda _: True)
    cache.put(b"p", held(3.5))

    cache.relieve(1, {})

    assert (cache.has(b"made"), cache.has(b"p")) == (False, True)


def test_no_cache_has_nothing_to_give():
    assert (NoCache().relieve(1, {}), NoCache().entries()) == (0, [])


# In a run


@pytest.mark.parametrize("policy", POLICIES, ids=str)
async def test_what_nobody_needs_goes_and_what_is_needed_stays(policy, tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory, **policy) as b:
        raw = {
            "spent": call("Big", mib=4),
            "first": call("Total", image=["spent", 0]),
            "needed": call("Big", mib=2, after=["first", 0]),
            "load": call("Loads", text=["join", 0]),
            "join": call("Total", image=["needed", 0]),
            "0": call("Total", image=["needed", 0], after=["load", 0]),
            "end": call("Out", text=["0", 0]),
        }
        entry = await b.run(raw)

    assert shown(entry) == [str(2 * MIB // 4)]
    assert [one for kind, one in classes.calls if kind == "Big"] == [4, 2]  # nothing was made twice
    assert asked == [4 * MIB if "cache_none" not in policy else 0]


async def test_memory_of_results_is_really_free_while_the_run_goes_on(tmp_path):
    memory = ready()
    seen: list[list[bool]] = []

    class Looks(classes.Node):
        def go(self, text):
            seen.append(left())
            return (text,)

    async with bench(tmp_path, *PACK, Looks, memory=memory) as b:
        raw = {
            "a": call("Big", mib=2),
            "b": call("Total", image=["a", 0]),
            "c": call("Loads", text=["b", 0]),
            "d": call("Looks", text=["c", 0]),
            "e": call("Out", text=["d", 0]),
        }
        await b.run(raw)
        assert seen == [[False]]
        await b.run(
            {**raw, "f": call("Total", image=["a", 0], after="x"), "g": call("Out", text=["f", 0])}
        )  # it is made again when it is asked for
        assert left() == [False, True]


async def test_a_result_of_an_earlier_prompt_that_this_one_needs_stays(tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory) as b:
        raw = {"a": call("Big", mib=2), "b": call("Total", image=["a", 0]), "c": call("Out", text=["b", 0])}
        await b.run(raw)
        load = {"l": call("Loads", text="x"), "m": call("Out", text=["l", 0])}
        again = {**raw, **load, "b": call("Total", image=["a", 0], after=["l", 0])}
        entry = await b.run(again)

    assert entry["status"]["completed"]
    assert len(alive) == 1
    assert asked == [0]


async def test_a_result_that_is_dropped_and_asked_for_later_is_made_again(tmp_path):
    """Lazy inputs that were not asked for yet, and nodes that no one knew of."""
    memory = ready()

    class Late(classes.Node):
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"image": ("IMAGE", {"lazy": True}), "after": ("*", {})}}

        def check_lazy_status(self, after, image=None):
            for entry in list(CURRENT_RUN.get().memory.relief):
                entry(1 << 40)
            return ["image"] if image is None else []

        def go(self, after, image):
            return (str(int(image.sum())),)

    async with bench(tmp_path, *PACK, Late, memory=memory) as b:
        first = {"a": call("Big", mib=2), "b": call("Total", image=["a", 0]), "c": call("Out", text=["b", 0])}
        entry = await b.run({**first, "l": call("Late", image=["a", 0], after="x"), "o": call("Out", text=["l", 0])})

    assert sorted(shown(entry)) == [str(2 * MIB // 4)] * 2


@pytest.mark.parametrize("policy", POLICIES, ids=str)
async def test_a_loop_comes_to_its_end_when_every_round_gives_way(policy, tmp_path):
    memory = ready()

    class Grows(classes.Node):
        """Returns a graph: something large, what loads, and what needs both."""

        def go(self, text):
            graph = {
                "x.big": call("Big", mib=2),
                "x.load": call("Loads", text=["x.sum", 0]),
                "x.sum": call("Total", image=["x.big", 0]),
                "x.end": call("Total", image=["x.big", 0], after=["x.load", 0]),
            }
            return {"result": (["x.end", 0],), "expand": graph}

    async with bench(tmp_path, *PACK, Grows, memory=memory, **policy) as b:
        entry = await b.run({"1": call("Grows", text="x"), "2": call("Out", text=["1", 0])})

    assert shown(entry) == [str(2 * MIB // 4)]
    assert len(alive) == 1


async def test_results_count_against_a_real_managers_limit_and_go_first(tmp_path):
    """With `--max-ram`: a tensor of an earlier prompt makes room for what is to be loaded.

    What else the process takes meanwhile (modules, threads of earlier tests) is nobody's: only what comes free counts.
    """
    from limner.memory import MemoryManager
    from limner.settings import Settings, Size

    ready()
    cpu = torch.device("cpu")
    used = MemoryManager(Settings(cpu=True)).baseline
    memory = MemoryManager(Settings(cpu=True, max_ram=Size(used + 400 * MIB)))
    free: list[int] = []

    class Needs(classes.Node):
        def go(self, text):
            room = CURRENT_RUN.get().memory
            free.append(room.free_memory(cpu))
            free.append(room.free(free[0] + 150 * MIB, cpu))
            return (text,)

    async with bench(tmp_path, *PACK, Needs, memory=memory, cache_lru=100) as b:
        big = {"a": call("Big", mib=200), "s": call("Total", image=["a", 0]), "b": call("Out", text=["s", 0])}
        await b.run(big)
        await b.run({"n": call("Needs", text="x"), "o": call("Out", text=["n", 0])})  # the first that reaches memory

    assert left() == [False]
    assert free[0] + 150 * MIB <= free[1] < 400 * MIB


async def test_a_run_that_is_over_holds_nothing(tmp_path):
    """Not until Python happens to collect garbage, either."""
    ready()
    gc.collect()
    gc.disable()
    try:
        async with bench(tmp_path, *PACK) as b:
            await b.run({"a": call("Big", mib=2), "s": call("Total", image=["a", 0]), "b": call("Out", text=["s", 0])})
            b.engine._worker._executor.cache.clear()
            assert left() == [False]
    finally:
        gc.enable()


async def test_another_thread_is_given_nothing(tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory) as b:
        await b.run({"a": call("Big", mib=2), "l": call("Total", image=["a", 0]), "b": call("Out", text=["l", 0])})
        executor = b.engine._worker._executor
        assert (executor.relieve(1 << 40), len(executor.cache.entries())) == (0, 3)


# Asked to free


async def until_running(b: Bench) -> None:
    while not b.engine.queue.running():
        await asyncio.sleep(0.001)
    await b.until("executing")


async def test_an_idle_engine_has_freed_everything_when_it_answers(tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory) as b:
        await b.run(
            {
                "l": call("Loads", text="x"),
                "a": call("Big", mib=2),
                "s": call("Total", image=["a", 0]),
                "b": call("Out", text=["s", 0], after=["l", 0]),
            }
        )
        assert left() == [True]
        assert await b.engine.freed(unload_models=True, free_memory=True)
        assert left() == [False]
        assert memory.calls == ["unload_all", "trim"]


async def test_a_paused_engine_frees_too(tmp_path):
    async with bench(tmp_path) as b:
        await b.engine.control.pause()
        await b.engine.submit({"prompt": {"1": call("Two"), "2": call("Show", source=["1", 0])}})
        assert await b.engine.freed(free_memory=True)
        assert b.engine.queue.remaining() == 1


async def test_while_a_prompt_runs_what_it_does_not_need_goes_at_once(tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory, cache_lru=100) as b:
        kept = {"a": call("Big", mib=2), "s": call("Total", image=["a", 0]), "b": call("Out", text=["s", 0])}
        await b.run({**kept, "l": call("Loads", text="x"), "o": call("Out", text=["l", 0])})
        asked.clear()
        raw = {
            "w": call("Waits", text="x"),
            "p": call("Plain", text="y"),
            "o": call("Out", text=["w", 0], after=["p", 0]),
        }
        running = asyncio.ensure_future(b.run(raw))
        await until_running(b)
        assert not await b.engine.freed(unload_models=True, free_memory=True, within=0.05)
        assert memory.calls[:2] == ["unload_all", "trim"]  # and trimmed again where a node ended meanwhile
        freeing = asyncio.ensure_future(b.engine.freed(unload_models=True, free_memory=True))
        asked.append(1)
        assert (await running)["status"]["completed"]
        assert await freeing
        assert left() == [False]


async def test_results_go_between_two_nodes_of_a_run_that_goes_on(tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory, cache_lru=100) as b:
        await b.run({"a": call("Big", mib=2), "s": call("Total", image=["a", 0]), "b": call("Out", text=["s", 0])})
        raw = {"p": call("Plain", text="y"), "w": call("Waits", text=["p", 0]), "o": call("Out", text=["w", 0])}
        executor = b.engine._worker._executor
        executor.wants_room = True  # as if it was asked during the first node
        running = asyncio.ensure_future(b.run(raw))
        await until_running(b)
        while executor.wants_room:
            await asyncio.sleep(0.001)
        assert left() == [False]
        assert not running.done()
        asked.append(1)
        assert (await running)["status"]["completed"]


async def test_an_engine_that_does_not_run_does_not_keep_anyone_waiting(tmp_path):
    async with bench(tmp_path, started=False) as b:
        assert await b.engine.freed(unload_models=True)


# Nothing to do


def test_the_clock_says_once_that_it_is_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = IdleClock(30)
    assert (clock.left(), clock.due()) == (None, False)
    clock.ended()
    now[0] += 10
    assert (clock.left(), clock.due()) == (20, False)
    clock.begun()
    assert clock.left() is None
    clock.ended()
    now[0] += 31
    assert [clock.due(), clock.due()] == [True, False]
    assert clock.left() is None
    never = IdleClock(0)
    never.ended()
    assert (never.left(), never.due()) == (None, False)


async def test_models_go_once_when_nothing_runs_and_results_stay(tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory, idle_unload=0.05) as b:
        raw = {
            "l": call("Loads", text="x"),
            "a": call("Big", mib=2),
            "s": call("Total", image=["a", 0]),
            "b": call("Out", text=["s", 0], after=["l", 0]),
        }
        await b.run(raw)
        assert memory.calls == []
        for _ in range(400):
            if memory.calls:
                break
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.15)
        assert memory.calls == ["unload_all", "trim"]
        assert left() == [True]


async def test_a_prompt_that_runs_long_is_no_idle_time(tmp_path):
    memory = ready()
    async with bench(tmp_path, *PACK, memory=memory, idle_unload=0.1) as b:
        await b.run({"l": call("Loads", text="x"), "o": call("Out", text=["l", 0])})
        asked.clear()
        running = asyncio.ensure_future(b.run({"w": call("Waits", text="z"), "o": call("Out", text=["w", 0])}))
        await until_running(b)
        await asyncio.sleep(0.25)
        assert memory.calls == []
        asked.append(1)
        await running


# What is told


async def test_what_is_where_is_told_with_results_counted_once(tmp_path):
    memory = ready()
    told: list[Any] = []
    async with bench(tmp_path, *PACK, memory=memory) as b:
        assert await b.engine.describe_memory() is None
        b.engine._worker._executor._describe = lambda *what: told.append(what) or {"told": True}
        raw = {"a": call("Big", mib=2), "l": call("Loads", text="x"), "b": call("Out", text=["a", 0], after=["l", 0])}
        await b.run(raw)
        assert await b.engine.describe_memory() == {"told": True}
        running = asyncio.ensure_future(b.run({**raw, "w": call("Waits", text="z"), "o": call("Out", text=["w", 0])}))
        asked.clear()
        await until_running(b)
        await b.engine.describe_memory()
        asked.append(1)
        await running

    assert told == [(memory, {"cpu": 2 * MIB}, False), (memory, {"cpu": 2 * MIB}, True)]


async def test_those_who_ask_at_the_same_time_share_one_answer(tmp_path):
    async with bench(tmp_path) as b:
        b.engine.use_memory(ready())
        let_go, told = threading.Event(), []
        b.engine._worker._executor._describe = lambda *_: told.append(let_go.wait(5)) or {}
        asking = [asyncio.ensure_future(b.engine.describe_memory()) for _ in range(50)]
        await asyncio.sleep(0.01)
        asking.pop().cancel()  # whoever leaves takes nothing from the others
        let_go.set()
        assert await asyncio.gather(*asking) == [{}] * 49
    assert told == [True]


async def test_a_manager_that_a_pack_made_is_taken_over(tmp_path):
    memory = ready()
    async with bench(tmp_path) as b:
        b.engine.use_memory(memory)
        b.engine.use_memory(memory)
        await b.engine.freed(unload_models=True)
    assert len(memory.relief) == 1
    assert memory.calls[:2] == ["unload_all", "trim"]


CPU = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (RuntimeError(CPU), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError(CPU), False),
    ],
    ids=lambda one: type(one).__name__,
)
def test_too_little_memory_is_recognised(error, short):
    assert is_out_of_memory(error) is short
    assert ("close other programs" in message(error)) is short


def test_an_allocators_error_is_told_with_what_is_loaded_and_what_to_do():
    text = message(RuntimeError(CPU), "Loaded: UNet 900 MB on cpu.")
    assert "tried to allocate 9 bytes.\nLoaded: UNet 900 MB on cpu. This ran out of memory. Make" in text


def test_the_managers_error_says_it_all_itself():
    assert message(OutOfMemory("A.", "B.", "C."), "Loaded: x.") == "A. B. C.\n"
