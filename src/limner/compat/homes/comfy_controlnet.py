"""comfy.controlnet: what controls have in common; loading them is not supported yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from limner.compat.homes._services import memory
from limner.compat.homes.not_yet import missing


class StrengthType(Enum):
    """Whether all residuals count the same, or deeper ones more."""

    CONSTANT = 1
    LINEAR_UP = 2


def broadcast_image_to(tensor: Tensor, target_batch_size: int, batched_number: int) -> Tensor:
    """Hints for a batch of several conditions over several latents."""
    count = tensor.shape[0]
    if count == 1:
        return tensor
    each = target_batch_size // batched_number
    tensor = tensor[:each]
    if each > tensor.shape[0]:
        tensor = torch.cat([tensor] * (each // tensor.shape[0]) + [tensor[: each % tensor.shape[0]]])
    return tensor if tensor.shape[0] == target_batch_size else torch.cat([tensor] * batched_number)


class ControlBase:
    """A control in a chain: its hint, strength and range, and the one before it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.cond_hint_original: Tensor | None = None
        self.cond_hint: Tensor | None = None
        self.strength = 1.0
        self.timestep_percent_range = (0.0, 1.0)
        self.latent_format: Any = None
        self.vae: Any = None
        self.global_average_pooling = False
        self.timestep_range: tuple[float, float] | None = None
        self.compression_ratio = 8
        self.upscale_algorithm = "nearest-exact"
        self.extra_args: dict[str, Any] = {}
        self.previous_controlnet: Any = None
        self.extra_conds: list[str] = []
        self.strength_type = StrengthType.CONSTANT
        self.concat_mask = False
        self.extra_concat_orig: list[Any] = []
        self.extra_concat: Any = None
        self.extra_hooks: Any = None
        self.preprocess_image: Callable[[Tensor], Tensor] = lambda picture: picture
        self.multigpu_clones: dict[Any, Any] = {}

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Sequence[Any] = (),
    ) -> Any:
        """Use this picture (B, C, H, W)."""
        self.cond_hint_original, self.strength = cond_hint, strength
        self.timestep_percent_range, self.vae, self.extra_concat_orig = timestep_percent_range, vae, list(extra_concat)
        return self

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """A run begins."""
        start, end = self.timestep_percent_range
        self.timestep_range = percent_to_timestep_function(start), percent_to_timestep_function(end)
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def set_previous_controlnet(self, controlnet: Any) -> Any:
        """Add that one's residuals."""
        self.previous_controlnet = controlnet
        return self

    def cleanup(self) -> None:
        """The run has ended."""
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()
        self.cond_hint = self.extra_concat = self.timestep_range = None

    def get_models(self) -> list[Any]:
        """The networks of the chain."""
        return [] if self.previous_controlnet is None else list(self.previous_controlnet.get_models())

    def get_extra_hooks(self) -> list[Any]:
        """The hooks of the chain."""
        found = [] if self.extra_hooks is None else [self.extra_hooks]
        return found if self.previous_controlnet is None else found + self.previous_controlnet.get_extra_hooks()

    def copy_to(self, c: Any) -> None:
        """Give a copy what this one has."""
        for name in (
            "cond_hint_original", "strength", "timestep_percent_range", "global_average_pooling", "compression_ratio",
            "upscale_algorithm", "latent_format", "vae", "strength_type", "concat_mask", "extra_hooks",
            "preprocess_image",
        ):  # fmt: skip
            setattr(c, name, getattr(self, name))
        c.extra_args = dict(self.extra_args)
        c.extra_conds = list(self.extra_conds)
        c.extra_concat_orig = list(self.extra_concat_orig)

    def inference_memory_requirements(self, dtype: Any) -> float:
        """Bytes that the chain computes with."""
        before = self.previous_controlnet
        return 0.0 if before is None else float(before.inference_memory_requirements(dtype))

    def control_merge(
        self, control: Mapping[str, Sequence[Tensor | None]], control_prev: Any, output_dtype: Any
    ) -> dict[str, list[Tensor | None]]:
        """This one's residuals at its strength, with those of the one before."""
        out: dict[str, list[Tensor | None]] = {"input": [], "middle": [], "output": []}
        for part, residuals in control.items():
            for number, residual in enumerate(residuals):
                out.setdefault(part, []).append(self._scaled(residual, len(residuals) - number, output_dtype))
        for part, others in (control_prev or {}).items():
            mine = out.setdefault(part, [])
            for number, other in enumerate(others):
                if number >= len(mine):
                    mine.append(other)
                elif other is not None:
                    here = mine[number]
                    mine[number] = other if here is None else here + other
        return out

    def _scaled(self, residual: Tensor | None, depth: int, dtype: Any) -> Tensor | None:
        if residual is None:
            return None
        if self.global_average_pooling:
            residual = residual.mean(dim=(2, 3), keepdim=True).expand_as(residual)
        power = depth if self.strength_type == StrengthType.LINEAR_UP else 1
        residual = residual * math.pow(self.strength, power)
        return residual if dtype is None else residual.to(dtype)

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        """An argument of the network."""
        self.extra_args[argument] = value

    def place(self, tensor: Tensor) -> Tensor:
        """A tensor where networks run."""
        return memory().place(tensor)


class ControlNet(ControlBase):
    """A control network: not supported yet."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise missing(type(self).__name__, "controlnet")

    def copy(self) -> Any:
        """A copy."""
        raise missing(type(self).__name__, "controlnet")

    def get_control(self, *_: Any, **__: Any) -> Any:
        """The residuals."""
        raise missing(type(self).__name__, "controlnet")


class ControlLora(ControlNet):
    """A control network as a LoRA: not supported yet."""


class ControlNetSD35(ControlNet):
    """A control network of Stable Diffusion 3.5: not supported yet."""


class QwenFunControlNet(ControlNet):
    """A control network of Qwen-Image: not supported yet."""


class T2IAdapter(ControlNet):
    """A T2I adapter: not supported yet."""


class ControlLoraOps:
    """The layers of a control network as a LoRA: not supported yet."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise missing("ControlLoraOps", "controlnet")


def load_controlnet(ckpt_path: Any, model: Any = None, model_options: Any = None) -> Any:
    """A control of a file. Raises LimnerError: not supported yet."""
    del model, model_options
    raise missing(f"load_controlnet({ckpt_path})", "controlnet")


def load_controlnet_state_dict(state_dict: Any, model: Any = None, model_options: Any = None) -> Any:
    """A control of tensors. Raises LimnerError: not supported yet."""
    del state_dict, model, model_options
    raise missing("load_controlnet_state_dict", "controlnet")


def load_t2i_adapter(t2i_data: Any, model_options: Any = None) -> Any:
    """A T2I adapter of tensors. Raises LimnerError: not supported yet."""
    del t2i_data, model_options
    raise missing("load_t2i_adapter", "controlnet")


def controlnet_config(sd: Any, model_options: Any = None) -> Any:
    """What a control network's tensors say. Raises LimnerError: not supported yet."""
    del sd, model_options
    raise missing("controlnet_config", "controlnet")


def controlnet_load_state_dict(control_model: Any, sd: Any) -> Any:
    """Load tensors into a network."""
    missing_keys, unexpected = control_model.load_state_dict(sd, strict=False)
    del missing_keys, unexpected
    return control_model


load_controlnet_mmdit = load_controlnet_sd35 = load_controlnet_hunyuandit = load_controlnet_state_dict
load_controlnet_flux_xlabs_mistoline = load_controlnet_flux_instantx = load_controlnet_state_dict
load_controlnet_qwen_instantx = convert_mistoline = load_controlnet_state_dict
