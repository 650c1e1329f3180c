"""Which layers to keep in more bits: those whose rounding costs the output most for the bytes that it saves.

Noise is measured at the network's output, on passes kept from real sampling: N = Σ (ŷ − y)² / Σ y², with y what the
network says in full precision and ŷ what it says with rounded layers (their inputs rounded too, where the layout does
that). Each layer is rounded alone once in each way; noises of several layers add as long as they are small and
independent. Steps from few bits to more are then taken in the order of noise avoided per byte, which is the greedy
solution of the knapsack on each layer's convex hull, and how many steps are needed is found by halving, each time with
all layers rounded as they would be.

GPTQ and HAWQ rank layers by estimates of the same quantity, ‖ΔW·X‖² at the layer's own output (Frantar et al. 2022,
"GPTQ", eq. 1) and ‖ΔW‖² times the curvature of the loss (Dong et al. 2019, "HAWQ"). Measured at the network's output
neither is needed, and it needs no gradients: one pass a layer and way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import inf, log10
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.quantize.samples import Progress, silent
from limner.quantize.watch import Layer, Pass, repeated
from limner.weights.ops import arrived
from limner.weights.quant.mode import computing
from limner.weights.quant.recipe import Choice
from limner.weights.quant.tensor import QuantizedTensor


@dataclass(frozen=True)
class Option:
    """One way to keep a layer. nbytes: of its weight then. noise: that it brings to the output, as a part of it."""

    choice: Choice
    nbytes: int
    noise: float = 0.0


@dataclass(frozen=True)
class Step:
    """A layer goes from one of its options to another: more bytes, less noise."""

    layer: str
    option: Option
    nbytes: int
    noise: float


@dataclass(frozen=True)
class Found:
    """What a search chose.

    noise: of the output with all of it, of the worst pass. alone: that each layer brings by itself in its fewest bytes.
    curve: (bytes of the layers, noise as the sum of parts) from the fewest bits to the most.
    """

    chosen: Mapping[str, Option]
    noise: float
    alone: Mapping[str, float]
    curve: Sequence[tuple[int, float]] = field(default_factory=tuple)

    @property
    def nbytes(self) -> int:
        """Of the chosen layers' weights."""
        return sum(one.nbytes for one in self.chosen.values())


def decibels(noise: float) -> float:
    """The ratio of signal to noise, dB: −10 · log10(N)."""
    return -10 * log10(noise) if noise > 0 else inf


def noise_of(snr: float) -> float:
    """The noise N that is so many dB below the signal."""
    return float(10 ** (-snr / 10))


def hull(options: Sequence[Option]) -> list[Option]:
    """The options worth taking, fewest bytes first: each avoids less noise per byte than the one before it did."""
    found: list[Option] = []
    for option in sorted(options, key=lambda one: (one.nbytes, one.noise)):
        if found and option.noise >= found[-1].noise:
            continue
        while len(found) > 1 and _slope(found[-1], option) >= _slope(found[-2], found[-1]):
            found.pop()
        found.append(option)
    return found


def _slope(few: Option, more: Option) -> float:
    return (few.noise - more.noise) / max(more.nbytes - few.nbytes, 1)


def steps(options: Mapping[str, Sequence[Option]]) -> list[Step]:
    """All steps from the fewest bytes to the most, those first that avoid most noise per byte."""
    found = [
        (_slope(few, more), Step(layer, more, more.nbytes - few.nbytes, few.noise - more.noise))
        for layer, several in options.items()
        for few, more in pairwise(hull(several))
    ]
    return [step for _, step in sorted(found, key=lambda one: -one[0])]


def fewest(options: Mapping[str, Sequence[Option]]) -> dict[str, Option]:
    """Each layer in its fewest bytes."""
    return {layer: hull(several)[0] for layer, several in options.items()}


def within(options: Mapping[str, Sequence[Option]], nbytes: int) -> dict[str, Option]:
    """The least noise, as a sum of parts, in so many bytes; all in the fewest bits where even that takes more."""
    chosen = fewest(options)
    left = nbytes - sum(one.nbytes for one in chosen.values())
    blocked: set[str] = set()
    for step in steps(options):
        if step.nbytes > left:
            blocked.add(step.layer)
        elif step.layer not in blocked:
            chosen[step.layer] = step.option
            left -= step.nbytes
    return chosen


