"""What sampling asks of the objects it is given: the diffusion model and control networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from limner.sampling.latent import LatentFormat
    from limner.sampling.model_sampling import ModelSampling


class DiffusionModel(Protocol):
    """A model as sampling sees it. Latents it is given are float32 in model space, on its device."""

    @property
    def options(self) -> dict[str, Any]:
        """Hooks: sampler_cfg_function, sampler_pre_cfg_function, transformer_options and so on."""
        ...

    @property
    def sampling(self) -> ModelSampling:
        """Noise levels and prediction kind."""
        ...

    @property
    def latent_format(self) -> LatentFormat:
        """Channels, axes and scale of its latents."""
        ...

    def extra_conds(self, **values: Any) -> Mapping[str, Any]:
        """One condition's entries (cross_attn, pooled_output, width, noise, …) as arguments of `apply_model`.

        Tensors (or ConditionValues, where how they are cut and batched must be said) by argument name.
        """
        ...

    def apply_model(
        self,
        x: Tensor,
        sigma: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **extra: Any,
    ) -> Tensor:
        """The clean latent predicted from x; sigma has one value per batch row."""
        ...

    def memory_required(self, shape: tuple[int, ...]) -> float:
        """Bytes one call with an input of this shape needs beside the weights."""
        ...

    def free_memory(self) -> float:
        """Bytes free on its device."""
        ...

    def loaded(
        self, working: int = 0, least: int | None = None, passes: int | None = None
    ) -> AbstractContextManager[Any]:
        """Weights are on the device inside this block, with `working` bytes to spare, or `least` where room is short.

        passes: how often they are used.
        """
        ...

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the model's device."""
        ...


class Control(Protocol):
    """A control network attached to a condition under the key `control`."""

    def pre_run(self, model: DiffusionModel, percent_to_sigma: Callable[[float], float]) -> None:
        """Called once before the first step."""
        ...

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> Any:
        """Residuals for a batch of `batched_number` conditions over x_noisy at sigmas t; None when not active."""
        ...
