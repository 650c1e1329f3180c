"""comfy.sd: loading and saving models, text encoders and autoencoders."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from limner.compat.homes import comfy_model_detection as model_detection
from limner.compat.homes._services import memory, vocabularies
from limner.compat.homes.comfy_text import t5_xxl_detect
from limner.compat.homes.custom_operations import custom, told, with_operations
from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models import load, load_text, load_vae, replaced, saving, style_models
from limner.models.autoencoder import VAE as OwnVAE  # noqa: N811 - a class
from limner.models.clip import CLIP as OwnCLIP  # noqa: N811
from limner.models.control.load import read_controlnet
from limner.models.load import from_state as _from_state
from limner.models.load_vision import clip_vision_beside
from limner.models.lora import add_lora
from limner.models.style_models import StyleModel as OwnStyleModel
from limner.models.text.kinds import parts_of
from limner.weights import CheckpointHeader, files, save

__all__ = ["model_detection"]


class CLIPType(Enum):
    """Which family a text encoder is for."""

    STABLE_DIFFUSION = 1
    STABLE_CASCADE = 2
    SD3 = 3
    STABLE_AUDIO = 4
    HUNYUAN_DIT = 5
    FLUX = 6
    MOCHI = 7
    LTXV = 8
    HUNYUAN_VIDEO = 9
    PIXART = 10
    COSMOS = 11
    LUMINA2 = 12
    WAN = 13
    HIDREAM = 14
    CHROMA = 15
    ACE = 16
    OMNIGEN2 = 17
    QWEN_IMAGE = 18
    HUNYUAN_IMAGE = 19


class TEModel(Enum):
    """What a text encoder's file holds."""

    CLIP_L = 1
    CLIP_H = 2
    CLIP_G = 3
    T5_XXL = 4
    T5_XL = 5
    T5_BASE = 6
    LLAMA3_8 = 7
    T5_XXL_OLD = 8
    GEMMA_2_2B = 9
    QWEN25_3B = 10
    QWEN25_7B = 11
    BYT5_SMALL_GLYPH = 12
    GEMMA_3_4B = 13


class CLIP(OwnCLIP, metaclass=StandsFor):
    """A text encoder; those that nodes hand on are instances too."""

    recognises = staticmethod(lambda instance: isinstance(instance, OwnCLIP))

    def __init__(self, *_: Any, no_init: bool = False, **__: Any) -> None:
        if not no_init:
            raise missing("comfy.sd.CLIP(target)", "config")


