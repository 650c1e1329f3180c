"""Conditioning made ready for a run: areas in cells, masks at latent size, ranges in sigmas, network arguments."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.sampling.condition_values import as_condition_value, repeat_to_batch

if TYPE_CHECKING:
    from limner.sampling.protocols import DiffusionModel

Condition = dict[str, Any]
"""One prepared condition. Nodes may put any key in it; those that sampling reads are:

model_conds (name → ConditionValue), cross_attn, area, strength, mask, mask_strength, set_area_to_bounds,
start_percent, end_percent → timestep_start, timestep_end, control, control_apply_to_uncond, gligen, default, uuid.
"""
Conditions = dict[str, list[Condition]]
"""Prepared conditions by branch: "positive", "negative", or what a guider calls them."""

BOUNDLESS = 2**31
INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def convert_conditioning(conditioning: Sequence[Sequence[Any]]) -> list[Condition]:
    """[[tensor, dict], …], as nodes pass it, to conditions."""
    converted = []
    for tokens, values in conditioning:
        condition: Condition = dict(values)
        condition["model_conds"] = dict(condition.get("model_conds", {}))
        if tokens is not None:
            condition["model_conds"]["c_crossattn"] = tokens
            condition["cross_attn"] = tokens
        condition["uuid"] = uuid.uuid4()
        converted.append(condition)
    return converted


def process_conditions(
    model: DiffusionModel,
    noise: Tensor,
    conditions: Conditions,
    latent_image: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    seed: int | None = None,
) -> Conditions:
    """Conditions for a latent shaped like `noise` (model space); the ones handed in are not changed."""
    dims = tuple(noise.shape[2:])
    ready = {name: [resolve_area(model, c, dims) for c in branch] for name, branch in conditions.items()}
    given = {"latent_image": latent_image, "denoise_mask": denoise_mask, "seed": seed}
    for name, branch in ready.items():
        for condition in branch:
            resolve_range(model, condition)
            encode(model, condition, noise, name, given)
    for name, branch in ready.items():
        for condition in list(branch):
            for other, others in ready.items():
                if other != name:
                    add_same_area(others, condition)
    for branch in ready.values():
        for condition in branch:
            if condition.get("control") is not None:
                condition["control"].pre_run(model, model.sampling.percent_to_sigma)
    positive = ready.get("positive", [])
    shared = [c for c in positive if c.get("control_apply_to_uncond", False)]
    for name, branch in ready.items():
        if name != "positive":
            copy_to(shared, branch, "control", lambda values, i: values[i])
            copy_to(positive, branch, "gligen", lambda values, i: (values[i][0], values[i][1], []))
    return ready


def resolve_area(model: DiffusionModel, condition: Condition, dims: tuple[int, ...]) -> Condition:
    """A copy with its area in cells and its mask (B, *dims)."""
    condition = dict(condition)
    area = condition.get("area")
    if area is not None and area[0] == "percentage":
        sides, offsets = area[1 : len(area) // 2 + 1], area[len(area) // 2 + 1 :]
        last = dims[-len(sides) :]
        sizes = [max(1, round(part * size)) for part, size in zip(sides, last, strict=True)]
        area = (*sizes, *(round(part * size) for part, size in zip(offsets, last, strict=True)))
    if area is not None:
        condition["area"] = with_axes(tuple(area), len(dims))
    mask = condition.get("mask")
    if mask is not None:
        mask = model.place(mask)
        if mask.ndim == len(dims):
            mask = mask.unsqueeze(0)
        if tuple(mask.shape[1:]) != dims:
            if mask.ndim < len(dims) + 1:
                mask = mask[:, None].expand(-1, dims[0], -1, -1)
            mask = F.interpolate(mask.unsqueeze(1), size=dims, mode=INTERPOLATION[len(dims)]).squeeze(1)
        if condition.get("set_area_to_bounds", False):
            condition["area"] = with_axes(mask_bounds(mask), len(dims))
        condition["mask"] = mask
    return condition


def with_axes(area: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """The area with missing leading axes (time) taken whole."""
    half = len(area) // 2
    missing = axes - half
    return (*[BOUNDLESS] * missing, *area[:half], *[0] * missing, *area[half:])


def mask_bounds(mask: Tensor) -> tuple[int, int, int, int]:
    """(h, w, y, x) of what is not zero in any row of the batch, at least 8 x 8; (8, 8, 0, 0) of nothing."""
    rows, columns = mask.abs().flatten(0, -3).amax(0).nonzero(as_tuple=True)
    if not len(rows):
        return 8, 8, 0, 0
    top, bottom, left, right = (int(v) for v in (rows.min(), rows.max(), columns.min(), columns.max()))
    return max(8, bottom - top + 1), max(8, right - left + 1), top, left


def resolve_range(model: DiffusionModel, condition: Condition) -> None:
    """Percentages to the sigmas the condition starts and ends at."""
    for percent, sigma in (("start_percent", "timestep_start"), ("end_percent", "timestep_end")):
        if percent in condition:
            condition[sigma] = model.sampling.percent_to_sigma(condition[percent])
    for percent, sigma, narrower in (
        ("clip_start_percent", "timestep_start", min),
        ("clip_end_percent", "timestep_end", max),
    ):
        if percent in condition:  # of a text encoder's schedule: where both are said, the narrower range holds
            level = model.sampling.percent_to_sigma(condition[percent])
            known = condition.get(sigma)
            condition[sigma] = level if known is None else narrower(known, level)


def encode(model: DiffusionModel, condition: Condition, noise: Tensor, branch: str, given: dict[str, Any]) -> None:
    """Ask the model for this condition's network arguments."""
    values = {key: value for key, value in condition.items() if key != "model_conds"}
    if noise.ndim >= 4:
        values.setdefault("width", noise.shape[-1] * 8)
        values.setdefault("height", noise.shape[-2] * 8)
    values.setdefault("prompt_type", branch)
    values = {**given, **values, "noise": noise, "device": noise.device}
    cells = noise.shape[2:]
    found = {**condition.get("model_conds", {}), **model.extra_conds(**values)}
    placed = {key: model.place(value) if isinstance(value, Tensor) else value for key, value in found.items()}
    condition["model_conds"] = {key: as_condition_value(key, value, cells) for key, value in placed.items()}


