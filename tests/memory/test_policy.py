import pytest

from limner.memory.policy import (
    MIB,
    NEVER,
    Resident,
    batch_that_fits,
    expected,
    grown,
    least_bytes,
    next_uses,
    reclaim,
    shrunk,
    streaming_cost,
    weights_target,
)
from limner.memory.units import Unit

OLD, NEW, BUSY = Resident("old", 100, 1), Resident("new", 100, 5), Resident("busy", 100, 0, in_use=True)


def units(*sizes, fixed=()):
    return [Unit(str(i), size, size, size, fixed=i in fixed) for i, size in enumerate(sizes)]


def test_nothing_gives_way_while_there_is_room():
    assert reclaim([OLD, NEW], needed=0) == []


def test_the_longest_unused_gives_way_first_and_no_more_than_is_needed():
    assert reclaim([NEW, OLD], needed=80) == [("old", 80)]
    assert reclaim([NEW, OLD], needed=150) == [("old", 100), ("new", 50)]


def test_what_is_in_use_stays_even_when_the_rest_is_not_enough():
    assert reclaim([BUSY, NEW], needed=1000) == [("new", 100)]


def test_what_is_used_last_gives_way_first():
    soon, late = Resident("soon", 100, 1, next_use=1), Resident("late", 100, 5, next_use=3)
    assert reclaim([soon, late], needed=100) == [("late", 100)]
    assert reclaim([soon, late, OLD], needed=100) == [("old", 100)]


def test_what_is_used_sooner_than_the_network_itself_keeps_what_it_has():
    soon, late = Resident("soon", 100, 1, next_use=1), Resident("late", 100, 5, next_use=3)
    assert reclaim([soon, late], needed=200, sooner_than=2) == [("late", 100)]


@pytest.mark.parametrize(
    ("free", "required", "inference", "ratio", "target"),
    [
        (8000, 2000, 800, 0.0, 6000),  # what is left beside the step
        (8000, 9000, 800, 0.0, 128),  # too much is required: the floor
        (8000, 9000, 800, 0.4, 3200),  # … or the share of weights
        (1000, 9000, 800, 0.4, 200),  # … as far as the least for computing is left
        (500, 9000, 800, 0.4, 128),
    ],
)
def test_s17_weights_get_what_the_step_leaves_and_their_share(free, required, inference, ratio, target):
    found = weights_target(free * MIB, required * MIB, inference * MIB, ratio)
    assert found == target * MIB


def test_everything_is_brought_where_it_fits():
    assert grown(units(10, 20, 30), (), budget=60, buffers=2) == [0, 1, 2]


def test_as_much_as_fits_beside_the_buffers_is_brought():
    sizes = units(50, 10, 10, 10, 10, 10)
    chosen = grown(sizes, (), budget=80, buffers=2)
    assert 0 in chosen  # or its buffers alone would take all there is
    kept = sum(sizes[i].resident for i in chosen)
    assert kept + streaming_cost(sizes, chosen, 2) <= 80
    assert kept == 60


def test_what_is_resident_stays_when_more_is_brought():
    sizes = units(10, 20, 30)
    assert grown(sizes, [0], budget=60, buffers=1) == [1, 2]


def test_fixed_units_are_brought_whatever_the_budget():
    assert grown(units(10, 20, fixed=(1,)), (), budget=0, buffers=2) == [1]


def test_enough_is_dropped_and_nothing_needless():
    sizes = units(5, 10, 20, 40)
    chosen = shrunk(sizes, range(4), needed=12, buffers=0)
    freed = sum(sizes[i].resident for i in chosen)
    assert freed >= 12
    assert all(freed - sizes[i].resident < 12 for i in chosen)


def test_the_buffers_that_dropping_makes_necessary_are_counted():
    sizes = units(*[10] * 10)
    chosen = shrunk(sizes, range(10), needed=30, buffers=2)
    assert len(chosen) == 5


def test_fixed_units_are_never_dropped():
    assert shrunk(units(10, 10, fixed=(0,)), range(2), needed=100, buffers=1) == [1]


def test_the_least_is_what_is_fixed_and_the_buffers():
    assert least_bytes(units(10, 20, 30, fixed=(0,)), buffers=2) == 70


def test_the_past_is_taken_as_the_future():
    assert expected("") == []
    assert expected("ab") == []
    assert expected("abca") == list("bca")
    assert expected("tuvtuvt") == list("uvt")
    assert expected("abacab") == list("acab")  # what came after the longest stretch like the latest
    assert next_uses("tuvt") == {"u": 1, "v": 2, "t": 3}
    assert NEVER > 10**9


def test_a_batch_has_at_least_one_item():
    assert batch_that_fits(free=0, bytes_per_item=100, wanted=4) == 1
    assert batch_that_fits(free=250, bytes_per_item=100, wanted=4) == 2
    assert batch_that_fits(free=10_000, bytes_per_item=100, wanted=4) == 4
