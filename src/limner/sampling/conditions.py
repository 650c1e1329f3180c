"""Predictions for several conditions at once: cut to areas, batched, weighted and put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from limner.errors import OutOfMemory
from limner.sampling.condition_values import Area
from limner.sampling.prepare import Condition
from limner.sampling.wrappers import WrapperExecutor, WrappersMP, get_all_wrappers

if TYPE_CHECKING:
    from limner.sampling.protocols import DiffusionModel

SPARE = 1.5
"""How many times the memory that a call needs must be free for several to be computed at once."""
FEATHER = 8
"""Cells over which an area without a mask fades in at edges that are not the picture's."""
NOTHING = 1e-37
"""Weight of cells that no condition covers: their prediction is 0, not NaN."""


@dataclass(frozen=True)
class Call:
    """One condition as it will be run: its cut of x, its weight there, its arguments, and its branch."""

    branch: int
    x: Tensor
    weight: Tensor | float
    area: Area | None
    values: Mapping[str, Any]
    control: Any
    patches: Mapping[str, Any] | None
    uuid: Any
    hooks: Any = None

    def joins(self, other: Call) -> bool:
        """Whether both can be run in one batch."""
        if self.x.shape != other.x.shape or self.control is not other.control:
            return False
        if (self.patches or None) != (other.patches or None) or self.values.keys() != other.values.keys():
            return False
        return all(value.can_concat(other.values[key]) for key, value in self.values.items())


def calc_cond_batch(
    model: Any,
    conds: Sequence[list[Condition] | None],
    x_in: Tensor,
    timestep: Tensor,
    model_options: Mapping[str, Any],
) -> list[Tensor]:
    """The clean prediction of every branch; a branch that is None is zeros. Inside the wrappers of that kind.

    Rows of a batch are in the opposite order of `conds`: the negative, then the positive.
    """
    options = dict(model_options)
    wrappers = get_all_wrappers(WrappersMP.CALC_COND_BATCH, options, is_model_options=True)
    executor = WrapperExecutor.new_executor(_calc_cond_batch, wrappers)
    found: list[Tensor] = executor.execute(model, conds, x_in, timestep, options)
    return found


def _calc_cond_batch(
    model: Any,
    conds: Sequence[list[Condition] | None],
    x: Tensor,
    sigma: Tensor,
    options: Mapping[str, Any],
) -> list[Tensor]:
    totals = [torch.zeros_like(x) for _ in conds]
    weights: list[Tensor | float] = [NOTHING for _ in conds]
    pending: list[Call] = []
    for branch, conditions in enumerate(conds):
        pending += branch_calls(branch, conditions or (), x, sigma)
    plain = options
    patcher = getattr(model, "current_patcher", None)
    if patcher is not None:
        patcher.prepare_state(sigma)
    while pending:
        hooks = pending[0].hooks
        if patcher is not None:
            options = with_hooks(patcher, hooks, sigma, plain)
        while group := [call for call in pending if call.hooks is hooks]:
            joined = [call for call in group if call is group[0] or group[0].joins(call)]
            batch = within_memory(model, joined[::-1])
            pending = [call for call in pending if not any(call is chosen for chosen in batch)]
            for call, output in zip(batch, predicted(model, batch, sigma, options), strict=True):
                weights[call.branch] = blend(totals[call.branch], weights[call.branch], call, output)
    return [total / weight for total, weight in zip(totals, weights, strict=True)]