def add_same_area(branch: list[Condition], condition: Condition) -> None:
    """Give `branch` a condition over the area of one of another branch, so that both are predicted on the same cut.

    Its content is that of the smallest condition of the branch whose area contains this one.
    """
    area = condition.get("area")
    if area is None:
        return
    smallest: Condition | None = None
    for candidate in branch:
        inside = candidate.get("area")
        if inside is not None and not _contains(inside, area):
            continue
        size = _size(candidate)
        if smallest is None or (inside is not None and _size(smallest) > size):
            smallest = candidate
    if smallest is not None and smallest.get("area") != area:
        branch.append({**condition, "model_conds": dict(smallest["model_conds"])})


def _contains(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    axes = len(outer) // 2
    return all(
        inner[axes + i] >= outer[axes + i] and outer[i] + outer[axes + i] >= inner[i] + inner[axes + i]
        for i in range(axes)
    )


def _size(condition: Condition) -> float:
    area = condition.get("area")
    if area is None:
        return float("inf")
    size = 1
    for side in area[: len(area) // 2]:
        size *= side
    return size


def copy_to(source: list[Condition], target: list[Condition], name: str, fill: Callable[[list[Any], int], Any]) -> None:
    """Copy the values under `name` from whole-picture conditions to those of another branch, if none there has one."""
    values = [c[name] for c in source if c.get("area") is None and c.get(name) is not None]
    whole = [(i, c) for i, c in enumerate(target) if c.get("area") is None]
    free = [(i, c) for i, c in whole if c.get(name) is None]
    if not values or len(free) < len(whole) or not free:
        return
    filled: set[int] = set()
    for number in range(len(values)):
        index, condition = free[number % len(free)]
        copied = {**condition, name: fill(values, number)}
        if index in filled:
            target.append(copied)
        else:
            target[index] = copied
            filled.add(index)


def prepare_mask(noise_mask: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """A noise mask (…, H, W) of any size as a mask shaped like the latent: bilinear, every channel and batch row."""
    dims = len(shape) - 2
    mask = noise_mask.reshape(-1, 1, *noise_mask.shape[-2:]).float()
    if dims == 1:
        mask = F.interpolate(mask.reshape(mask.shape[0], 1, -1), size=shape[2:], mode="linear")
    else:
        mask = F.interpolate(mask, size=tuple(shape[-2:]), mode="bilinear")
    if dims == 3:
        count = mask.shape[0]
        frames = mask.transpose(0, 1)[None] if count == shape[2] and shape[0] == 1 else mask[:, :, None]
        mask = frames.reshape(-1, 1, *frames.shape[-3:]).expand(-1, -1, shape[2], -1, -1)
    mask = mask.expand(-1, shape[1], *mask.shape[2:])
    return repeat_to_batch(mask, shape[0])
