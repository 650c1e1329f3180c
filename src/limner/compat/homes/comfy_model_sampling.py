"""comfy.model_sampling: noise levels and prediction kinds as classes that packs combine and put into models."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from limner.compat.homes.stands_for import StandsFor
from limner.sampling import prediction as kinds
from limner.sampling import time as times
from limner.sampling.model_sampling import ModelSampling
from limner.sampling.time import beta_sigmas, zero_terminal_snr


def rescale_zero_terminal_snr_sigmas(sigmas: Tensor) -> Tensor:
    """Levels rescaled so that the last is all but pure noise."""
    return zero_terminal_snr(sigmas)


def reshape_sigma(sigma: Tensor, noise_dim: int) -> Tensor:
    """A level a row, shaped to multiply a latent."""
    if sigma.nelement() == 1:
        return sigma.view(())
    return sigma.view(sigma.shape[:1] + (1,) * (noise_dim - 1))


def _predicts(*classes: type) -> Any:
    return staticmethod(lambda found: isinstance(found, ModelSampling) and type(found.prediction) in classes)


def _over(*classes: type) -> Any:
    return staticmethod(lambda found: isinstance(found, ModelSampling) and isinstance(found.time, classes))


class EPS(metaclass=StandsFor):
    """The network predicts the noise; x = clean + sigma · noise."""

    is_flow = False
    sigma_data = 1.0
    recognises = _predicts(kinds.EPS, kinds.V, kinds.EDM, kinds.X0, kinds.IMG2IMG, kinds.LCM)

    def _kind(self) -> kinds.Prediction:
        return kinds.EPS(float(self.sigma_data))

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """What the network is shown."""
        return self._kind().model_input(reshape_sigma(sigma, noise.ndim), noise)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean picture from the network's output."""
        return self._kind().denoised(reshape_sigma(sigma, model_output.ndim), model_output, model_input)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """x at a level."""
        return self._kind().add_noise(reshape_sigma(sigma, noise.ndim), noise, latent_image, max_denoise)

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """What is handed on when sampling ends at a level."""
        return self._kind().finish(reshape_sigma(sigma, latent.ndim), latent)


class V_PREDICTION(EPS):  # noqa: N801 - ComfyUI's name
    """The network predicts the velocity."""

    recognises = _predicts(kinds.V)

    def _kind(self) -> kinds.Prediction:
        return kinds.V(float(self.sigma_data))


class EDM(V_PREDICTION):
    """The velocity with the other sign."""

    recognises = _predicts(kinds.EDM)

    def _kind(self) -> kinds.Prediction:
        return kinds.EDM(float(self.sigma_data))


class X0(EPS):
    """The network predicts the clean picture."""

    recognises = _predicts(kinds.X0, kinds.IMG2IMG)

    def _kind(self) -> kinds.Prediction:
        return kinds.X0(float(self.sigma_data))


class IMG_TO_IMG(X0):  # noqa: N801
    """The network maps a picture to a picture."""

    recognises = _predicts(kinds.IMG2IMG)

    def _kind(self) -> kinds.Prediction:
        return kinds.IMG2IMG(float(self.sigma_data))


class CONST(EPS):
    """x = (1 - sigma) · clean + sigma · noise; the network predicts noise - clean."""

    is_flow = True
    recognises = _predicts(kinds.Flow)

    def _kind(self) -> kinds.Prediction:
        return kinds.Flow()


class COSMOS_RFLOW(EPS):  # noqa: N801
    """A flow told in the levels of x = clean + sigma · noise."""

    recognises = _predicts(kinds.CosmosRF)

    def _kind(self) -> kinds.Prediction:
        return kinds.CosmosRF(float(self.sigma_data))