class VAE(OwnVAE, metaclass=StandsFor):
    """An autoencoder, made of a state dict; those that nodes hand on are instances too."""

    recognises = staticmethod(lambda instance: isinstance(instance, OwnVAE))

    def __init__(
        self,
        sd: Mapping[str, Tensor] | None = None,
        device: Any = None,
        config: Any = None,
        dtype: Any = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        del device, config, dtype
        made = load_vae.vae_of(CheckpointHeader.of(sd or {}, metadata), memory(), strict=False)
        self.__dict__.update(made.__dict__)


class StyleModel(OwnStyleModel, metaclass=StandsFor):
    """A style model around a network; those that nodes hand on are instances too."""

    recognises = staticmethod(lambda instance: isinstance(instance, OwnStyleModel))

    def __init__(self, model: Any, device: Any = "cpu") -> None:
        del device
        self._network = model

    @property
    def model(self) -> Any:
        """The network."""
        return self._network

    def get_cond(self, input: Any) -> Tensor:  # noqa: A002 - the published name
        """The tokens of what a vision encoder says."""
        found: Tensor = self._network(input.last_hidden_state)
        return found


# -- checkpoints ------------------------------------------------------------------------------------------------------


def _embeddings(folder: Any) -> list[Path]:
    if folder is None:
        return []
    return [Path(one) for one in folder] if isinstance(folder, list | tuple) else [Path(folder)]


def load_checkpoint_guess_config(
    ckpt_path: Any,
    output_vae: bool = True,
    output_clip: bool = True,
    output_clipvision: bool = False,
    embedding_directory: Any = None,
    output_model: bool = True,
    model_options: Mapping[str, Any] | None = None,
    te_model_options: Mapping[str, Any] | None = None,
) -> tuple[Any, Any, Any, Any]:
    """(model, clip, vae, clipvision) of a checkpoint's file; what is not wanted, or not there, is None."""
    header = files.header(ckpt_path, use_mmap=not memory().settings.disable_mmap)
    parts = _parts(header, embedding_directory, model_options, te_model_options)
    return _wanted(parts, output_model, output_clip, output_vae, told(header, None) if output_clipvision else None)


def load_state_dict_guess_config(
    sd: Mapping[str, Tensor],
    output_vae: bool = True,
    output_clip: bool = True,
    output_clipvision: bool = False,
    embedding_directory: Any = None,
    output_model: bool = True,
    model_options: Mapping[str, Any] | None = None,
    te_model_options: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Any, Any, Any, Any]:
    """The same of a checkpoint's tensors."""
    header = CheckpointHeader.of(sd, metadata)
    parts = _parts(header, embedding_directory, model_options, te_model_options)
    return _wanted(parts, output_model, output_clip, output_vae, told(header, None) if output_clipvision else None)


def _parts(header: CheckpointHeader, folders: Any, options: Any, text_options: Any) -> Any:
    """All of a checkpoint; those parts that are built of a pack's layers read the file themselves."""

    def read(options: Any) -> Any:
        return _from_state(told(header, options), memory(), _embeddings(folders), vocabularies())

    parts = read(None)
    if custom(options) is not None:
        parts = parts._replace(model=with_operations(read(options).model, options))
    if custom(text_options) is not None and parts.clip is not None:
        parts = parts._replace(clip=with_operations(read(text_options).clip, text_options))
    return parts


def _wanted(
    parts: Any, model: bool, clip: bool, vae: bool, vision: CheckpointHeader | None
) -> tuple[Any, Any, Any, Any]:
    seen = None if vision is None else clip_vision_beside(vision, memory())
    return parts.model if model else None, parts.clip if clip else None, parts.vae if vae else None, seen


def load_checkpoint(
    config_path: Any = None,
    ckpt_path: Any = None,
    output_vae: bool = True,
    output_clip: bool = True,
    embedding_directory: Any = None,
    state_dict: Mapping[str, Tensor] | None = None,
    config: Any = None,
) -> tuple[Any, Any, Any]:
    """(model, clip, vae) of a checkpoint. What its config says is read off the tensors instead."""
    del config_path, config
    if state_dict is not None:
        found = load_state_dict_guess_config(state_dict, output_vae, output_clip, False, embedding_directory)
    else:
        found = load_checkpoint_guess_config(ckpt_path, output_vae, output_clip, False, embedding_directory)
    return found[:3]


def load_diffusion_model(unet_path: Any, model_options: Mapping[str, Any] | None = None) -> Any:
    """The diffusion model of a file. custom_operations, of the options: a pack's layers, which it is built of."""
    model = load.model_of(_file(unet_path, model_options), memory())
    return _with_dtype(with_operations(model, model_options), model_options)


def load_diffusion_model_state_dict(
    sd: Mapping[str, Tensor], model_options: Mapping[str, Any] | None = None, metadata: Any = None
) -> Any:
    """The diffusion model of tensors; options as above."""
    model = load.model_of(told(CheckpointHeader.of(sd, metadata), model_options), memory())
    return _with_dtype(with_operations(model, model_options), model_options)


def _file(path: Any, options: Mapping[str, Any] | None) -> CheckpointHeader:
    return told(files.header(path, use_mmap=not memory().settings.disable_mmap), options)


def _with_dtype(model: Any, options: Mapping[str, Any] | None) -> Any:
    dtype = (options or {}).get("dtype")
    if dtype is not None and dtype.itemsize > 1:
        model.set_model_compute_dtype(dtype)
    return model


def load_unet(unet_path: Any, dtype: Any = None) -> Any:
    """The diffusion model of a file: the older form."""
    return load_diffusion_model(unet_path, {"dtype": dtype})


def load_unet_state_dict(sd: Mapping[str, Tensor], dtype: Any = None) -> Any:
    """The diffusion model of tensors: the older form."""
    return load_diffusion_model_state_dict(sd, {"dtype": dtype})


def save_checkpoint(
    output_path: Any,
    model: Any,
    clip: Any = None,
    vae: Any = None,
    clip_vision: Any = None,
    metadata: Mapping[str, str] | None = None,
    extra_keys: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint of patched weights, in the layout of Stable Diffusion's."""
    del clip_vision
    tensors: dict[str, Tensor] = dict(extra_keys or {})
    for name in model.source.tensors:
        tensors[f"model.{model.source.prefix}{name}"] = model.source.kept(name).contiguous()
    if clip is not None:
        tensors |= saving.clip_tensors(clip, model.family)
    for name, tensor in (vae.get_sd() if vae is not None else {}).items():
        tensors[f"first_stage_model.{name}"] = tensor.contiguous()
    save(output_path, tensors, metadata)


# -- parts ------------------------------------------------------------------------------------------------------------


def load_clip(
    ckpt_paths: Sequence[Any],
    embedding_directory: Any = None,
    clip_type: CLIPType = CLIPType.STABLE_DIFFUSION,
    model_options: Mapping[str, Any] | None = None,
) -> Any:
    """The text encoder of files."""
    headers = [_file(path, model_options) for path in ckpt_paths]
    return _clip(headers, embedding_directory, clip_type, model_options)


def load_text_encoder_state_dicts(
    state_dicts: Sequence[Mapping[str, Tensor]] = (),
    embedding_directory: Any = None,
    clip_type: CLIPType = CLIPType.STABLE_DIFFUSION,
    model_options: Mapping[str, Any] | None = None,
) -> Any:
    """The text encoder of tensors."""
    headers = [told(CheckpointHeader.of(one), model_options) for one in state_dicts]
    return _clip(headers, embedding_directory, clip_type, model_options)


def _clip(headers: Sequence[CheckpointHeader], folders: Any, kind: CLIPType, options: Mapping[str, Any] | None) -> Any:
    clip = load_text.clip_of(headers, kind.name.lower(), memory(), _embeddings(folders), vocabularies())
    return with_operations(clip, options)


def detect_te_model(sd: Mapping[str, Any]) -> TEModel | None:
    """What a text encoder's tensors are, None for none that is known."""
    found = parts_of(CheckpointHeader.of(sd))
    if found:
        return _TE_MODELS.get(found[0].kind.name)
    if "model.layers.0.post_feedforward_layernorm.weight" in sd:
        return TEModel.GEMMA_3_4B if "model.layers.0.self_attn.q_norm.weight" in sd else TEModel.GEMMA_2_2B
    return TEModel.LLAMA3_8 if "model.layers.0.post_attention_layernorm.weight" in sd else None


_TE_MODELS = {
    "clip_l": TEModel.CLIP_L, "clip_h": TEModel.CLIP_H, "clip_g": TEModel.CLIP_G,
    "t5xxl": TEModel.T5_XXL, "umt5xxl": TEModel.T5_XXL, "t5xxl_old": TEModel.T5_XXL_OLD,
    "pile_t5xl": TEModel.T5_XL, "mt5xl": TEModel.T5_XL, "t5base": TEModel.T5_BASE,
    "byt5_small_glyph": TEModel.BYT5_SMALL_GLYPH,
    "qwen25_3b": TEModel.QWEN25_3B, "qwen25_7b": TEModel.QWEN25_7B,
}  # fmt: skip


def t5xxl_detect(clip_data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The dtype of the T5 among several files' tensors, as `dtype_t5`; empty where there is none."""
    return next((found for tensors in clip_data if (found := t5_xxl_detect(tensors))), {})


def llama_detect(clip_data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The dtype of the Llama among several files' tensors, as `dtype_llama`; empty where there is none."""
    norms = (tensors.get("model.norm.weight") for tensors in clip_data)
    return next(({"dtype_llama": norm.dtype} for norm in norms if norm is not None), {})


def load_lora_for_models(
    model: Any, clip: Any, lora: Mapping[str, Tensor], strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    """Clones of both with a LoRA's changes added; None stays None."""
    return add_lora(CheckpointHeader.of(lora), model, clip, strength_model, strength_clip)


def load_bypass_lora_for_models(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """The same: weights are changed when they are loaded."""
    return load_lora_for_models(*args, **kwargs)


def load_style_model(ckpt_path: Any) -> Any:
    """The style model of a file."""
    return style_models.load_style_model(ckpt_path, memory())


def load_gligen(ckpt_path: Any) -> Any:
    """A GLIGEN model. Raises LimnerError: not supported yet."""
    raise missing(f"load_gligen({ckpt_path})", "gligen")


def load_controlnet(ckpt_path: Any, model: Any = None) -> Any:
    """The control of a file; a file of differences needs the model that they belong to."""
    return read_controlnet(ckpt_path, memory(), model)


def model_detection_error_hint(path: Any, state_dict: Mapping[str, Any]) -> str:
    """What a file that is no diffusion model may be."""
    del path
    return "\nHINT: It seems to be a text encoder." if detect_te_model(state_dict) is not None else ""


class _Home(ModuleType):
    """This module: what a pack puts in the place of a loader is what nodes load with."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN and value is not _OWN[name]:
            replaced.LOADERS[name] = value
        else:
            replaced.LOADERS.pop(name, None)
        super().__setattr__(name, value)


_OWN = {
    "load_checkpoint_guess_config": load_checkpoint_guess_config,
    "load_diffusion_model": load_diffusion_model,
    "load_clip": load_clip,
}
sys.modules[__name__].__class__ = _Home
