"""Long batches and videos predicted in overlapping windows, whose predictions are put together by weight.

Windows by steps of powers of two with a shifting start are those of AnimateDiff's "uniform" scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", "batched")
FUSIONS = ("pyramid", "relative", "flat", "overlap-linear")
Window = list[int]


@dataclass(frozen=True)
class Windows:
    """How an axis is cut.

    length: frames of a window. overlap: of neighbours. stride: the largest power of two of steps between frames, for
    the uniform schedules. closed: the last frames are neighbours of the first. axis: which of the latent; 0 is the
    batch.
    """

    length: int
    overlap: int
    schedule: str = "standard_static"
    stride: int = 1
    closed: bool = False
    fusion: str = "pyramid"
    axis: int = 0

    def at_step(self, step: int, frames: int) -> list[Window]:
        """The windows of a step; all frames are in one at least."""
        if frames <= self.length:
            return [list(range(frames))]
        found = {
            "standard_static": self._static,
            "standard_uniform": self._uniform_inside,
            "looped_uniform": self._uniform,
            "batched": self._batched,
        }[self.schedule](step, frames)
        covered = {frame for window in found for frame in window}
        missing = [frame for frame in range(frames) if frame not in covered]
        return found + [missing[at : at + self.length] for at in range(0, len(missing), self.length)]

    def _static(self, step: int, frames: int) -> list[Window]:  # noqa: ARG002 - one form of all schedules
        advance = max(self.length - self.overlap, 1)
        starts = [*range(0, frames - self.length, advance), frames - self.length]
        return [list(range(start, start + self.length)) for start in starts]

    def _batched(self, step: int, frames: int) -> list[Window]:  # noqa: ARG002
        return [list(range(start, min(start + self.length, frames))) for start in range(0, frames, self.length)]

    def _uniform(self, step: int, frames: int) -> list[Window]:
        strides = min(self.stride, math.ceil(math.log2(frames / self.length)) + 1)
        found: list[Window] = []
        for apart in (1 << power for power in range(strides)):
            offset = round(frames * reversed_fraction(step))
            first = int(reversed_fraction(step) * apart) + offset
            last = frames + offset + (0 if self.closed else -self.overlap)
            found += [
                [at % frames for at in range(start, start + self.length * apart, apart)]
                for start in range(first, last, max(self.length * apart - self.overlap, 1))
            ]
        return found

    def _uniform_inside(self, step: int, frames: int) -> list[Window]:
        """Uniform windows, those that go round the end moved inside; equal ones once."""
        found: list[Window] = []
        for window in self._uniform(step, frames):
            moved = window
            if window != sorted(window):
                apart = (window[1] - window[0]) % frames
                start = max(frames - 1 - (len(window) - 1) * apart, 0)
                moved = [start + place * apart for place in range(len(window)) if start + place * apart < frames]
            if moved not in found:
                found.append(moved)
        return found

    def weights(self, window: Window, frames: int) -> list[float]:
        """How much each frame of a window counts."""
        count = len(window)
        if self.fusion == "pyramid":
            return [float(min(place + 1, count - place)) for place in range(count)]
        if self.fusion == "relative":
            middle = (window[0] + window[-1]) / 2
            half = (window[-1] - window[0] + 1e-2) / 2
            return [max(1e-2, 1 - abs(frame - middle) / half) for frame in window]
        if self.fusion == "overlap-linear":
            ramp = min(self.overlap, count)
            rising = [(place + 1e-37) / ramp for place in range(ramp)] if ramp else []
            found = [1.0] * count
            if min(window) > 0:
                found[:ramp] = rising
            if max(window) < frames - 1:
                found[count - ramp :] = [
                    min(old, new) for old, new in zip(found[count - ramp :], rising[::-1], strict=True)
                ]
            return [max(weight, 1e-3) for weight in found]
        return [1.0] * count


def reversed_fraction(step: int) -> float:
    """The bits of a number behind the point in reverse: 0, 1/2, 1/4, 3/4, 1/8 …"""
    return int(f"{step:064b}"[::-1], 2) / (1 << 64)


def in_windows(windows: Windows) -> Callable[..., list[Tensor]]:
    """A wrapper of `calc_cond_batch`: what is too long is predicted window by window."""

    def wrapper(
        executor: Any, model: Any, conds: Sequence[Any], x: Tensor, sigma: Tensor, options: dict[str, Any]
    ) -> list[Tensor]:
        axis = windows.axis
        if axis >= x.ndim or x.shape[axis] <= windows.length:
            found: list[Tensor] = executor(model, conds, x, sigma, options)
            return found
        frames = x.shape[axis]
        totals = [torch.zeros_like(x) for _ in conds]
        counts = x.new_zeros([frames if i == axis else 1 for i in range(x.ndim)])
        for window in windows.at_step(step_of(sigma, options), frames):
            index = torch.tensor(window, device=x.device)
            weight = x.new_tensor(windows.weights(window, frames)).view([-1 if i == axis else 1 for i in range(x.ndim)])
            parts = [None if cond is None else [cut_condition(one, index, x, axis) for one in cond] for cond in conds]
            level = sigma[index] if axis == 0 and len(sigma) == frames else sigma
            for total, output in zip(totals, executor(model, parts, x[_at(index, axis)], level, options), strict=True):
                total.index_add_(axis, index, output * weight)
            counts.index_add_(axis, index, weight)
        return [total / counts for total in totals]

    return wrapper


def step_of(sigma: Tensor, options: dict[str, Any]) -> int:
    """Which step of the run a noise level belongs to."""
    levels: Tensor | None = options.get("transformer_options", {}).get("sample_sigmas")
    return 0 if levels is None else int((levels.cpu() - sigma[0].cpu()).abs().argmin())


def _at(index: Tensor, axis: int) -> tuple[Any, ...]:
    return (*[slice(None)] * axis, index)


def cut_condition(condition: dict[str, Any], index: Tensor, x: Tensor, axis: int) -> dict[str, Any]:
    """A condition with only those frames of all that has one value for each of them."""
    frames = x.shape[axis]

    def cut(value: Any) -> Any:
        inner = getattr(value, "cond", value)
        if not isinstance(inner, Tensor) or axis >= inner.ndim or inner.shape[axis] != frames:
            return value
        if axis > 0 and inner.ndim != x.ndim:
            return value
        part = inner[_at(torch.as_tensor(index, device=inner.device), axis)]
        return part if inner is value else type(value)(part)

    changed = {**condition, "model_conds": {name: cut(value) for name, value in condition["model_conds"].items()}}
    mask = condition.get("mask")  # (B, …): without the axis of channels
    place = axis if axis == 0 else axis - 1
    if isinstance(mask, Tensor) and place < mask.ndim and mask.shape[place] == frames:
        changed["mask"] = mask[_at(torch.as_tensor(index, device=mask.device), place)]
    return changed
