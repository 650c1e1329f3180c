"""Noise levels and what a network predicts: a time part times a prediction part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.sampling.prediction import EDM, EPS, IMG2IMG, LCM, X0, CosmosRF, Flow, Prediction, V
from limner.sampling.time import (
    CascadeTime,
    ContinuousV,
    CosmosTime,
    DiscreteTime,
    DistilledTime,
    EDMTime,
    FlowTime,
    FluxTime,
    Time,
    beta_sigmas,
    zero_terminal_snr,
)


@dataclass(frozen=True)
class ModelSampling:
    """How a model's time, noise levels and outputs hang together. Sigmas are float32 on the CPU, ascending."""

    time: Time
    prediction: Prediction

    @property
    def sigmas(self) -> Tensor:
        """The table of noise levels, ascending."""
        return self.time.sigmas

    @property
    def sigma_min(self) -> float:
        """The smallest noise level of the table."""
        return float(self.time.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The largest noise level of the table."""
        return float(self.time.sigmas[-1])

    @property
    def is_flow(self) -> bool:
        """Whether x is (1 - sigma) * clean + sigma * noise instead of clean + sigma * noise."""
        return isinstance(self.prediction, Flow)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The time fed to the network for these noise levels (any shape)."""
        return self.time.timestep(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level of these times. For flows it is not the inverse of `timestep`: it applies the shift."""
        return self.time.sigma(timestep)

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level at a fraction of the way from pure noise (0) to a clean picture (1)."""
        return self.time.percent_to_sigma(percent)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """What the network is shown: `noise` is x at noise level `sigma` (one value per batch row)."""
        return self.prediction.model_input(_per_row(sigma, noise), noise)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean picture, from the network's output and the x (not the scaled input) it belongs to."""
        return self.prediction.denoised(_per_row(sigma, model_output), model_output, model_input)

    def noise_scaling(
        self, sigma: float | Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """x at noise level `sigma`: the clean latent with noise added."""
        return self.prediction.add_noise(_per_row(sigma, noise), noise, latent_image, max_denoise)

    def inverse_noise_scaling(self, sigma: float | Tensor, latent: Tensor) -> Tensor:
        """What is handed on when sampling ends at `sigma`."""
        return self.prediction.finish(_per_row(sigma, latent), latent)

    def half_log_snr(self, sigma: float) -> float:
        """λ = ln(α/σ), where α is 1, or 1 - σ for a flow."""
        return math.log((1 - sigma) / sigma) if self.is_flow else -math.log(sigma)

    def sigma_between(self, sigma: float, after: float, part: float) -> float:
        """The level at a fraction of the way in λ; in float32, for Brownian noise changes with the last bit."""
        ends = torch.tensor([sigma, after])
        if self.is_flow:
            start, end = ends.logit().neg()
            return float(torch.lerp(start, end, part).neg().sigmoid())
        start, end = ends.log().neg()
        return float(torch.lerp(start, end, part).neg().exp())

    def alpha(self, sigma: float) -> float:
        """How much of the clean picture x holds at this noise level."""
        return 1 - sigma if self.is_flow else 1.0

    def finite_snr(self, sigmas: Sequence[float]) -> list[float]:
        """The schedule for samplers that work in λ: a flow's first sigma 1 (λ = -∞) moved down by 0.01 %."""
        if self.is_flow and len(sigmas) > 1 and sigmas[0] >= 1:
            return [float(torch.tensor(self.percent_to_sigma(1e-4))), *sigmas[1:]]
        return list(sigmas)

    def is_max_denoise(self, sigma: float) -> bool:
        """Whether a schedule that starts here starts from pure noise."""
        return sigma > self.sigma_max or math.isclose(sigma, self.sigma_max, rel_tol=1e-5)


class ForeignSampling(ModelSampling):
    """A pack's own object, with the methods that `model_sampling` has in ComfyUI, seen as a ModelSampling."""

    def __init__(self, found: Any) -> None:
        self.__dict__["found"] = found
        self.__dict__["time"] = found
        self.__dict__["prediction"] = found

    @property
    def sigmas(self) -> Tensor:
        """The table of noise levels, ascending."""
        table: Tensor = self.__dict__["found"].sigmas
        return table.detach().float().cpu()

    @property
    def sigma_min(self) -> float:
        """The smallest noise level."""
        return float(self.__dict__["found"].sigma_min)

    @property
    def sigma_max(self) -> float:
        """The largest noise level."""
        return float(self.__dict__["found"].sigma_max)

    @property
    def is_flow(self) -> bool:
        """Whether x is (1 - sigma) * clean + sigma * noise."""
        return bool(getattr(self.__dict__["found"], "is_flow", False))

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level at a fraction of the way."""
        return float(self.__dict__["found"].percent_to_sigma(percent))

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """What the network is shown."""
        shown: Tensor = self.__dict__["found"].calculate_input(sigma, noise)
        return shown

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean picture from the network's output."""
        clean: Tensor = self.__dict__["found"].calculate_denoised(sigma, model_output, model_input)
        return clean

    def noise_scaling(
        self, sigma: float | Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """x at noise level `sigma`."""
        level = sigma if isinstance(sigma, Tensor) else noise.new_tensor(sigma)
        x: Tensor = self.__dict__["found"].noise_scaling(level, noise, latent_image, max_denoise)
        return x

    def inverse_noise_scaling(self, sigma: float | Tensor, latent: Tensor) -> Tensor:
        """What is handed on when sampling ends at `sigma`."""
        level = sigma if isinstance(sigma, Tensor) else latent.new_tensor(sigma)
        done: Tensor = self.__dict__["found"].inverse_noise_scaling(level, latent)
        return done


def as_sampling(found: Any) -> ModelSampling:
    """A ModelSampling as it is, anything else that has its methods as one."""
    return found if isinstance(found, ModelSampling) else ForeignSampling(found)


def _per_row(sigma: float | Tensor, like: Tensor) -> Tensor:
    """sigma shaped to multiply (B, ...) row by row."""
    if not isinstance(sigma, Tensor):
        return torch.tensor(sigma, dtype=torch.float32, device=like.device)
    return sigma.view(-1, *[1] * (like.ndim - 1)) if sigma.ndim else sigma


def _discrete_table(
    zsnr: bool = False,
    beta_schedule: str = "linear",
    linear_start: float = 0.00085,
    linear_end: float = 0.012,
    timesteps: int = 1000,
) -> Tensor:
    sigmas = beta_sigmas(beta_schedule, linear_start, linear_end, timesteps)
    return zero_terminal_snr(sigmas) if zsnr else sigmas


def _discrete(prediction: Prediction, **settings: object) -> ModelSampling:
    return ModelSampling(DiscreteTime(_discrete_table(**settings)), prediction)  # type: ignore[arg-type]


def make_sampling(kind: str, **settings: float | str | bool) -> ModelSampling:
    """The sampling of a model of this kind.

    kind: eps, v, x0, img2img, lcm (settings of the beta schedule, and zsnr); edm, v_edm, eps_edm, v_continuous,
    cosmos_rf (sigma_min, sigma_max, sigma_data); flow (shift, multiplier); flux (shift); cascade (shift, cosine_s).

    Raises BadInput for a kind or setting that does not exist.
    """
    chosen = {key: value for key, value in settings.items() if key != "sigma_data"}
    data = float(settings.get("sigma_data", 0.5 if kind == "edm" else 1.0))
    if kind == "flux":
        chosen.pop("multiplier", None)
    discrete: dict[str, Prediction] = {"eps": EPS(data), "v": V(data), "x0": X0(data), "img2img": IMG2IMG(data)}
    times: dict[str, tuple[type[Time], Prediction]] = {
        "edm": (EDMTime, EDM(data)),
        "v_edm": (EDMTime, V(data)),
        "eps_edm": (EDMTime, EPS(data)),
        "v_continuous": (ContinuousV, V(data)),
        "cosmos_rf": (CosmosTime, CosmosRF(data)),
        "flow": (FlowTime, Flow()),
        "flux": (FluxTime, Flow()),
        "cascade": (CascadeTime, EPS(data)),
    }
    try:
        if kind in discrete:
            return _discrete(discrete[kind], **chosen)
        if kind == "lcm":
            distilled = DistilledTime(_discrete_table(**chosen))  # type: ignore[arg-type]
            return ModelSampling(distilled, LCM(time=distilled))
        time, prediction = times[kind]
        return ModelSampling(time(**chosen), prediction)
    except KeyError:
        raise BadInput(
            f"No sampling of kind {kind!r}.", do=f"Use one of {', '.join([*discrete, 'lcm', *times])}."
        ) from None
    except TypeError as error:
        raise BadInput(f"Sampling {kind!r} has no such setting: {settings}.", why=str(error)) from None
