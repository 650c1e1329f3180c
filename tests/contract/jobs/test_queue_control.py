"""Pause, go on, re-order, and that all of it is on disk."""

import asyncio

import pytest

from limner.engine.control import NotWaiting
from limner.engine.places import Place, Target, between, spread
from limner.errors import BadInput
from tests.contract.jobs.make import bench, only, shown, submit, waiting

FRONT, BACK = Target(0), Target(-1)


async def queued(b, names="abcd"):
    for name in names:
        await submit(b, only("Quick", text=name), name)


async def test_a_paused_queue_starts_nothing_and_goes_on_when_told(tmp_path):
    async with bench(tmp_path) as b:
        await b.engine.control.pause()
        await queued(b, "ab")
        assert b.engine.control.state()["paused"]
        assert (b.engine.queue.running(), waiting(b)) == ([], ["a", "b"])
        await b.engine.control.pause(False)
        await b.engine.wait("b")
        assert list(b.engine.history.list()) == ["a", "b"]


async def test_what_runs_when_the_queue_is_paused_ends(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, shown("Wait", text="x"), "a")
        await queued(b, "b")
        await b.until("executing")
        await b.engine.control.pause()
        b.engine.interrupt("a")
        assert (await b.engine.wait("a"))["status"]["status_str"] == "error"
        await asyncio.sleep(0.02)
        assert waiting(b) == ["b"]


async def test_a_pause_outlives_a_restart(tmp_path):
    async with bench(tmp_path) as b:
        await b.engine.control.pause()
        await queued(b, "a")
    async with bench(tmp_path) as b:
        assert b.engine.control.state()["paused"]
        assert waiting(b) == ["a"]
        await b.engine.control.pause(False)
        await b.engine.wait("a")
    async with bench(tmp_path, started=False) as b:
        assert not b.engine.control.state()["paused"]


async def test_memory_is_freed_while_the_queue_is_paused(tmp_path):
    async with bench(tmp_path) as b:
        await b.engine.control.pause()
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        b.engine._worker._executor.drop_results = lambda: loop.call_soon_threadsafe(done.set)
        b.engine.free(free_memory=True)
        await asyncio.wait_for(done.wait(), 5)


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("d", FRONT, "dabc"),
        ("a", BACK, "bcda"),
        ("a", Target(2), "bcad"),
        ("d", Target(1), "adbc"),
        ("a", Target(99), "bcda"),
        ("d", Target(before="b"), "adbc"),
        ("a", Target(after="c"), "bcad"),
        ("b", Target(before="c"), "abcd"),
        ("b", Target(1), "abcd"),
    ],
)
async def test_a_waiting_prompt_moves_and_stays_there_over_a_restart(tmp_path, name, target, expected):
    async with bench(tmp_path, started=False) as b:
        await queued(b)
        assert await b.engine.control.move(name, target) == expected.index(name)
        assert "".join(waiting(b)) == expected
    async with bench(tmp_path, started=False) as b:
        assert "".join(waiting(b)) == expected
        await b.engine.start()
        await asyncio.gather(*(b.engine.wait(one) for one in "abcd"))
        assert "".join(b.engine.history.list()) == expected
        await b.engine.close()


async def test_moves_between_equal_numbers_never_run_out_of_room(tmp_path):
    async with bench(tmp_path, started=False) as b:
        for name in "abc":
            await submit(b, only("Quick", text=name), name, number=0)
        for turn in range(120):
            await b.engine.control.move("bc"[turn % 2], Target(1))
            assert waiting(b) == ["a", *("bc" if turn % 2 == 0 else "cb")]
        await submit(b, only("Quick", text="d"), "d", number=0)
        assert waiting(b) == ["a", "c", "b", "d"]
    async with bench(tmp_path, started=False) as b:
        assert waiting(b) == ["a", "c", "b", "d"]


async def test_a_prompt_takes_another_number_and_shows_it(tmp_path):
    async with bench(tmp_path, started=False) as b:
        await queued(b)
        assert await b.engine.control.renumber("c", -1) == 0
        assert (waiting(b), b.engine.queue.pending()[0][0]) == (["c", "a", "b", "d"], -1)
        assert b.engine.jobs.get("c")["priority"] == -1
    async with bench(tmp_path) as b:
        await b.engine.wait("d")
        assert list(b.engine.history.list()) == ["c", "a", "b", "d"]
        assert b.engine.history.get("c")["prompt"][0] == -1


async def test_what_runs_or_is_unknown_has_no_place(tmp_path):
    async with bench(tmp_path) as b:
        await submit(b, shown("Wait", text="x"), "a")
        await b.until("executing")
        for name in ("a", "nobody"):
            with pytest.raises(NotWaiting):
                await b.engine.control.move(name, FRONT)
            with pytest.raises(NotWaiting):
                await b.engine.control.renumber(name, 0)
        await queued(b, "b")
        with pytest.raises(BadInput, match="does not wait"):
            await b.engine.control.move("b", Target(before="a"))


async def test_a_key_moves_its_own_prompts_among_its_own(tmp_path):
    async with bench(tmp_path, started=False) as b:
        for name, owner in (("a", "alice"), ("b", "bob"), ("c", "alice"), ("d", "bob")):
            await b.engine.submit({"prompt": only("Quick", text=name), "prompt_id": name}, owner)
        with pytest.raises(NotWaiting):
            await b.engine.control.move("b", FRONT, "alice")
        assert await b.engine.control.move("c", FRONT, "alice") == 0
        assert waiting(b) == ["c", "a", "b", "d"]
        assert [one["prompt_id"] for one in b.engine.control.state("bob")["pending"]] == ["b", "d"]


async def test_every_change_of_the_queue_is_told_q3(tmp_path):
    """Rule Q3: status is broadcast at each change; the new ones count."""
    async with bench(tmp_path, started=False) as b:
        b.engine.events.attach(asyncio.get_running_loop())
        await queued(b, "ab")
        await b.engine.control.move("b", FRONT)
        await b.engine.control.pause()
        b.engine.queue.clear()
        await asyncio.sleep(0)
        counts = [event.queue_remaining for event in b.events if event.type == "status"]
        assert counts == [1, 2, 2, 2, 0]


def test_a_place_between_two_changes_as_little_as_can_be():
    own = Place(5, 5)
    assert between(own, Place(4, 1), Place(6, 1)) == own
    assert between(own, None, Place(1, 7)) == Place(1, 6)
    assert between(own, Place(9, 7), None) == Place(9, 8)
    assert between(own, Place(1, 1), Place(1, 2)) == Place(1, 1.5)
    assert between(own, Place(0, 1), Place(1, 2)) == Place(1, 1)
    assert between(own, Place(1, 1.0), Place(1, 1.0000000000000002)) is None


def test_spread_places_keep_their_order_and_stay_below_what_comes_later():
    places = [Place(0, 1.0), Place(0, 1.5), Place(0, 1.75), Place(2, 1.8)]
    assert spread(places) == [Place(0, -0.25), Place(0, 0.75), Place(0, 1.75), Place(2, 1.8)]
