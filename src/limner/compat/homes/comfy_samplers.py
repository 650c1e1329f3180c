"""comfy.samplers: guidance, schedules, samplers and the preparation of conditions, over `limner.sampling`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limner.compat.homes.stands_for import StandsFor
from limner.sampling import conditions, functions, prepare, preparing, schedulers
from limner.sampling.functions import KSamplerX0Inpaint
from limner.sampling.ksampler import KSampler
from limner.sampling.model_sampling import as_sampling
from limner.sampling.sampler import Sampler as BuiltIn
from limner.sampling.sampler import SamplerBase
from limner.sampling.samplers import SAMPLERS
from limner.sampling.schedulers import SCHEDULER_HANDLERS, SCHEDULERS, SchedulerHandler

__all__ = ["SCHEDULER_HANDLERS", "KSampler", "KSamplerX0Inpaint", "SchedulerHandler"]

SAMPLER_NAMES = SAMPLERS
SCHEDULER_NAMES = SCHEDULERS
KSAMPLER_NAMES = [name for name in SAMPLERS if name not in ("ddim", "uni_pc", "uni_pc_bh2")]


class Sampler(SamplerBase, metaclass=StandsFor):
    """What SAMPLER sockets carry; packs derive from it."""

    recognises = staticmethod(lambda instance: isinstance(instance, SamplerBase))


class KSAMPLER(functions.KSAMPLER, Sampler):
    """A sampler made of a function."""

    recognises = staticmethod(lambda instance: isinstance(instance, functions.KSAMPLER | BuiltIn))


def ksampler(
    sampler_name: str, extra_options: Mapping[str, Any] | None = None, inpaint_options: Mapping[str, Any] | None = None
) -> KSAMPLER:
    """A sampler by name, with options for its function."""
    return KSAMPLER(sampler_function(sampler_name), extra_options, inpaint_options)


def sampler_function(name: str) -> Callable[..., Tensor]:
    """The function (model, x, sigmas, extra_args, callback, disable, …) of a sampler."""
    if name not in ("dpm_fast", "dpm_adaptive"):
        found: Callable[..., Tensor] = getattr(functions, f"sample_{name}")
        return found
    whole = getattr(functions, f"sample_{name}")

    def over_ends(
        model: Any, noise: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any, **options: Any
    ) -> Tensor:
        if len(sigmas) <= 1:
            return noise
        lowest = sigmas[-1] if sigmas[-1] != 0 else sigmas[-2]
        count = (len(sigmas) - 1,) if name == "dpm_fast" else ()
        done: Tensor = whole(
            model,
            noise,
            lowest,
            sigmas[0],
            *count,
            extra_args=extra_args,
            callback=callback,
            disable=disable,
            **options,
        )
        return done

    return over_ends


# -- predictions ------------------------------------------------------------------------------------------------------


def calc_cond_uncond_batch(
    model: Any, cond: Any, uncond: Any, x_in: Tensor, timestep: Tensor, model_options: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The predictions of two branches: the older form of `calc_cond_batch`."""
    first, second = conditions.calc_cond_batch(model, [cond, uncond], x_in, timestep, model_options)
    return first, second


def add_area_dims(area: Sequence[int], num_dims: int) -> Sequence[int]:
    """An area with missing leading axes taken whole."""
    return prepare.with_axes(tuple(area), num_dims)


def get_area_and_mult(conds: dict[str, Any], x_in: Tensor, timestep_in: Tensor) -> Any:
    """A condition over a latent: its cut, weight, arguments, area, control, patches, uuid and hooks; or None."""
    return conditions.make_call(0, conds, x_in, timestep_in)


def cond_equal_size(c1: Mapping[str, Any] | None, c2: Mapping[str, Any] | None) -> bool:
    """Whether the arguments of two conditions fit in one batch."""
    if c1 is c2:
        return True
    if c1 is None or c2 is None or c1.keys() != c2.keys():
        return False
    return all(value.can_concat(c2[name]) for name, value in c1.items())


def can_concat_cond(c1: Any, c2: Any) -> bool:
    """Whether two conditions of `get_area_and_mult` fit in one batch."""
    return bool(c1.joins(c2))