def with_hooks(patcher: Any, hooks: Any, sigma: Tensor, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options under which the conditions with these hooks are predicted; the model's weights are changed to it."""
    if hooks is None and not patcher.has_hooks():
        return options
    inside = dict(options.get("transformer_options", {}))
    patcher.prepare_hook_patches_current_keyframe(sigma[0], hooks, options)
    return {**options, "transformer_options": patcher.apply_hooks(hooks, inside)}


def branch_calls(branch: int, conditions: Sequence[Condition], x: Tensor, sigma: Tensor) -> list[Call]:
    """The calls of one branch at this sigma; default conditions get what the others leave."""
    calls: list[Call] = []
    fallbacks: list[Call] = []
    for condition in conditions:
        call = make_call(branch, condition, x, sigma)
        if call is not None:
            (fallbacks if condition.get("default", False) else calls).append(call)
    if not fallbacks:
        return calls
    left = torch.ones_like(x)
    for call in calls:
        cut(left, call.area).sub_(call.weight)
    left = left.clamp(min=0)
    if not left.any():
        return calls
    return calls + [replace(call, weight=cut(left, call.area)) for call in fallbacks]


def make_call(branch: int, condition: Condition, x: Tensor, sigma: Tensor) -> Call | None:
    """The condition over x, or None when sigma lies outside its range (both ends belong to it)."""
    level = float(sigma[0])
    start, end = condition.get("timestep_start"), condition.get("timestep_end")
    if (start is not None and level > start) or (end is not None and level < end):
        return None
    area = fit_area(condition.get("area"), x)
    values = {key: v.process_cond(batch_size=x.shape[0], area=area) for key, v in condition["model_conds"].items()}
    gligen = condition.get("gligen")
    patches = None
    if gligen is not None:
        kind, model, positions = gligen
        make = model.model.set_position if kind == "position" else model.model.set_empty
        patches = {"middle_patch": [make(tuple(x.shape), positions, x.device)]}
    return Call(
        branch,
        cut(x, area),
        _weight(condition, x, area),
        area,
        values,
        condition.get("control"),
        patches,
        condition.get("uuid"),
        condition.get("hooks"),
    )


def fit_area(area: Area | None, x: Tensor) -> Area | None:
    """The area clipped to the latent."""
    if area is None:
        return None
    axes = len(area) // 2
    sizes = [min(x.shape[i + 2] - area[axes + i], area[i]) for i in range(axes)]
    return (*sizes, *area[axes:])


def cut(x: Tensor, area: Area | None, first_axis: int = 2) -> Tensor:
    """The part of x in the area: a view."""
    if area is None:
        return x
    axes = len(area) // 2
    for i in range(axes):
        x = x.narrow(i + first_axis, area[axes + i], area[i])
    return x


def _weight(condition: Condition, x: Tensor, area: Area | None) -> Tensor | float:
    strength = float(condition.get("strength", 1.0))
    mask = condition.get("mask")
    if mask is not None:
        mask = cut(mask[: x.shape[0]], area, first_axis=1) * condition.get("mask_strength", 1.0) * strength
        mask = mask.unsqueeze(1)
        repeats = [x.shape[0] // mask.shape[0], x.shape[1], *[1] * (mask.ndim - 2)]
        weight: Tensor = mask.repeat(repeats)
        return weight
    if area is None:
        return strength
    weight = torch.full_like(cut(x, area), strength)
    axes = len(area) // 2
    for i in range(axes):
        width = min(FEATHER, weight.shape[2 + i] // 4)
        for t in range(width):
            if area[axes + i] != 0:
                weight.narrow(2 + i, t, 1).mul_((1 / width) * (t + 1))
            if area[i] + area[axes + i] < x.shape[2 + i]:
                weight.narrow(2 + i, area[i] - 1 - t, 1).mul_((1 / width) * (t + 1))
    return weight


def within_memory(model: DiffusionModel, calls: list[Call]) -> list[Call]:
    """As many of the calls as fit the device at once: all, a half, a third, … but at least one."""
    if len(calls) == 1:
        return calls
    free = model.free_memory()
    too_much = getattr(getattr(model, "current_patcher", model), "too_much", math.inf)
    shape = calls[0].x.shape
    for parts in range(1, len(calls) + 1):
        chosen = calls[: len(calls) // parts]
        needed = required(model, (len(chosen) * shape[0], *shape[1:]), chosen)
        if needed * SPARE <= free and needed < too_much:
            return chosen
    return calls[:1]


def required(model: DiffusionModel, shape: tuple[int, ...], calls: Sequence[Call]) -> float:
    """Bytes that a pass of these calls takes; models that look at what conditions bring are told its shapes."""
    if not hasattr(model, "extra_conds_shapes"):
        return model.memory_required(shape)
    told: dict[str, list[tuple[int, ...]]] = {}
    for call in calls:
        for name, value in call.values.items():
            brought = getattr(value, "cond", None)
            several = brought if isinstance(brought, list) else [brought]
            told.setdefault(name, []).extend(tuple(one.shape) for one in several if isinstance(one, Tensor))
    return float(cast(Any, model).memory_required(shape, cond_shapes=told))


def predicted(model: DiffusionModel, calls: list[Call], sigma: Tensor, options: Mapping[str, Any]) -> Sequence[Tensor]:
    """An output for each call. Where memory runs out, the model makes room and they are run one by one, once."""
    patcher: Any = getattr(model, "current_patcher", model)
    try:
        return run_batch(model, calls, sigma, options)
    except (RuntimeError, OutOfMemory) as error:
        if not hasattr(patcher, "relieve") or not patcher.ran_out(error):
            raise
    # Only behind the block is the error gone, and with it what the failed try had in its frames.
    rows, *rest = calls[0].x.shape
    patcher.relieve(required(model, (rows, *rest), calls[:1]), required(model, (len(calls) * rows, *rest), calls))
    return [output for call in calls for output in run_batch(model, [call], sigma, options)]


def run_batch(
    model: DiffusionModel, calls: list[Call], sigma: Tensor, options: Mapping[str, Any]
) -> tuple[Tensor, ...]:
    """One call of the network for all of them; an output each."""
    count = len(calls)
    x = torch.cat([call.x for call in calls]) if count > 1 else calls[0].x
    level = torch.cat([sigma] * count) if count > 1 else sigma
    first = calls[0]
    c: dict[str, Any] = {
        key: value.concat([call.values[key] for call in calls[1:]]) for key, value in first.values.items()
    }
    transformer_options = dict(options.get("transformer_options", {}))
    if first.patches:
        patches = {key: list(hooks) for key, hooks in transformer_options.get("patches", {}).items()}
        for key, hooks in first.patches.items():
            patches[key] = patches.get(key, []) + list(hooks)
        transformer_options["patches"] = patches
    branches = [call.branch for call in calls]
    transformer_options |= {"cond_or_uncond": branches, "uuids": [call.uuid for call in calls], "sigmas": sigma}
    c["transformer_options"] = transformer_options
    if first.control is not None:
        c["control"] = first.control.get_control(x, level, c, count, transformer_options)
    wrapper = options.get("model_function_wrapper")
    if wrapper is not None:
        arguments = {"input": x, "timestep": level, "c": c, "cond_or_uncond": branches}
        output: Tensor = wrapper(model.apply_model, arguments)
    else:
        output = model.apply_model(x, level, **c)
    return output.chunk(count)


def blend(total: Tensor, weight: Tensor | float, call: Call, output: Tensor) -> Tensor | float:
    """Add a call's output to its branch's sum; the sum of weights comes back."""
    if call.area is None and not isinstance(call.weight, Tensor):
        total.add_(output, alpha=call.weight)
        return weight + call.weight
    cut(total, call.area).add_(output * call.weight)
    if not isinstance(weight, Tensor):
        weight = torch.full_like(total, weight)
    elif weight.shape != total.shape:
        weight = weight.expand_as(total).clone()
    cut(weight, call.area).add_(call.weight)
    return weight
