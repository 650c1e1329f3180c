"""Networks by themselves: UNets and autoencoders; known by their keys, not by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.models.unet import UNet, UNetConfig
from limner.models.vae.kl import AutoencoderKL, KLConfig
from limner.models.vae.taesd import TAESD, TAESDConfig
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported

# what marks a network, the network, its config
NETWORKS: tuple[tuple[tuple[str, ...], type[nn.Module], Any], ...] = (
    (("input_blocks.0.0.weight", "out.2.weight", "time_embed.0.weight"), UNet, UNetConfig),
    (("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"), AutoencoderKL, KLConfig),
    (("taesd_encoder.0.weight", "taesd_decoder.1.weight"), TAESD, TAESDConfig),
)  # fmt: skip


def network(case: Case, manifest: str = "manifest", config: dict[str, Any] | None = None) -> nn.Module:
    """The network of a case's weights."""
    shapes = case.shapes(manifest)
    for marks, kind, config_type in NETWORKS:
        # a convolution over three axes is a video network of the same key names
        if all(mark in shapes for mark in marks) and all(len(size) < 5 for size in shapes.values()):
            with torch.device("meta"):
                made = kind(config_type.from_state(shapes, case.config if config is None else config))
            made.load_state_dict(case.state_dict(manifest), assign=True)
            return made.eval()
    raise UnsupportedCaseError("No network here has these keys.")


@torch.inference_mode()
def forward(path: Path, folder: Path) -> list[Check]:
    """One pass of a network: a UNet's prediction, an autoencoder's both ways."""
    case = Case(path, folder)
    if "manifest" not in case.metadata.get("weights", {}):
        raise UnsupportedCaseError("The case has no weights of one network.")
    if "sampler" in case.metadata:
        raise UnsupportedCaseError("A case that samples.")
    outputs = {"encode", "decode"} if "pixels" in case.inputs else {"x"}
    if not outputs <= case.expected.keys() or "cls" not in case.metadata:
        raise UnsupportedCaseError("No bare pass of a network.")
    made = network(case)
    found = _unet(made, case) if isinstance(made, UNet) else _autoencoder(made, case)
    return [case.check(name, found[name]) if name in found else unsupported(name) for name in case.expected]


def _unet(unet: UNet, case: Case) -> dict[str, Tensor]:
    known = {"x", "timestep", "context", "y"}
    if unknown := case.inputs.keys() - known:
        raise UnsupportedCaseError(f"Inputs that this UNet has not: {sorted(unknown)}.")
    inputs = case.inputs
    return {"x": unet(inputs["x"], inputs["timestep"], inputs.get("context"), inputs.get("y"))}


def _autoencoder(vae: Any, case: Case) -> dict[str, Tensor]:
    return {"encode": vae.encode(case.inputs["pixels"]), "decode": vae.decode(case.inputs["latent"])}


RUNNERS = {
    "*/*.safetensors": forward,
}
