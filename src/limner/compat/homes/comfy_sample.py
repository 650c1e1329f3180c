"""comfy.sample: what is not found in `limner.sampling.entry`: older names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limner.compat.homes.comfy_sampler_helpers import cleanup_additional_models, convert_cond, get_additional_models
from limner.compat.homes.comfy_sampler_helpers import prepare_mask as _prepare_mask
from limner.sampling.preparing import inner

__all__ = ["cleanup_additional_models", "convert_cond", "get_additional_models", "np", "torch"]


def prepare_mask(noise_mask: Tensor, shape: Sequence[int], device: Any) -> Tensor:
    """A noise mask of any size as one shaped like a latent, on a device."""
    return _prepare_mask(noise_mask, shape, device)


def prepare_sampling(model: Any, noise_shape: Sequence[int], positive: Any, negative: Any, noise_mask: Any) -> Any:
    """(model, positive, negative, mask, other models): the older form, in which nothing is loaded yet."""
    del noise_shape
    return inner(model), positive, negative, noise_mask, []
