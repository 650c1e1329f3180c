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
TEXT_FOLDERS = ("text_encoder", "text_encoder_2")
TEXT_NAMES = ("model", "pytorch_model")
ENDINGS = (".fp16.safetensors", ".safetensors", ".fp16.bin", ".bin")


def load_folder(
    folder: Path,
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> Checkpoint:
    """The diffusion model, the text encoders and the autoencoder of a folder. embeddings: of textual inversions.

    Stable Diffusion XL has two text encoders, its refiner only the second one.
    Raises NotFound for a part that is not there, and BadInput for one of an unknown family.
    """
    return Checkpoint(
        load_diffusion_model(part(folder, "unet", UNET_NAMES), memory),
        load_clip(text_files(folder), "stable_diffusion", memory, embeddings, vocabularies),
        load_vae(part(folder, "vae", UNET_NAMES), memory),
    )


def text_files(folder: Path) -> list[Path]:
    """The files of a folder's text encoders. Raises NotFound where there is none."""
    names = [name for name in TEXT_FOLDERS if (folder / name).is_dir()] or TEXT_FOLDERS[:1]
    return [part(folder, name, TEXT_NAMES) for name in names]


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
