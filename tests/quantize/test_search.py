"""Which layers keep more bits: the knapsack by itself, and on networks."""

from dataclasses import replace
from itertools import product
from math import inf

import pytest
import torch

from limner.quantize.choosing import Layers, as_recipe, options_of, quantized_model, searched, unreached, with_inputs
from limner.quantize.inputs import known_of
from limner.quantize.samples import latent_of
from limner.quantize.search import Option, Trial, decibels, fewest, hull, noise_of, search, steps, within
from limner.quantize.watch import Watch
from limner.weights.lazy import LazyTensor, PackedTensor
from limner.weights.quant import REGISTRY, sqnr
from limner.weights.quant.recipe import Choice, Recipe
from tests.quantize.make import QUICK, small, starter, watched_starter

BLOCK = ("input_blocks.3.0.*", "input_blocks.3.1.*.ff.*", "input_blocks.3.1.proj_in")


def option(nbytes: int, noise: float) -> Option:
    return Option(Choice("x"), nbytes, noise)


def random_layers(seed: int, number: int = 6) -> dict[str, list[Option]]:
    random = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(number):
        size, worst = (float(torch.rand((), generator=random)) * 1000 + 10 for _ in range(2))
        found[str(layer)] = [option(int(size * part), worst * rest) for part, rest in ((1, 1), (2, 0.1), (4, 0))]
    return found


def test_an_option_that_costs_more_and_helps_less_is_never_taken() -> None:
    few, worse, poor, good = option(1, 1.0), option(2, 2.0), option(3, 0.9), option(4, 0.1)
    assert hull([good, few, worse, poor]) == [few, good]


def test_steps_come_in_the_order_of_noise_avoided_per_byte() -> None:
    found = steps(random_layers(0))
    rates = [step.noise / step.nbytes for step in found]
    assert len(found) == 12
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_within_a_size_the_choice_is_near_the_best_of_all(seed: int) -> None:
    layers = random_layers(seed)
    total = sum(one[-1].nbytes for one in layers.values())
    for part in (0.3, 0.5, 0.8):
        most = int(total * part)
        best = min(sum(one.noise for one in ways) for ways in product(*layers.values())
                   if sum(one.nbytes for one in ways) <= most)  # fmt: skip
        chosen = within(layers, most).values()
        assert sum(one.nbytes for one in chosen) <= most
        assert sum(one.noise for one in chosen) <= best + max(one[0].noise for one in layers.values()) * 0.5


def test_too_small_a_size_leaves_all_in_their_fewest_bytes() -> None:
    layers = random_layers(0)
    assert within(layers, 0) == fewest(layers)


def test_decibels_and_noise_are_inverse() -> None:
    assert decibels(noise_of(23.0)) == pytest.approx(23.0)
    assert decibels(0.0) == inf


def trial_of_small() -> Trial:
    network, watch = small(), Watch(keep=1)
    with watch.on(network):
        network(torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)))
    return Trial(network, watch.passes, lambda layer: network.get_submodule(layer).weight)


def test_noise_is_measured_at_the_output_and_the_network_is_as_before() -> None:
    trial = trial_of_small()
    few, many = (Choice("matrix.weight", REGISTRY[name]) for name in ("nf4", "int8_rowwise"))
    assert trial.noise({}) == trial.noise({"matrix": Choice("matrix.weight")}) == 0
    assert trial.noise({"matrix": few}) > 10 * trial.noise({"matrix": many}) > 0
    assert trial.noise({"idle": few}) == 0
    assert trial.noise({"matrix": few}) > 0
    assert all("forward" not in vars(module) for module in trial._network.modules())


def test_a_fixed_scale_of_inputs_counts_in_the_noise() -> None:
    trial, layout = trial_of_small(), REGISTRY["int8_rowwise"]
    plain = Choice("matrix.weight", layout)
    fitting, poor = (replace(plain, inputs={"input_scale": torch.tensor(scale)}) for scale in (0.03, 1.0))
    assert trial.noise({"matrix": plain}) < trial.noise({"matrix": fitting}) < trial.noise({"matrix": poor})


