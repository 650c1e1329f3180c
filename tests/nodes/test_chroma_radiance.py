"""ChromaRadianceOptions tells the network between two noise levels, inside or instead of another wrapper."""

import torch

from limner.nodes.chroma_radiance import with_options


def told(level: float, between=(0.25, 0.75), inner=None) -> object:
    """What the network is told at a noise level."""
    seen = {}

    def apply(x, timestep, **conditions):
        seen.update(conditions["transformer_options"])
        return x

    wrapper = with_options({"nerf_tile_size": 7}, between, inner)
    args = {"input": torch.zeros(1), "timestep": torch.tensor([level]), "c": {"transformer_options": {"other": 1}}}
    wrapper(apply, args)
    assert seen["other"] == 1
    assert args["c"]["transformer_options"] == {"other": 1}  # what it was given is not changed
    return seen.get("chroma_radiance_options")


def test_the_options_hold_between_their_levels_and_nowhere_else() -> None:
    assert told(0.5) == told(0.25) == told(0.75) == {"nerf_tile_size": 7}
    assert told(0.9) is None
    assert told(0.1) is None


def test_a_wrapper_that_was_there_is_called_inside() -> None:
    calls = []

    def inner(apply, args):
        calls.append(args["c"]["transformer_options"]["chroma_radiance_options"])
        return apply(args["input"], args["timestep"], **args["c"])

    assert told(0.5, inner=inner) == {"nerf_tile_size": 7}
    assert calls == [{"nerf_tile_size": 7}]