def cond_cat(c_list: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of several conditions as those of one batch."""
    names = dict.fromkeys(name for values in c_list for name in values)
    found = {}
    for name in names:
        first, *others = [values[name] for values in c_list if name in values]
        found[name] = first.concat(others)
    return found


def finalize_default_conds(*_: Any, **__: Any) -> None:
    """Nothing: default conditions get what the others leave when each branch is laid out."""


# -- conditions -------------------------------------------------------------------------------------------------------


def get_mask_aabb(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Bounding boxes (x0, y0, x1, y1) of masks (B, H, W), and which of them are empty."""
    boxes = torch.zeros((masks.shape[0], 4), dtype=torch.int)
    empty = torch.zeros((masks.shape[0]), dtype=torch.bool)
    for number, mask in enumerate(masks):
        rows, columns = mask.nonzero(as_tuple=True)
        if not len(rows):
            empty[number] = True
            continue
        ends = [columns.min(), rows.min(), columns.max(), rows.max()]
        boxes[number] = torch.tensor([int(end) for end in ends], dtype=torch.int)
    return boxes, empty


class _Placed:
    """What preparing asks of a model where there is only a device."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        from limner.compat.homes._services import memory  # noqa: PLC0415 - one use

        return memory().place(tensor, torch.device(self.device))


def resolve_areas_and_cond_masks_multidim(conditions: list[Any], dims: Sequence[int], device: Any) -> None:
    """Areas in cells and masks at this size, in place."""
    for number, condition in enumerate(conditions):
        conditions[number] = prepare.resolve_area(_Placed(device), condition, tuple(dims))  # type: ignore[arg-type]


def resolve_areas_and_cond_masks(conditions: list[Any], h: int, w: int, device: Any) -> None:
    """The same for pictures."""
    resolve_areas_and_cond_masks_multidim(conditions, [h, w], device)


def create_cond_with_same_area_if_none(conds: list[Any], c: dict[str, Any]) -> None:
    """Give a branch a condition over the area of one of another branch."""
    prepare.add_same_area(conds, c)


def calculate_start_end_timesteps(model: Any, conds: list[dict[str, Any]]) -> None:
    """Percentages to sigmas, in place."""
    for condition in conds:
        prepare.resolve_range(model, condition)


def pre_run_control(model: Any, conds: list[dict[str, Any]]) -> None:
    """Tell the controls of conditions that a run begins."""
    sampling = as_sampling(getattr(model, "model_sampling", None) or model.sampling)
    for condition in conds:
        if condition.get("control") is not None:
            condition["control"].pre_run(model, sampling.percent_to_sigma)


def apply_empty_x_to_equal_area(
    conds: list[Any], uncond: list[Any], name: str, uncond_fill_func: Callable[[list[Any], int], Any]
) -> None:
    """Copy the values under a name from whole-picture conditions to those of another branch."""
    prepare.copy_to(conds, uncond, name, uncond_fill_func)


def encode_model_conds(
    model_function: Callable[..., Mapping[str, Any]],
    conds: list[dict[str, Any]],
    noise: Tensor,
    device: Any,
    prompt_type: str,
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """Ask a model for its arguments of each condition. Returns the conditions with them."""

    class Asked(_Placed):
        def extra_conds(self, **values: Any) -> Mapping[str, Any]:
            return model_function(**values)

    found = []
    for condition in conds:
        changed = {**condition, "model_conds": dict(condition.get("model_conds", {}))}
        prepare.encode(Asked(device), changed, noise, prompt_type, kwargs)  # type: ignore[arg-type]
        found.append(changed)
    return found


def process_conds(
    model: Any,
    noise: Tensor,
    conds: dict[str, list[Any]],
    device: Any,
    latent_image: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    seed: int | None = None,
    latent_shapes: Any = None,
) -> dict[str, list[Any]]:
    """Conditions for a latent shaped like `noise`."""
    del device, latent_shapes
    return prepare.process_conditions(model, noise, conds, latent_image, denoise_mask, seed)


def preprocess_conds_hooks(conds: dict[str, list[Any]]) -> None:
    """Nothing: hooks of conditions are read where they are."""
    del conds


def filter_registered_hooks_on_conds(conds: dict[str, list[Any]], model_options: Mapping[str, Any]) -> None:
    """Nothing: hooks that are not registered change nothing."""
    del conds, model_options


def get_total_hook_groups_in_conds(conds: dict[str, list[Any]]) -> int:
    """How many distinct groups of hooks there are."""
    return len(preparing.hook_groups(conds))


def cast_to_load_options(model_options: dict[str, Any], device: Any = None, dtype: Any = None) -> None:
    """Nothing: hooks bring their own tensors where they are wanted."""
    del model_options, device, dtype


# -- schedules --------------------------------------------------------------------------------------------------------


def _tensor(sigmas: Sequence[float]) -> Tensor:
    return torch.tensor(sigmas, dtype=torch.float32)


def simple_scheduler(model_sampling: Any, steps: int) -> Tensor:
    """Evenly from the table."""
    return _tensor(schedulers.simple(as_sampling(model_sampling), steps))


def ddim_scheduler(model_sampling: Any, steps: int) -> Tensor:
    """Every s-th level from the second on."""
    return _tensor(schedulers.ddim_uniform(as_sampling(model_sampling), steps))


def normal_scheduler(model_sampling: Any, steps: int, sgm: bool = False, floor: bool = False) -> Tensor:
    """Even network times; sgm: without the last."""
    del floor
    formula = schedulers.sgm_uniform if sgm else schedulers.normal
    return _tensor(formula(as_sampling(model_sampling), steps))


def beta_scheduler(model_sampling: Any, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """At the quantiles of a beta distribution."""
    return _tensor(schedulers.beta(as_sampling(model_sampling), steps, alpha, beta))


def linear_quadratic_schedule(
    model_sampling: Any, steps: int, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> Tensor:
    """Linear, then quadratic."""
    del linear_steps
    return _tensor(schedulers.linear_quadratic(as_sampling(model_sampling), steps, threshold_noise))


def kl_optimal_scheduler(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Even in atan sigma."""
    return _tensor(schedulers.kl_optimal_sigmas(float(sigma_min), float(sigma_max), n))