def curve_of(options: Mapping[str, Sequence[Option]]) -> list[tuple[int, float]]:
    """(bytes, noise as the sum of parts) after each step."""
    chosen = fewest(options).values()
    points = [(sum(one.nbytes for one in chosen), sum(one.noise for one in chosen))]
    for step in steps(options):
        points.append((points[-1][0] + step.nbytes, max(points[-1][1] - step.noise, 0.0)))
    return points


class Trial:
    """A network that is in use, with passes of it, computed with some of its layers rounded.

    weight: a layer's weight in full precision where it is computed with, by its name in the network.
    """

    def __init__(self, network: nn.Module, passes: Sequence[Pass], weight: Callable[[str], Tensor]) -> None:
        self._network = network
        self._passes = passes
        self._weight = weight

    def noise(self, choices: Mapping[str, Choice]) -> float:
        """N of the pass that suffers most. choices: by layer; those of no layout stay as they are."""
        rounded = {layer: self.rounded(layer, one) for layer, one in choices.items() if one.layout is not None}
        if not rounded:
            return 0.0
        with replaced(self._network, rounded), computing(emulate=True):
            return output_noise(self._network, self._passes)

    def rounded(self, layer: str, choice: Choice) -> Tensor:
        """The weight as a choice keeps it; its numbers alone where inputs are not rounded, which is faster here."""
        if choice.layout is None:
            return self._weight(layer)
        made = QuantizedTensor.from_float(self._weight(layer), choice.layout, **choice.options, **choice.inputs)
        return made if choice.layout.rounds_inputs(made.parts) else made.dequantize()


def output_noise(network: nn.Module, passes: Sequence[Pass]) -> float:
    """N of the pass whose output is furthest from what it was."""
    return max((_relative(repeated(network, one), one.output) for one in passes), default=0.0)


def _relative(output: Tensor, exact: Tensor) -> float:
    signal = exact.double().square().sum()
    return float((output.double() - exact.double()).square().sum() / signal.clamp(min=torch.finfo(torch.float32).tiny))


@contextmanager
def replaced(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block these layers compute with these weights."""
    with ExitStack() as stack:
        for name, weight in weights.items():
            module: Any = network.get_submodule(name)
            before = vars(module).get("forward")
            vars(module)["forward"] = partial(_forward, module, weight)
            stack.callback(_restore, module, before)
        yield


def _restore(module: nn.Module, before: Any) -> None:
    if before is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = before


def _forward(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    _, bias = arrived(layer, x)
    weight = weight.to(x.dtype)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return layer._conv_forward(x, weight, bias)  # type: ignore[no-any-return]


def measured(
    trial: Trial, options: Mapping[str, Sequence[Option]], progress: Progress = silent
) -> dict[str, list[Option]]:
    """The options with the noise that each brings alone."""
    total, done = sum(len(several) for several in options.values()), 0
    found: dict[str, list[Option]] = {}
    for layer, several in options.items():
        found[layer] = []
        for one in several:
            noise = trial.noise({layer: one.choice})
            found[layer].append(Option(one.choice, one.nbytes, noise))
            done += 1
            progress(done, total)
    return found


def search(
    trial: Trial,
    options: Mapping[str, Sequence[Option]],
    *,
    least_snr: float | None = None,
    most_bytes: int | None = None,
    progress: Progress = silent,
) -> Found:
    """The fewest bytes whose output is at least so many dB above its noise, or the least noise in so many bytes.

    options: of each layer, without noise; one of them should be to keep it. Where both are given, `most_bytes` holds.
    """
    known = measured(trial, options, progress)
    few, path = fewest(known), steps(known)
    if most_bytes is not None:
        chosen = within(known, most_bytes)
    else:
        chosen = _first_that_holds(trial, few, path, noise_of(inf if least_snr is None else least_snr))
    noise = trial.noise({layer: one.choice for layer, one in chosen.items()})
    return Found(chosen, noise, {layer: one.noise for layer, one in few.items()}, curve_of(known))


def _first_that_holds(trial: Trial, few: Mapping[str, Option], path: Sequence[Step], most: float) -> dict[str, Option]:
    """So few steps that the noise is at most `most`, found by halving: more steps make less noise, near enough."""

    def after(number: int) -> dict[str, Option]:
        return {**few, **{step.layer: step.option for step in path[:number]}}

    low, high = 0, len(path)
    while low < high:
        middle = (low + high) // 2
        if trial.noise({layer: one.choice for layer, one in after(middle).items()}) <= most:
            high = middle
        else:
            low = middle + 1
    return after(low)
