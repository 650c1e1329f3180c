"""comfy.ldm.modules: noise on what a model is shown beside the latent, for upscalers and unCLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.models.adm import signal_of_betas, signal_of_cosine
from limner.models.unet import timestep_embedding

DEFAULT = {"beta_schedule": "linear", "linear_start": 1e-4, "linear_end": 2e-2}


class AbstractLowScaleModel(nn.Module):
    """A schedule of a thousand noise levels. noise_schedule_config: `beta_schedule`, `linear_start`, `linear_end`."""

    def __init__(self, noise_schedule_config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        said = {**DEFAULT, **(noise_schedule_config or {})}
        self.signal = signal_of_cosine() if said["beta_schedule"] == "squaredcos_cap_v2" else signal_of_betas(said)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None, seed: int | None = None) -> Tensor:
        """x_start (B, …) noised to levels t, (B,) or (1,); by the noise given, or that of the seed."""
        levels = t.reshape(-1).expand(len(x_start))
        if noise is None and seed is not None:
            noise = torch.randn(x_start.shape, generator=torch.Generator().manual_seed(seed)).to(x_start)
        noise = torch.randn_like(x_start) if noise is None else noise
        share = self.signal[levels.cpu()].to(x_start).view(-1, *[1] * (x_start.ndim - 1))
        return share.sqrt() * x_start + (1 - share).sqrt() * noise

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """x as it is, and no level."""
        return x, None

    def decode(self, x: Tensor) -> Tensor:
        """x as it is."""
        return x


class ImageConcatWithNoiseAugmentation(AbstractLowScaleModel):
    """Pictures noised to a level below `max_noise_level`."""

    def __init__(
        self, noise_schedule_config: Mapping[str, Any] | None, max_noise_level: int = 1000, to_cuda: bool = False
    ) -> None:
        super().__init__(noise_schedule_config)
        self.max_noise_level = max_noise_level
        del to_cuda

    def forward(self, x: Tensor, noise_level: Tensor | None = None, seed: int | None = None) -> tuple[Tensor, Any]:
        """(x noised, the levels); each row's level at random where none is given."""
        if noise_level is None:
            noise_level = torch.randint(0, self.max_noise_level, (x.shape[0],), device=x.device)
        return self.q_sample(x, noise_level, seed=seed), noise_level


class CLIPEmbeddingNoiseAugmentation(ImageConcatWithNoiseAugmentation):
    """Vectors of pictures, noised. clip_stats_path: of no consequence. timestep_dim: width of the level as sines."""

    def __init__(self, *args: Any, clip_stats_path: Any = None, timestep_dim: int = 256, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del clip_stats_path
        self.timestep_dim = timestep_dim

    def forward(self, x: Tensor, noise_level: Tensor | None = None, seed: int | None = None) -> tuple[Tensor, Any]:
        """(x noised, its levels as sines (B, timestep_dim))."""
        found, level = super().forward(x, noise_level, seed)
        return found, timestep_embedding(level, self.timestep_dim)
