"""Prediction parts of a model's sampling: what a network's output says about the clean picture."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from limner.sampling.time import DistilledTime


@dataclass(frozen=True)
class Prediction:
    """x = clean + sigma · noise; the network is shown x scaled to unit variance. `sigma_data` is the data's std."""

    sigma_data: float = 1.0

    def model_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        """What the network is shown."""
        return x / (sigma**2 + self.sigma_data**2) ** 0.5

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        """The clean picture from the network's output."""
        raise NotImplementedError

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        """x at this level. From pure noise the unit variance of the data is counted in."""
        return noise * ((1 + sigma**2) ** 0.5 if max_denoise else sigma) + latent

    def finish(self, sigma: Tensor, latent: Tensor) -> Tensor:  # noqa: ARG002 - a flow needs it
        """What is handed on when sampling ends at this level."""
        return latent


@dataclass(frozen=True)
class EPS(Prediction):
    """The network predicts the noise."""

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        """X - sigma · output."""
        return x - output * sigma


@dataclass(frozen=True)
class V(Prediction):
    """The network predicts the velocity.  Salimans & Ho 2022."""

    sign: float = -1.0

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        """X · s²/(σ²+s²) ∓ output · σ s/√(σ²+s²)."""
        total = sigma**2 + self.sigma_data**2
        return x * (self.sigma_data**2 / total) + output * (self.sign * sigma * self.sigma_data / total**0.5)


@dataclass(frozen=True)
class EDM(V):
    """Preconditioned prediction: the velocity with the other sign.  Karras et al. 2022."""

    sigma_data: float = 0.5
    sign: float = 1.0


@dataclass(frozen=True)
class X0(Prediction):
    """The network predicts the clean picture."""

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """The output itself."""
        return output


@dataclass(frozen=True)
class IMG2IMG(X0):
    """The network maps a picture to a picture, unscaled."""

    def model_input(self, sigma: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """X itself."""
        return x


@dataclass(frozen=True)
class LCM(Prediction):
    """Noise prediction with a consistency model's boundary condition.  Luo et al. 2023, eq. 9."""

    time: DistilledTime = field(kw_only=True)

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        """c_out(t) · (x - sigma · output) + c_skip(t) · x with times scaled by ten and data std one half."""
        scaled = self.time.timestep(sigma) * 10.0
        total = scaled**2 + 0.25
        return (x - output * sigma) * (scaled / total**0.5) + x * (0.25 / total)


@dataclass(frozen=True)
class Flow(Prediction):
    """x = (1 - sigma) · clean + sigma · noise; the network predicts noise - clean.  Liu et al. 2022."""

    def model_input(self, sigma: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """X itself."""
        return x

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        """X - sigma · output."""
        return x - output * sigma

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:  # noqa: ARG002
        """Sigma · noise + (1 - sigma) · latent."""
        return sigma * noise + (1 - sigma) * latent

    def finish(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Scale the clean part back to one."""
        return latent / (1 - sigma)


@dataclass(frozen=True)
class CosmosRF(Prediction):
    """A flow told in the levels of x = clean + sigma · noise."""

    def model_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        """X brought to the flow's scale."""
        return x * (1 - sigma / (sigma + 1))

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        """The flow's clean picture."""
        level = sigma / (sigma + 1)
        return x * (1 - level) - output * level

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:  # noqa: ARG002
        """Noise · sigma + latent."""
        return noise * sigma + latent
