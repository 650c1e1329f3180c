"""The words of a sampler: what it is given, what it yields."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from limner.sampling.model_sampling import ModelSampling

Noise = Callable[[float, float], Tensor]
"""`noise(sigma, after)`: unit normal noise, shaped like the latent, for the step from sigma to after."""


@dataclass(frozen=True)
class Step:
    """One step under way: `x` as it enters the step at noise level `sigma`, and the picture predicted from it.

    sigma_hat is the level the prediction was made at when a sampler adds noise first (churn).
    """

    x: Tensor
    sigma: float
    denoised: Tensor
    sigma_hat: float | None = None


Steps = Generator[Step, None, Tensor]
"""What a sampler is: a generator of its steps whose return value is the final x."""


class Denoise(Protocol):
    """The model as a sampler sees it: guidance, batching, masks and hooks are behind this call."""

    @property
    def sampling(self) -> ModelSampling:
        """Noise levels and prediction kind of the model."""
        ...

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The clean picture predicted from `x` at noise level `sigma`."""
        ...

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The same, and the prediction for the negative conditioning alone (CFG++)."""
        ...
