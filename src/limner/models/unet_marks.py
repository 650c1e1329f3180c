"""What the families of UNets have in common: marks of a header, what the network predicts, what is joined to its input.

A mark looks at where transformers are and of how many axes their tensors have, never at a width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.errors import BadInput
from limner.models.family import Mark, Prediction, has
from limner.models.layers.shapes import Overrides, count
from limner.models.metadata import overrides
from limner.models.unet import UNetConfig
from limner.weights.header import CheckpointHeader

VECTOR = "label_emb.0.0.weight"
"""Of UNets that take a vector beside time and text."""
CLASSES = "label_emb.weight"
"""Of UNets that take a number beside time and text."""


def projections(header: CheckpointHeader) -> set[int]:
    """Axes of what leads into its transformers: 4 for 1×1 convolutions (Stable Diffusion 1), 2 for linear layers."""
    return {len(entry.shape) for name, entry in header.tensors.items() if name.endswith(".proj_in.weight")}


def first_transformers(header: CheckpointHeader) -> bool:
    """Whether there are transformers at the latent's full resolution."""
    return "input_blocks.1.1.proj_in.weight" in header


def last_transformers(header: CheckpointHeader) -> bool:
    """Whether there are transformers at the smallest resolution of the way down."""
    last = count(header.shapes(), "input_blocks.{}.0.") - 1
    return f"input_blocks.{last}.1.proj_in.weight" in header


UNET = (
    has("input_blocks.0.0.weight"),
    has("time_embed.0.weight"),
    has("out.2.weight"),
    Mark("cross-attention", lambda header: any(".attn2.to_k." in name for name in header)),
    Mark("no video layers", lambda header: not any(".time_stack." in name for name in header)),
)
"""Of every UNet over pictures."""
LINEAR = Mark("transformers with linear proj_in", lambda header: projections(header) == {2})
CONVOLUTIONAL = Mark("transformers with convolutional proj_in", lambda header: projections(header) == {4})
NOT_AT_FIRST = Mark("no transformers at full resolution", lambda header: not first_transformers(header))


def infer_config(header: CheckpointHeader, said: Overrides) -> UNetConfig:
    """The UNet's dimensions from its tensors; `said` is the file's config.

    Raises BadInput for input channels that nothing is known to be joined to.
    """
    config = UNetConfig.from_state(header.shapes(), said)
    extra = config.in_channels - config.out_channels
    if extra not in (0, config.out_channels, config.out_channels + 1):
        raise BadInput(
            f"The UNet takes {config.in_channels} channels and predicts {config.out_channels}.",
            why=f"What the other {extra} are is not known: inpainting has {config.out_channels + 1} more, editing "
            f"{config.out_channels} (a depth map, 1 more, is not supported).",
            do="Use a model without them; ControlNets follow depth maps.",
        )
    return config


def concat(config: UNetConfig) -> tuple[str, ...]:
    """What the extra input channels are: a mask and the masked picture, or the picture to edit."""
    extra = config.in_channels - config.out_channels
    if extra == config.out_channels + 1:
        return ("mask", "masked_image")
    return ("image",) if extra == config.out_channels else ()


def edits(config: UNetConfig) -> bool:
    """Whether it is an InstructPix2Pix model. Brooks et al. 2023."""
    return concat(config) == ("image",)


def marked(diffusion: CheckpointHeader, whole: CheckpointHeader, name: str) -> bool:
    """Whether the file says something by a tensor of this name, wherever it stands."""
    return name in whole or name in diffusion


def number(diffusion: CheckpointHeader, whole: CheckpointHeader, name: str, default: float) -> float:
    """What such a tensor says; the default where there is none, or only its shape is known."""
    if not marked(diffusion, whole, name):
        return default
    tensor = (whole if name in whole else diffusion).tensor(name)
    return default if tensor.is_meta else float(tensor)


def discrete(
    diffusion: CheckpointHeader, whole: CheckpointHeader, kind: str = "eps", settings: Mapping[str, Any] | None = None
) -> Prediction:
    """Noise or velocity over a thousand times, as the family has it or the file says.

    The empty tensor `v_pred` means velocity, `ztsnr` that the last time is pure noise (Lin et al. 2023). kind and
    settings: the family's.
    """
    said = dict(overrides(whole, "sampling"))
    chosen = said.pop("kind", None) or ("v" if marked(diffusion, whole, "v_pred") else kind)
    found = {**(settings or {}), **{name: value for name, value in said.items() if name in _SETTINGS}}
    if marked(diffusion, whole, "ztsnr"):
        found.setdefault("zsnr", True)
    return Prediction(str(chosen), found)


_SETTINGS = frozenset({"zsnr", "beta_schedule", "linear_start", "linear_end", "timesteps"})
