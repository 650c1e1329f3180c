"""comfy.ldm.modules.diffusionmodules.util: schedules of betas, embeddings of times, and small helpers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as _checkpoint

from limner.models.unet import timestep_embedding as _sines


def make_beta_schedule(
    schedule: str, n_timestep: int, linear_start: float = 1e-4, linear_end: float = 2e-2, cosine_s: float = 8e-3
) -> Tensor:
    """The betas of a discrete diffusion, float64. Raises ValueError for an unknown schedule."""
    if schedule == "linear":
        return torch.linspace(linear_start**0.5, linear_end**0.5, n_timestep, dtype=torch.float64) ** 2
    if schedule == "sqrt_linear":
        return torch.linspace(linear_start, linear_end, n_timestep, dtype=torch.float64)
    if schedule == "sqrt":
        return torch.linspace(linear_start, linear_end, n_timestep, dtype=torch.float64) ** 0.5
    if schedule in ("cosine", "squaredcos_cap_v2"):
        steps = torch.arange(n_timestep + 1, dtype=torch.float64) / n_timestep + cosine_s
        alphas = torch.cos(steps / (1 + cosine_s) * torch.pi / 2) ** 2
        return (1 - alphas[1:] / alphas[:-1]).clamp(0, 0.999)
    raise ValueError(f"schedule '{schedule}' unknown.")


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> Any:
    """The betas whose cumulative product is a function of time."""
    count = num_diffusion_timesteps
    found = [min(1 - alpha_bar((i + 1) / count) / alpha_bar(i / count), max_beta) for i in range(count)]
    return np.array(found)


def make_ddim_timesteps(
    ddim_discr_method: str, num_ddim_timesteps: int, num_ddpm_timesteps: int, verbose: bool = True
) -> Any:
    """The times of a DDIM run. Raises NotImplementedError for an unknown method."""
    del verbose
    if ddim_discr_method == "uniform":
        return np.asarray(list(range(0, num_ddpm_timesteps, num_ddpm_timesteps // num_ddim_timesteps))) + 1
    if ddim_discr_method == "quad":
        return (np.linspace(0, np.sqrt(num_ddpm_timesteps * 0.8), num_ddim_timesteps) ** 2).astype(int) + 1
    raise NotImplementedError(f'There is no ddim discretization method called "{ddim_discr_method}"')


def make_ddim_sampling_parameters(alphacums: Any, ddim_timesteps: Any, eta: float, verbose: bool = True) -> Any:
    """(sigmas, alphas, alphas before) of a DDIM run."""
    del verbose
    alphas = alphacums[ddim_timesteps]
    before = np.asarray([alphacums[0], *np.asarray(alphacums)[np.asarray(ddim_timesteps)[:-1]].tolist()])
    sigmas = eta * np.sqrt((1 - before) / (1 - alphas) * (1 - alphas / before))
    return sigmas, alphas, before


def extract_into_tensor(a: Tensor, t: Tensor, x_shape: Sequence[int]) -> Tensor:
    """The entries of a table at times, shaped to multiply (B, …)."""
    return a.gather(-1, t).reshape(t.shape[0], *([1] * (len(x_shape) - 1)))


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000, repeat_only: bool = False) -> Tensor:
    """Cosines, then sines, of times; repeat_only: the times themselves."""
    return timesteps[:, None].expand(-1, dim) if repeat_only else _sines(timesteps, dim, max_period)


def checkpoint(func: Callable[..., Any], inputs: Sequence[Any], params: Any, flag: bool) -> Any:
    """A function, its activations made again in the backward pass where the flag is set."""
    del params
    return _checkpoint(func, *inputs, use_reentrant=False) if flag else func(*inputs)


def zero_module(module: nn.Module) -> nn.Module:
    """A module with all parameters zero."""
    for parameter in module.parameters():
        parameter.detach().zero_()
    return module


def scale_module(module: nn.Module, scale: float) -> nn.Module:
    """A module with all parameters multiplied."""
    for parameter in module.parameters():
        parameter.detach().mul_(scale)
    return module


def mean_flat(tensor: Tensor) -> Tensor:
    """The mean over all axes but the first."""
    return tensor.mean(dim=list(range(1, tensor.ndim)))


def avg_pool_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """An average pooling over 1, 2 or 3 axes. Raises ValueError for others."""
    kinds = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
    if dims not in kinds:
        raise ValueError(f"unsupported dimensions: {dims}")
    made: nn.Module = kinds[dims](*args, **kwargs)
    return made


def noise_like(shape: Sequence[int], device: Any, repeat: bool = False) -> Tensor:
    """Noise of a shape; repeat: the same for all rows."""
    if repeat:
        return torch.randn((1, *shape[1:]), device=device).repeat(shape[0], *((1,) * (len(shape) - 1)))
    return torch.randn(tuple(shape), device=device)


class AlphaBlender(nn.Module):
    """A learned mix of pictures one by one and over time."""

    mix_factor: Tensor

    def __init__(
        self,
        alpha: float,
        merge_strategy: str = "learned_with_images",
        rearrange_pattern: str = "b t -> (b t) 1 1",
    ) -> None:
        super().__init__()
        self.merge_strategy, self.rearrange_pattern = merge_strategy, rearrange_pattern
        if merge_strategy == "fixed":
            self.register_buffer("mix_factor", torch.Tensor([alpha]))
        else:
            self.register_parameter("mix_factor", nn.Parameter(torch.Tensor([alpha])))

    def get_alpha(self, image_only_indicator: Tensor, device: Any) -> Tensor:
        """How much the first counts."""
        factor: Tensor = self.mix_factor.type_as(image_only_indicator.float())
        if self.merge_strategy == "fixed":
            return factor
        mixed = factor.sigmoid()
        if self.merge_strategy == "learned_with_images":
            mixed = torch.where(image_only_indicator.bool(), mixed.new_ones(()), mixed)
        del device
        return mixed.reshape(-1, 1, 1)

    def forward(self, x_spatial: Tensor, x_temporal: Tensor, image_only_indicator: Any = None) -> Tensor:
        """Both mixed."""
        alpha = self.get_alpha(image_only_indicator, x_spatial.device).type_as(x_spatial)
        return alpha * x_spatial + (1 - alpha) * x_temporal
