"""comfy.diffusers_load and diffusers_convert: models in diffusers' folders and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from limner.compat.homes._services import memory
from limner.compat.homes.not_yet import missing
from limner.models import folders, load, load_text, load_vae
from limner.models.convert import clip_text, vae_from_diffusers
from limner.weights import CheckpointHeader


def first_file(path: str | Path, filenames: Sequence[str]) -> str | None:
    """The first of these files that is in a folder, or None."""
    return next((str(Path(path) / name) for name in filenames if (Path(path) / name).exists()), None)


def load_diffusers(
    model_path: str | Path,
    output_vae: bool = True,
    output_clip: bool = True,
    embedding_directory: Any = None,
    **_: Any,
) -> tuple[Any, Any, Any]:
    """(model, clip, vae) of a diffusers folder. Raises NotFound for a part without a file."""
    root = Path(model_path)
    model = load.load_diffusion_model(folders.part(root, "unet", folders.UNET_NAMES), memory())
    clip = vae = None
    if output_clip:
        embeddings = [Path(one) for one in embedding_directory or ()]
        clip = load_text.load_clip(folders.text_files(root), "stable_diffusion", memory(), embeddings)
    if output_vae:
        vae = load_vae.load_vae(folders.part(root, "vae", folders.UNET_NAMES), memory())
    return model, clip, vae


def convert_vae_state_dict(vae_state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors with diffusers' names under the reference's."""
    header = vae_from_diffusers(CheckpointHeader.of(vae_state_dict))
    return {name: header.tensor(name) for name in header}


def convert_text_enc_state_dict(text_enc_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP-L's tensors: the names are the same."""
    return text_enc_dict


def convert_text_enc_state_dict_v20(text_enc_dict: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """An OpenCLIP text encoder's tensors. Raises LimnerError: not supported yet."""
    del text_enc_dict, prefix
    raise missing("convert_text_enc_state_dict_v20", "te")


def reshape_weight_for_sd(w: Tensor, conv3d: bool = False) -> Tensor:
    """A linear layer's weight as a convolution's."""
    return w.reshape(*w.shape, 1, 1, 1) if conv3d else w.reshape(*w.shape, 1, 1)


def cat_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the first axis."""
    import torch  # noqa: PLC0415 - one use

    return torch.cat(list(tensors))


CLIP_NAMES = clip_text
