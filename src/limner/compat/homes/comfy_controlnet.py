"""comfy.controlnet: controls, and loading them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from limner.compat.homes._services import memory
from limner.compat.homes.comfy_ops import manual_cast
from limner.models import replaced
from limner.models.control import load
from limner.models.control.base import ControlBase, StrengthType, broadcast_image_to
from limner.models.control.lora import ControlLora
from limner.models.control.network import ControlNet
from limner.models.control.sd35 import ControlNetSD35
from limner.models.control.t2i import T2IAdapter
from limner.weights import CheckpointHeader
from limner.weights.ops import Conv2d, Linear

__all__ = [
    "ControlBase", "ControlLora", "ControlNet", "ControlNetSD35", "StrengthType", "T2IAdapter", "broadcast_image_to",
]  # fmt: skip


class QwenFunControlNet(ControlNet):
    """A control network of Qwen-Image."""


class ControlLoraOps:
    """Layers of a Control-LoRA's network: its weights are put together before it runs, so they are plain ones."""

    Linear = Linear
    Conv2d = Conv2d


def load_controlnet(ckpt_path: Any, model: Any = None, model_options: Any = None) -> ControlBase:
    """The control of a file; a file of differences needs the model that they belong to."""
    del model_options
    return load.read_controlnet(Path(ckpt_path), memory(), model)


def load_controlnet_state_dict(
    state_dict: Mapping[str, Tensor], model: Any = None, model_options: Any = None
) -> ControlBase:
    """The control of tensors."""
    del model_options
    return load.control_of(CheckpointHeader.of(state_dict), memory(), model)


def load_t2i_adapter(t2i_data: Mapping[str, Tensor], model_options: Any = None) -> Any:
    """A T2I adapter of tensors; None where they are none."""
    found = load_controlnet_state_dict(t2i_data, model_options=model_options)
    return found if isinstance(found, T2IAdapter) else None


def controlnet_config(sd: Mapping[str, Tensor], model_options: Any = None) -> tuple[Any, ...]:
    """(configuration, layers, device it computes on, dtype, dtype to cast to, device it waits on) of tensors."""
    del model_options
    header = CheckpointHeader.of(sd)
    kind, layout = load.detect(header)
    manager = memory()
    precision = manager.unet_precision(kind.dtypes)
    config = kind.infer_config(layout.convert(header), {})
    return config, manual_cast, manager.device, precision.storage, precision.compute, torch.device("cpu")


def controlnet_load_state_dict(control_model: Any, sd: Mapping[str, Tensor]) -> Any:
    """Load tensors into a network; names that only one of them has are passed over."""
    control_model.load_state_dict(dict(sd), strict=False)
    return control_model


def _with_first(tensors: Mapping[str, Tensor], *_: Any, model_options: Any = None, **__: Any) -> ControlBase:
    return load_controlnet_state_dict(tensors, model_options=model_options)


load_controlnet_mmdit = load_controlnet_sd35 = load_controlnet_hunyuandit = _with_first
load_controlnet_flux_xlabs_mistoline = load_controlnet_flux_instantx = load_controlnet_qwen_instantx = _with_first


class _Home(ModuleType):
    """This module: what a pack puts in the place of the loader is what nodes load with."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "load_controlnet" and value is not _OWN:
            replaced.LOADERS[name] = value
        elif name == "load_controlnet":
            replaced.LOADERS.pop(name, None)
        super().__setattr__(name, value)


_OWN = load_controlnet
sys.modules[__name__].__class__ = _Home
