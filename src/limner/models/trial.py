"""A checkpoint tried out: one small picture, to see what its quantized weights do while they are computed with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.load import load_checkpoint
from limner.sampling.run import ksample
from limner.weights.quant import counting_fallbacks

SIDE = 16
"""Numbers of a latent's side: small, and even after the networks have halved it three times."""


def trial(path: Path, memory: MemoryManager) -> Iterator[str]:
    """A prompt encoded, one step sampled from noise, the latent decoded; then what dequantized, and how often.

    Raises BadInput for a file without a text encoder or an autoencoder, and whatever a part raises that cannot compute.
    """
    model, clip, vae = load_checkpoint(path, memory)
    missing = [what for what, part in (("text encoder", clip), ("autoencoder", vae)) if part is None]
    if clip is None or vae is None:
        raise BadInput(
            f"{path.name} has no {' and no '.join(missing)}, so it cannot be tried out alone.",
            do="`limner run WORKFLOW` with its other parts; the log says the same of every prompt.",
        )
    with counting_fallbacks() as found, torch.inference_mode():
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a picture", ""))
        latent = {"samples": torch.zeros(1, model.latent_format.latent_channels, SIDE, SIDE)}
        made = ksample(model, 0, 1, 4.0, "euler", "normal", positive, negative, latent)
        picture = vae.decode(made["samples"])
    finite = "finite" if bool(picture.isfinite().all()) else "NOT FINITE"
    yield f"one step, decoded: {picture.shape[-2]}×{picture.shape[-3]} pixels, {finite}"
    yield from found.lines() if len(found) else ["no operation had to dequantize a weight that it does not know"]