@pytest.mark.parametrize(("name", "size"), [("float8_e4m3fn", 1e4), ("int8_rowwise", 1.0), ("nvfp4", 1e5)])
def test_a_calibrated_scale_is_better_than_one_that_nobody_measured(name: str, size: float) -> None:
    network, watch, layout = small(), Watch(keep=1), REGISTRY[name]
    with watch.on(network):
        network(size * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)))
    trial = Trial(network, watch.passes, lambda layer: network.get_submodule(layer).weight)
    known = known_of(watch.inputs["matrix"], layout, LazyTensor.of(network.matrix.weight))
    calibrated, one = (
        trial.noise({"matrix": Choice("matrix.weight", layout, inputs=inputs)})
        for inputs in (known, {"input_scale": torch.tensor(1.0)})
    )
    assert decibels(calibrated) > decibels(one) + 6


def starter_choices() -> tuple[Layers, list[Choice], list[Choice]]:
    """One block of the starter model in four bits, and the same in eight."""
    layers = Layers.of_model(starter().model)
    recipes = (Recipe(name, include=BLOCK) for name in ("int4_groups", "int8_rowwise"))
    few, more = (recipe.choices(layers.header, layers.prefix) for recipe in recipes)
    return layers, few, more


def test_a_search_holds_its_budget_and_takes_fewer_bytes_than_eight_bits_for_all() -> None:
    layers, few, more = starter_choices()
    options = options_of(few, [more], layers)
    changed, found = searched(starter().model, watched_starter().passes[:1], few, options, layers, least_snr=45.0)
    assert decibels(found.noise) >= 45.0
    assert found.nbytes < sum(one[1].nbytes for one in options.values())
    assert any(one.why.startswith("by search: alone in int4_groups") for one in changed)
    again = as_recipe(changed, "int4_groups").choices(layers.header, layers.prefix)
    assert [one.layout for one in again] == [one.layout for one in changed]


def test_a_search_is_better_than_one_way_for_all_layers_in_the_same_bytes() -> None:
    layers, few, more = starter_choices()
    finer = Recipe("int4_groups", include=BLOCK, layers={"input_blocks.3.*": {
        "format": "int4_groups", "group_size": 16}}).choices(layers.header, "")  # fmt: skip
    uniform = {layer: ways[0] for layer, ways in options_of(finer, [], layers).items()}
    nbytes = sum(one.nbytes for one in uniform.values())
    model, passes = starter().model, watched_starter().passes[:1]
    _, found = searched(model, passes, few, options_of(few, [more], layers), layers, most_bytes=nbytes)
    with model.loaded() as network:
        trial = Trial(network, passes, lambda layer: model.source.patched(layer + ".weight"))
        noise = trial.noise({layer: one.choice for layer, one in uniform.items()})
    assert found.nbytes <= nbytes
    assert decibels(found.noise) > decibels(noise) + 1


def test_a_budget_that_nothing_else_holds_keeps_all() -> None:
    found = search(trial_of_small(), {"matrix": [Option(Choice("matrix.weight", REGISTRY["nf4"]), 20),
                                                 Option(Choice("matrix.weight"), 128)]}, least_snr=300)  # fmt: skip
    assert found.chosen["matrix"].choice.layout is None
    assert found.noise == 0


def test_a_model_is_quantized_in_memory_with_its_scales_and_samples_nearly_the_same() -> None:
    layers, _, more = starter_choices()
    inputs = {name: one for name, one in watched_starter().inputs.items() if not name.endswith("proj_in")}
    choices = list(with_inputs(more, layers, inputs, "amax"))
    assert unreached(choices, layers, inputs) == ["input_blocks.3.1.proj_in.weight"]
    model = quantized_model(starter().model, choices)
    packed = {name: one for name, one in model.source.tensors.items() if isinstance(one, PackedTensor)}
    assert {one.name for one in choices if one.layout is not None} == packed.keys()
    fixed = {name for name, one in packed.items() if "input_scale" in one.like.parts.tensors}
    assert packed.keys() - fixed == {"input_blocks.3.1.proj_in.weight"}
    drawn = latent_of(model, starter().clip, QUICK)
    assert 20 < sqnr(latent_of(starter().model, starter().clip, QUICK), drawn) < 80
