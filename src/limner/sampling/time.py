"""Time parts of a model's sampling: a table of noise levels and the time a network is told for each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

PURE_NOISE = 999999999.9
"""The sigma of percent 0 for models whose x is clean + sigma * noise: above every table."""


def beta_sigmas(schedule: str, start: float, end: float, timesteps: int) -> Tensor:
    """The noise levels of a discrete diffusion: betas spaced evenly ("sqrt_linear") or their roots ("linear")."""
    if schedule == "linear":
        betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(start, end, timesteps, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0)
    return ((1 - alphas) / alphas).sqrt().float()


def zero_terminal_snr(sigmas: Tensor) -> Tensor:
    """Rescale so that the last level is (all but) pure noise and the first is kept.  Lin et al. 2023, Algorithm 1."""
    roots = (1 / (sigmas.double() ** 2 + 1)).sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    alphas = roots**2
    alphas[-1] = 4.8973451890853435e-08  # the smallest that keeps float16 networks finite
    return ((1 - alphas) / alphas).sqrt().float()


class Time(ABC):
    """A table of noise levels, and the maps between level, network time and progress in percent."""

    sigmas: Tensor

    @abstractmethod
    def timestep(self, sigma: Tensor) -> Tensor:
        """Network time of noise levels."""

    @abstractmethod
    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise levels of network times."""

    @abstractmethod
    def between(self, percent: float) -> float:
        """Noise level for 0 < percent < 1."""

    start: float = PURE_NOISE

    def percent_to_sigma(self, percent: float) -> float:
        """Noise level at this fraction of the way; the ends lie outside the table so that nothing is cut off."""
        if percent <= 0:
            return self.start
        return 0.0 if percent >= 1 else self.between(percent)


class DiscreteTime(Time):
    """Integer times 0 … len-1, nearest in ln sigma; levels between them are log-linear."""

    def __init__(self, sigmas: Tensor) -> None:
        self.sigmas = sigmas
        self.log_sigmas = sigmas.log()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Index of the nearest level."""
        table = torch.as_tensor(self.log_sigmas, device=sigma.device)
        return (sigma.log() - table.view(-1, *[1] * sigma.ndim)).abs().argmin(0)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Log-linear interpolation of the table."""
        table = torch.as_tensor(self.log_sigmas, device=timestep.device)
        position = timestep.float().clamp(0, len(table) - 1)
        low, high, part = position.floor().long(), position.ceil().long(), position.frac()
        return ((1 - part) * table[low] + part * table[high]).exp()

    def between(self, percent: float) -> float:
        """The table read from its noisy end."""
        return float(self.sigma(torch.tensor((1 - percent) * 999.0)))


class DistilledTime(DiscreteTime):
    """A consistency-distilled model's 50 of 1000 times.  Luo et al. 2023."""

    def __init__(self, sigmas: Tensor, kept: int = 50) -> None:
        self.stride = len(sigmas) // kept
        super().__init__(sigmas[self.stride - 1 :: self.stride])

    def timestep(self, sigma: Tensor) -> Tensor:
        """Time on the original scale."""
        return super().timestep(sigma) * self.stride + (self.stride - 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Level of a time on the original scale."""
        return super().sigma((timestep.float() - (self.stride - 1)) / self.stride)


class EDMTime(Time):
    """Continuous log-spaced levels, time ln(sigma)/4.  Karras et al. 2022."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 120.0) -> None:
        self.sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000).exp()

    def timestep(self, sigma: Tensor) -> Tensor:
        """ln(sigma) / 4."""
        return 0.25 * sigma.log()

    def sigma(self, timestep: Tensor) -> Tensor:
        """exp(4 t)."""
        return (timestep / 0.25).exp()

    def between(self, percent: float) -> float:
        """Log-linear between the ends."""
        low, high = math.log(self.sigmas[0]), math.log(self.sigmas[-1])
        return math.exp((high - low) * (1 - percent) + low)


