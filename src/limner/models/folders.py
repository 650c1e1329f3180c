"""Models that come as a folder with a file for each part, as the diffusers library keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limner.errors import NotFound
from limner.memory import MemoryManager
from limner.models.load import Checkpoint, load_diffusion_model
from limner.models.load_text import load_clip
from limner.models.load_vae import load_vae
from limner.models.text.vocabulary import INSTALLED, Vocabularies

UNET_NAMES = ("diffusion_pytorch_model",)
TEXT_NAMES = ("model", "pytorch_model")
ENDINGS = (".fp16.safetensors", ".safetensors", ".fp16.bin", ".bin")


def load_folder(
    folder: Path,
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> Checkpoint:
    """The diffusion model, the text encoder and the autoencoder of a folder. embeddings: of textual inversions.

    Raises NotFound for a part that is not there, and BadInput for one of an unknown family.
    """
    return Checkpoint(
        load_diffusion_model(part(folder, "unet", UNET_NAMES), memory),
        load_clip([part(folder, "text_encoder", TEXT_NAMES)], "stable_diffusion", memory, embeddings, vocabularies),
        load_vae(part(folder, "vae", UNET_NAMES), memory),
    )


def part(folder: Path, name: str, stems: Sequence[str]) -> Path:
    """The file of a part: half precision before full, safetensors before pickles."""
    for ending in ENDINGS:
        for stem in stems:
            path = folder / name / (stem + ending)
            if path.is_file():
                return path
    raise NotFound(
        f"{folder.name} has no {name}.",
        why=f"Looked in its folder {name!r} for {', '.join(stems)} with the endings {', '.join(ENDINGS)}.",
        do="Download the model again, all of it.",
    )
