"""How many tensor elements are alive at the worst moment of an autoencoder, for each pixel of a frame?

budget: no more than its kind says, which counts convolutions' workspaces too, and no more than diffusers' module on the
same shapes, where diffusers is installed (`make setup`). Published widths on small pictures; the peak grows with pixels
alone, for the attention in the middle is computed without its scores in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import report
from benchmarks._live_bytes import peak_of
from limner.models.vae.kind import autoencoders
from limner.models.vae.kl import KLConfig
from limner.models.vae.taesd import TAESDConfig
from limner.models.vae.wan import WanConfig

SIDE = 96  # pixels; of videos 64


@dataclass(frozen=True)
class Case:
    """A published autoencoder: its kind and dimensions, how many frames, and diffusers' class of the same."""

    name: str
    kind: str
    config: Any
    frames: int = 0  # 0: pictures
    rival: Callable[[Any], nn.Module] | None = None


CASES = (
    Case("sd", "kl-vae", KLConfig(), rival=lambda d: d.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)),
    Case("flux", "kl-vae", KLConfig(z_channels=16, embed_dim=16, quant=False), rival=lambda d: d.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        use_quant_conv=False, use_post_quant_conv=False)),
    Case("taef1", "taesd", TAESDConfig(16), rival=lambda d: d.AutoencoderTiny(latent_channels=16)),
    Case("qwen-image", "wan-vae", WanConfig(), 1, rival=lambda d: d.AutoencoderKLQwenImage()),
    Case("wan2.1", "wan-vae", WanConfig(), 9, rival=lambda d: d.AutoencoderKLWan()),
)  # fmt: skip


def diffusers() -> Any | None:
    """The library, or None where it is not installed."""
    try:
        import diffusers as library
    except ImportError:
        return None
    return library


def main() -> None:
    """Measure and report."""
    library = diffusers()
    for case in CASES:
        kind = autoencoders()[case.kind]
        about = kind.describe(case.config)
        network = kind.network(case.config).eval().requires_grad_(False)
        side = 64 if case.frames > 1 else SIDE
        pixels = torch.rand(1, 3, *([case.frames] if case.frames else []), side, side)
        cells = side // about.downscale
        frames = [about.frames.latents(case.frames)] if about.frames is not None else []
        latent = torch.rand(1, about.channels, *frames, cells, cells)
        rival = None if library is None or case.rival is None else case.rival(library).eval().requires_grad_(False)
        for way, given, peak in (("decode", latent, about.decode_peak), ("encode", pixels, about.encode_peak)):
            measured = elements(network, way, given, side)
            theirs = None if rival is None else elements(rival, way, given, side)
            said = peak.elements(max(1, case.frames), 1)
            figures: dict[str, Any] = {"value": round(measured), "budget": round(min(said, theirs or said))}
            report(
                "vae_memory", autoencoder=case.name, way=way, frames=max(1, case.frames), **figures,
                estimate=round(said), of_estimate=round(measured / said, 2),
                diffusers=None if theirs is None else round(theirs),
            )  # fmt: skip


def elements(network: nn.Module, way: str, given: Tensor, side: int) -> float:
    """Elements alive at the worst moment, for each pixel of a frame."""
    return peak_of(getattr(network, way), given, module=network) / 4 / side**2


if __name__ == "__main__":
    main()
