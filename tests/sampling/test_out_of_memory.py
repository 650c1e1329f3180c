"""Sampling that runs out of memory: room is made, conditions are run one by one, once; the picture is the same."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from limner.errors import OutOfMemory
from tests.sampling.make import ToyModel, conditioning, toy
from tests.sampling.test_conditions import predict


class Short(ToyModel):
    """Calls whose number is in `fails` run out of memory. relieved: what was asked each time."""

    fails: tuple[int, ...] = ()
    error: type[Exception] = torch.OutOfMemoryError
    too_much = float("inf")

    def apply_model(self, x, sigma, c_crossattn, **_):
        self.tried = [*getattr(self, "tried", ()), len(x)]
        if len(self.tried) - 1 in self.fails:
            lost = torch.zeros(3)
            self.lost = weakref.ref(lost)
            raise self.error("allocate memory")
        return super().apply_model(x, sigma, c_crossattn)

    def ran_out(self, error):
        return isinstance(error, torch.OutOfMemoryError | OutOfMemory)

    def relieve(self, needed, failed):
        gc.collect()
        self.relieved = [*getattr(self, "relieved", ()), (needed, failed, self.lost() is None)]
        self.too_much = min(self.too_much, failed)


def short(*fails, error=torch.OutOfMemoryError):
    model = toy()
    model.__class__ = Short
    model.fails, model.error = fails, error
    return model


def both(model):
    return predict(model, conditioning(1.0), conditioning(0.0))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, OutOfMemory])
def test_conditions_that_do_not_fit_together_are_run_one_by_one_with_the_same_result(error):
    want, model = both(toy()), short(0, error=error)
    found = both(model)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    assert model.tried == [2, 1, 1]


def test_room_is_made_for_one_condition_once_what_the_failed_try_held_is_gone():
    model = short(0)
    both(model)
    assert model.relieved == [(256.0, 512.0, True)]


def test_what_ran_out_of_memory_is_not_tried_again_at_the_next_step():
    model = short(0)
    both(model)
    both(model)
    assert model.tried == [2, 1, 1, 1, 1]


def test_a_lone_condition_is_tried_once_more():
    model = short(0)
    (found, _) = predict(model, conditioning(1.0), [])
    assert torch.equal(found, predict(toy(), conditioning(1.0), [])[0])
    assert model.relieved == [(256.0, 256.0, True)]


@pytest.mark.parametrize("fails", [(0, 1), (0, 2)])
def test_a_second_time_is_an_error(fails):
    model = short(*fails)
    with pytest.raises(torch.OutOfMemoryError):
        both(model)
    assert len(model.relieved) == 1


def test_another_error_is_not_tried_again():
    model = short(0, error=RuntimeError)
    with pytest.raises(RuntimeError):
        both(model)
    assert model.tried == [2]


def test_a_model_that_cannot_make_room_fails_at_once():
    model = toy()
    model.apply_model = lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError())
    with pytest.raises(torch.OutOfMemoryError):
        both(model)