class _Levels(nn.Module):
    """Noise levels from a table of `limner.sampling`."""

    sigmas: Tensor
    time: times.Time

    def _take(self, time: times.Time) -> None:
        self.time = time
        self.register_buffer("sigmas", time.sigmas.float())
        self.register_buffer("log_sigmas", time.sigmas.float().log())

    @property
    def sigma_min(self) -> Tensor:
        """The smallest level."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The largest level."""
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """The time fed to the network for these levels."""
        return self.time.timestep(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The level of these times."""
        return self.time.sigma(timestep)

    def percent_to_sigma(self, percent: float) -> float:
        """The level at a fraction of the way."""
        return self.time.percent_to_sigma(percent)


def _settings(model_config: Any) -> dict[str, Any]:
    return dict(getattr(model_config, "sampling_settings", None) or {})


class ModelSamplingDiscrete(_Levels, metaclass=StandsFor):
    """A table of levels from a schedule of betas."""

    recognises = _over(times.DiscreteTime)

    def __init__(self, model_config: Any = None, zsnr: bool | None = None) -> None:
        super().__init__()
        said = _settings(model_config)
        self.zsnr = bool(said.get("zsnr", False) if zsnr is None else zsnr)
        self._register_schedule(
            beta_schedule=said.get("beta_schedule", "linear"),
            timesteps=int(said.get("timesteps", 1000)),
            linear_start=float(said.get("linear_start", 0.00085)),
            linear_end=float(said.get("linear_end", 0.012)),
        )
        self.sigma_data = 1.0

    def _register_schedule(
        self,
        given_betas: Any = None,
        beta_schedule: str = "linear",
        timesteps: int = 1000,
        linear_start: float = 0.00085,
        linear_end: float = 0.012,
        cosine_s: float = 8e-3,
    ) -> None:
        del cosine_s
        if given_betas is None:
            table = beta_sigmas(beta_schedule, linear_start, linear_end, timesteps)
        else:
            alphas = (1 - torch.as_tensor(given_betas, dtype=torch.float64)).cumprod(0)
            table = ((1 - alphas) / alphas).sqrt().float()
        self.num_timesteps, self.linear_start, self.linear_end = len(table), linear_start, linear_end
        self.set_sigmas(zero_terminal_snr(table) if self.zsnr else table)

    def set_sigmas(self, sigmas: Tensor) -> None:
        """Use this table."""
        self._take(times.DiscreteTime(sigmas.float()))


class ModelSamplingDiscreteEDM(ModelSamplingDiscrete):
    """The same table with continuous times."""

    recognises = None

    def timestep(self, sigma: Tensor) -> Tensor:
        """ln(sigma) / 4."""
        return 0.25 * sigma.log()

    def sigma(self, timestep: Tensor) -> Tensor:
        """exp(4 t)."""
        return (timestep / 0.25).exp()


class ModelSamplingContinuousEDM(_Levels, metaclass=StandsFor):
    """Log-spaced levels."""

    recognises = _over(times.EDMTime)
    time_class: type[times.EDMTime] = times.EDMTime

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        said = _settings(model_config)
        self.set_parameters(
            said.get("sigma_min", 0.002), said.get("sigma_max", 120.0), float(said.get("sigma_data", 1.0))
        )

    def set_parameters(self, sigma_min: float, sigma_max: float, sigma_data: float) -> None:
        """Levels between two ends."""
        self.sigma_data = sigma_data
        self._take(self.time_class(float(sigma_min), float(sigma_max)))


class ModelSamplingContinuousV(ModelSamplingContinuousEDM):
    """The same with times atan(sigma) · 2/π."""

    recognises = _over(times.ContinuousV)
    time_class = times.ContinuousV


class ModelSamplingCosmosRFlow(ModelSamplingContinuousEDM):
    """The same with times σ/(σ+1)."""

    recognises = _over(times.CosmosTime)
    time_class = times.CosmosTime


def time_snr_shift(alpha: float, t: Any) -> Any:
    """A flow's time shifted towards noise: α t / (1 + (α - 1) t)."""
    return t if alpha == 1.0 else alpha * t / (1 + (alpha - 1) * t)


def flux_time_shift(mu: float, sigma: float, t: Any) -> Any:
    """Flux's time shifted towards noise."""
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1) ** sigma)


class ModelSamplingDiscreteFlow(_Levels, metaclass=StandsFor):
    """A flow's levels, shifted."""

    recognises = _over(times.FlowTime)

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        said = _settings(model_config)
        self.set_parameters(shift=said.get("shift", 1.0), multiplier=said.get("multiplier", 1000))

    def set_parameters(self, shift: float = 1.0, timesteps: int = 1000, multiplier: float = 1000) -> None:
        """shift: towards noise. multiplier: of the time that the network is told."""
        del timesteps
        self.shift, self.multiplier = shift, multiplier
        self._take(times.FlowTime(shift=float(shift), multiplier=float(multiplier)))


class ModelSamplingFlux(_Levels, metaclass=StandsFor):
    """Flux's levels, shifted."""

    recognises = _over(times.FluxTime)

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        self.set_parameters(shift=_settings(model_config).get("shift", 1.15))

    def set_parameters(self, shift: float = 1.15, timesteps: int = 10000) -> None:
        """shift: towards noise."""
        del timesteps
        self.shift = shift
        self._take(times.FluxTime(shift=float(shift)))


class StableCascadeSampling(_Levels, metaclass=StandsFor):
    """Stable Cascade's levels."""

    recognises = _over(times.CascadeTime)

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        self.sigma_data = 1.0
        self.set_parameters(_settings(model_config).get("shift", 1.0))

    def set_parameters(self, shift: float = 1.0, cosine_s: float = 8e-3) -> None:
        """shift: of ln SNR."""
        self.shift = shift
        self._take(times.CascadeTime(shift=float(shift), cosine_s=cosine_s))
