from limner.memory.policy import Resident, batch_that_fits, to_evict

OLD, NEW, BUSY = Resident("old", 100, 1), Resident("new", 100, 5), Resident("busy", 100, 0, in_use=True)


def test_nothing_is_unloaded_while_there_is_room():
    assert to_evict([OLD, NEW], free=50, needed=50) == []


def test_the_longest_unused_goes_first():
    assert to_evict([NEW, OLD], free=0, needed=80) == ["old"]


def test_as_many_go_as_are_needed():
    assert to_evict([NEW, OLD], free=0, needed=150) == ["old", "new"]


def test_what_is_in_use_stays_even_when_it_is_not_enough():
    assert to_evict([BUSY, NEW], free=0, needed=1000) == ["new"]


def test_a_batch_has_at_least_one_item():
    assert batch_that_fits(free=0, bytes_per_item=100, wanted=4) == 1
    assert batch_that_fits(free=250, bytes_per_item=100, wanted=4) == 2
    assert batch_that_fits(free=10_000, bytes_per_item=100, wanted=4) == 4