class ContinuousV(EDMTime):
    """Log-spaced levels, time the angle of the signal: atan(sigma) · 2/π."""

    def __init__(self, sigma_min: float = 0.03, sigma_max: float = 500.0) -> None:
        super().__init__(sigma_min, sigma_max)

    def timestep(self, sigma: Tensor) -> Tensor:
        """atan(sigma) · 2/π."""
        return sigma.atan() / (math.pi * 0.5)

    def sigma(self, timestep: Tensor) -> Tensor:
        """tan(t · π/2)."""
        return (timestep * (math.pi * 0.5)).tan()


class CosmosTime(EDMTime):
    """Log-spaced levels told as a flow's time: sigma / (sigma + 1)."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        super().__init__(sigma_min, sigma_max)

    def timestep(self, sigma: Tensor) -> Tensor:
        """sigma / (sigma + 1)."""
        return sigma / (sigma + 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """t / (1 - t), never above the largest level."""
        largest = self.sigmas[-1]
        beyond = timestep >= largest / (largest + 1)
        return torch.where(beyond, largest, timestep / (1 - timestep).clamp(min=1e-12))


class FlowTime(Time):
    """Rectified-flow levels 1/1000 … 1, moved towards noise by `shift`.  Esser et al. 2024, eq. 23."""

    start = 1.0

    def __init__(self, shift: float = 1.0, multiplier: float = 1000.0, timesteps: int = 1000) -> None:
        self.shift, self.multiplier = shift, multiplier
        self.sigmas = self.sigma((torch.arange(1, timesteps + 1) / timesteps) * multiplier)

    def timestep(self, sigma: Tensor) -> Tensor:
        """sigma · multiplier, without undoing the shift."""
        return sigma * self.multiplier

    def sigma(self, timestep: Tensor) -> Tensor:
        """The shifted level."""
        time = timestep / self.multiplier
        return self.shift * time / (1 + (self.shift - 1) * time)

    def between(self, percent: float) -> float:
        """The shifted level of 1 - percent."""
        return self.shift * (1 - percent) / (1 + (self.shift - 1) * (1 - percent))


class FluxTime(Time):
    """Flow levels 1/10000 … 1 with an exponential shift: e^μ / (e^μ + 1/t - 1)."""

    start = 1.0

    def __init__(self, shift: float = 1.15, timesteps: int = 10000) -> None:
        self.shift = shift
        self.sigmas = self.sigma(torch.arange(1, timesteps + 1) / timesteps)

    def timestep(self, sigma: Tensor) -> Tensor:
        """sigma itself."""
        return sigma

    def sigma(self, timestep: Tensor) -> Tensor:
        """The shifted level."""
        return math.exp(self.shift) / (math.exp(self.shift) + (1 / timestep - 1))

    def between(self, percent: float) -> float:
        """The shifted level of 1 - percent."""
        return math.exp(self.shift) / (math.exp(self.shift) + (1 / (1 - percent) - 1))


class CascadeTime(Time):
    """Cosine levels with a shift in log-SNR.  Pernias et al. 2023 (Würstchen); Nichol & Dhariwal 2021."""

    def __init__(self, shift: float = 1.0, cosine_s: float = 0.008, timesteps: int = 10000) -> None:
        self.shift, self.cosine_s = shift, cosine_s
        self.first = float(torch.tensor(cosine_s / (1 + cosine_s) * math.pi * 0.5).cos() ** 2)
        self.sigmas = self.sigma(torch.arange(1, timesteps + 1) / timesteps)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The unshifted cosine schedule's time."""
        alphas = (1 / (sigma**2 + 1)).clamp(0, 1)
        angle = (alphas * self.first).sqrt().acos()
        return angle / (math.pi * 0.5) * (1 + self.cosine_s) - self.cosine_s

    def sigma(self, timestep: Tensor) -> Tensor:
        """The shifted level."""
        angle = (timestep + self.cosine_s) / (1 + self.cosine_s) * math.pi * 0.5
        alphas = (angle.cos() ** 2 / self.first).clamp(0, 1)
        if self.shift != 1:
            alphas = ((alphas / (1 - alphas)).log() + 2 * math.log(1 / self.shift)).sigmoid()
        alphas = alphas.clamp(0.0001, 0.9999)
        return ((1 - alphas) / alphas).sqrt()

    def between(self, percent: float) -> float:
        """The level of time 1 - percent."""
        return float(self.sigma(torch.tensor(1 - percent)))
