"""What the inputs of a layer are like, and the fixed scale or the smoothing that fits them.

A fixed scale is c / (the largest number of the format): inputs beyond ±c are clipped. c is the largest input that was
seen ("amax"), one that all but a few stay below ("percentile"), or the one of least squared rounding error ("mse").
Sources: Wu et al. 2020, "Integer Quantization for Deep Learning Inference", section 3.2 (the three ways to choose c);
Xiao et al. 2023, "SmoothQuant", eq. 4 (smoothing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.lazy import LazyTensor
from limner.weights.quant.convert import column_amax
from limner.weights.quant.layout import Layout
from limner.weights.quant.layouts.int8 import Int8Smooth, smoothing
from limner.weights.quant.parts import Parts

Observer = Literal["amax", "percentile", "mse"]
OBSERVERS: tuple[str, ...] = get_args(Observer)
BINS = 2048
AT_ONCE = 1 << 16
"""Inputs of a pass that the histogram takes, chosen at random; the largest is sought among all."""
PERCENTILE = 0.9999
CANDIDATES = 80
"""Values of c that are tried for the least squared error, from the largest input down to a hundredth of it."""


class Inputs:
    """Counts what a layer is given, pass by pass.

    amax: the largest. columns: (columns,), the largest of each channel. histogram: how many sizes lie in each of `BINS`
    equal parts of 0 … top. top: a power of two.
    """

    def __init__(self, seed: int = 0) -> None:
        self.amax = 0.0
        self.columns: Tensor | None = None
        self.histogram = torch.zeros(BINS, dtype=torch.float64)
        self.top = 0.0
        self._random = torch.Generator().manual_seed(seed)

    @property
    def reached(self) -> bool:
        """Whether anything but zeros was seen."""
        return self.amax > 0

    def add(self, x: Tensor, channel: int = -1) -> None:
        """Inputs of one pass. channel: the axis of the weight's columns. What is not finite does not count."""
        sizes = x.detach().movedim(channel, -1).flatten(0, -2).abs().float()
        sizes = torch.where(sizes.isfinite(), sizes, 0)
        if sizes.numel() == 0:
            return
        columns = sizes.amax(0).cpu()
        self.columns = columns if self.columns is None else self.columns.maximum(columns)
        self.amax = float(self.columns.amax())
        self._widen(self.amax)
        if self.top:
            flat = sizes.flatten()
            if flat.numel() > AT_ONCE:
                chosen = torch.randint(flat.numel(), (AT_ONCE,), generator=self._random)
                flat = flat[chosen]
            self.histogram += torch.histc(flat.cpu(), BINS, 0.0, self.top).double()

    def _widen(self, amax: float) -> None:
        """Let the histogram reach `amax`: neighbouring parts become one."""
        if amax <= self.top:
            return
        top = 2.0 ** torch.tensor(amax, dtype=torch.float64).log2().ceil().item()
        if self.top:
            into = torch.arange(BINS) // min(BINS, round(top / self.top))
            self.histogram = torch.zeros_like(self.histogram).index_add_(0, into, self.histogram)
        self.top = top

    def largest(self, observer: Observer, layout: Layout) -> float:
        """c: the largest input that a fixed scale is to hold. Raises BadInput for an unknown observer."""
        if observer not in _OBSERVERS:
            raise BadInput(f"{observer!r} does not choose scales.", do=f"Choose one of {', '.join(OBSERVERS)}.")
        return _OBSERVERS[observer](self, layout)


def _amax(inputs: Inputs, layout: Layout) -> float:
    del layout
    return inputs.amax


def _percentile(inputs: Inputs, layout: Layout) -> float:
    del layout
    below = inputs.histogram.cumsum(0) / inputs.histogram.sum()
    edge = int((below < PERCENTILE).sum()) + 1
    return min(inputs.amax, edge * inputs.top / BINS)


def _least_squared(inputs: Inputs, layout: Layout) -> float:
    """By rounding the middle of each part of the histogram as the layout rounds inputs."""
    used = inputs.histogram > 0
    sizes = (torch.arange(BINS)[used] + 0.5) * (inputs.top / BINS)
    best, least = inputs.amax, float("inf")
    for part in torch.logspace(0, -2, CANDIDATES, dtype=torch.float64).tolist():
        rounded = layout.rounded(sizes[None], _with_scale(sizes, scale_of(inputs.amax * part, layout)))[0]
        error = float(((rounded - sizes).double().square() * inputs.histogram[used]).sum())
        if error < least:
            best, least = inputs.amax * part, error
    return best


_OBSERVERS: Mapping[str, Callable[[Inputs, Layout], float]] = {
    "amax": _amax,
    "percentile": _percentile,
    "mse": _least_squared,
}


def _with_scale(sizes: Tensor, scale: Tensor) -> Parts:
    return Parts(torch.empty(0), (1, sizes.numel()), torch.float32, {"input_scale": scale})


def scale_of(largest: float, layout: Layout) -> Tensor:
    """The fixed scale for inputs up to `largest`: float32, finite and greater than zero."""
    if layout.largest_input is None:
        raise BadInput(f"Inputs have no fixed scale in {layout.name}.")
    return torch.tensor(largest / layout.largest_input).clamp(min=torch.finfo(torch.float32).smallest_normal)


def known_of(inputs: Inputs, layout: Layout, weight: LazyTensor, observer: Observer = "amax") -> dict[str, Tensor]:
    """What a file keeps of a layer's inputs, by the guide's names; nothing where its layout rounds none.

    With smoothing inputs keep a scale for each token, which costs nothing more there; else they have a fixed one.
    """
    if not inputs.reached or inputs.columns is None:
        return {}
    if isinstance(layout, Int8Smooth):
        if len(weight.shape) != 2:  # a convolution's weight is not multiplied in int8 once it is smoothed
            return {}
        return {"pre_quant_scale": smoothing(column_amax(weight)[None], inputs.columns, 0.5)}
    if layout.largest_input is None:
        return {}
    return {"input_scale": scale_of(inputs.largest(observer, layout), layout)}
