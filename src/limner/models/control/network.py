"""ControlNet: a control network with its weights, as it crosses node boundaries (CONTROL_NET)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.models.base import convert_tensor
from limner.models.control.base import ControlBase, Residuals, StrengthType, unchanged
from limner.models.patcher import ModelPatcher


class ControlNet(ControlBase):
    """A control whose network is given the latent, the time, the text and a hint at each step.

    control_model: a network, or one from a file as a model; None to set `control_model_wrapped` later.
    load_device: where a bare network computes. manual_cast_dtype: what it computes in, where not in its own dtype.
    The network is called as network(x=…, hint=…, timesteps=…, context=…, **more) and returns residuals by part.
    """

    def __init__(
        self,
        control_model: nn.Module | ModelPatcher | None = None,
        global_average_pooling: bool = False,
        compression_ratio: int = 8,
        latent_format: Any = None,
        load_device: Any = None,
        manual_cast_dtype: torch.dtype | None = None,
        extra_conds: Sequence[str] = ("y",),
        strength_type: StrengthType = StrengthType.CONSTANT,
        concat_mask: bool = False,
        preprocess_image: Callable[[Tensor], Tensor] = unchanged,
    ) -> None:
        super().__init__()
        self.control_model_wrapped: Any = None
        self.load_device = load_device
        self.control_model = control_model
        self.compression_ratio = compression_ratio
        self.global_average_pooling = global_average_pooling
        self.latent_format = latent_format
        self.manual_cast_dtype = manual_cast_dtype
        self.extra_conds = list(extra_conds)
        self.strength_type = strength_type
        self.concat_mask = concat_mask
        self.preprocess_image = preprocess_image
        self.model_sampling_current: Any = None
        self.output_dtype: torch.dtype | None = None

    @property
    def control_model(self) -> Any:
        """The network; loaded when it is asked for outside of sampling. None: there is none yet."""
        return None if self.control_model_wrapped is None else self.control_model_wrapped.model

    @control_model.setter
    def control_model(self, value: nn.Module | ModelPatcher | None) -> None:
        if value is None or isinstance(value, ModelPatcher):
            self.control_model_wrapped = value
        else:
            device = self.load_device or torch.device("cpu")
            self.control_model_wrapped = ModelPatcher(value, device, torch.device("cpu"))

    def copy(self) -> Any:
        """One with a hint of its own; the weights are shared."""
        c = type(self)(
            None, self.global_average_pooling, load_device=self.load_device, manual_cast_dtype=self.manual_cast_dtype
        )
        c.control_model_wrapped = self.control_model_wrapped
        self.copy_to(c)
        return c

    def get_models(self) -> list[Any]:
        """The networks of the chain."""
        own = [] if self.control_model_wrapped is None else [self.control_model_wrapped]
        return super().get_models() + own

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """A run of `model` begins: its noise levels are those that the network is told of."""
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling_current = getattr(model, "model_sampling", None) or model.sampling
        get_dtype = getattr(model, "get_dtype", None)
        self.output_dtype = None if get_dtype is None else get_dtype()

    def cleanup(self) -> None:
        """The run has ended."""
        self.model_sampling_current = self.output_dtype = None
        super().cleanup()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> Residuals | None:
        """Residuals for a batch of `batched_number` conditions over x_noisy (B, C, …, h, w) at sigmas t (B,).

        cond: the network's arguments (`c_crossattn`, `y` …); `crossattn_controlnet` is a text for controls alone.
        Outside of its range, what the controls before it add; None for nothing.
        """
        previous = self.previous_control(x_noisy, t, cond, batched_number, transformer_options)
        if not self.active(t):
            return previous
        hint = self.hint_for(x_noisy, batched_number)
        control = self.compute(x_noisy, t, cond, hint)
        return self.control_merge(control, previous, self.output_dtype)

    def compute(self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, Any], hint: Tensor) -> Residuals:
        """The network's answer, at full strength."""
        sampling = self.model_sampling_current
        dtype = self.compute_dtype()
        context = cond.get("crossattn_controlnet", cond.get("c_crossattn"))
        more = dict(self.extra_args)
        for name in self.extra_conds:
            if cond.get(name) is not None:
                more[name] = convert_tensor(cond[name], dtype)
        shown = sampling.calculate_input(t, x_noisy).to(dtype)
        with self.control_model_wrapped.loaded() as network:
            found: Residuals = network(
                x=shown,
                hint=hint.to(dtype),
                timesteps=sampling.timestep(t).float(),
                context=convert_tensor(context, dtype),
                **more,
            )
        return found

    def compute_dtype(self) -> torch.dtype:
        """What the network computes in."""
        own: torch.dtype | None = self.manual_cast_dtype or self.control_model_wrapped.model_dtype()
        return own or torch.float32
