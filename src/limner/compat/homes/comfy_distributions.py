"""comfy.ldm.modules.distributions: the normal distribution that an autoencoder says of a latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class DiagonalGaussianDistribution:
    """parameters: (B, 2 C, …), the means, then the logarithms of the variances."""

    def __init__(self, parameters: Tensor, deterministic: bool = False) -> None:
        self.parameters = parameters
        self.mean, logvar = torch.chunk(parameters, 2, dim=1)
        self.logvar = torch.clamp(logvar, -30.0, 20.0)
        self.deterministic = deterministic
        self.std = torch.zeros_like(self.mean) if deterministic else torch.exp(0.5 * self.logvar)
        self.var = torch.zeros_like(self.mean) if deterministic else torch.exp(self.logvar)

    def sample(self) -> Tensor:
        """One latent."""
        return self.mean + self.std * torch.randn_like(self.mean)

    def mode(self) -> Tensor:
        """The likeliest latent."""
        return self.mean

    def kl(self, other: Any = None) -> Tensor:
        """The divergence from the normal distribution, or from another."""
        if self.deterministic:
            return torch.zeros(1)
        if other is None:
            found: Tensor = 0.5 * (self.mean**2 + self.var - 1.0 - self.logvar).sum(dim=[1, 2, 3])
            return found
        difference = (self.mean - other.mean) ** 2 / other.var
        total = difference + self.var / other.var - 1.0 - self.logvar + other.logvar
        apart: Tensor = 0.5 * total.sum(dim=[1, 2, 3])
        return apart
