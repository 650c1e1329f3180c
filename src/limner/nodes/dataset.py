"""Folders of pictures, and of pictures with texts, as batches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput
from limner.graph import Choice, Conditioning, FileIn, Image, Int, Optional, Run, node
from limner.nodes.image_files import read_picture
from limner.nodes.kinds import CLIP
from limner.nodes.resize import resize_image

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp"))
Folder = Annotated[str, FileIn("input", suffixes=("/",))]
Fit = Annotated[str, Choice(("None", "Stretch", "Crop", "Pad")), Optional()]
Side = Annotated[int, Int(min=-1, max=10000, step=1), Optional()]

training = partial(node, category="loaders", python_module="comfy_extras.nodes_train", experimental=True)


class Captioned(NamedTuple):
    """Pictures, and one entry of conditioning for each."""

    IMAGE: Image
    CONDITIONING: Conditioning


@training("LoadImageSetFromFolderNode", title="Load Image Dataset from Folder")
def load_images(run: Run, folder: Folder, resize_method: Fit = "None") -> Image:
    """The pictures of a folder as a batch, all in the size of the first.

    folder: a folder of the input folder. Pictures in a folder of it named 3_name come three times.
    resize_method: what to do with those of another size.
    """
    return _batch(run, _pictures(run.store.files.annotated(folder)), resize_method)


@training("LoadImageTextSetFromFolderNode", title="Load Image and Text Dataset from Folder")
def load_captioned(
    run: Run, folder: Folder, clip: CLIP, resize_method: Fit = "None", width: Side = -1, height: Side = -1
) -> Captioned:
    """The pictures of a folder as a batch, and the text beside each (`fox.txt` of `fox.png`) as conditioning.

    folder: a folder of the input folder. Pictures in a folder of it named 3_name come three times.
    clip: the text encoder.
    resize_method: what to do with those of another size.
    width: of all of them; -1 is that of the first.
    height: of all of them; -1 is that of the first.
    """
    if clip is None:
        raise BadInput("There is no text encoder to encode the texts with.", do="Load one with Load CLIP.")
    files = _pictures(run.store.files.annotated(folder))
    images = _batch(run, files, resize_method, width, height)
    entries: Conditioning = []
    for file in files:
        run.check()
        entries += clip.encode_from_tokens_scheduled(clip.tokenize(_caption(file)))
    return Captioned(images, entries)


def _caption(file: Path) -> str:
    beside = file.with_suffix(".txt")
    return beside.read_text(encoding="utf-8", errors="replace").strip() if beside.is_file() else ""


def _pictures(folder: Path) -> list[Path]:
    """Those of the folder itself, then of each folder in it, as often as the number before its `_` says."""
    files = _directly(folder)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        number, _, name = inner.name.partition("_")
        times = int(number) if name and number.isascii() and number.isdigit() else 1
        files += _directly(inner) * min(times, 1000)
    if not files:
        raise BadInput(
            f"There are no pictures in {folder.name}.", do=f"Put files in it: {', '.join(sorted(SUFFIXES))}."
        )
    return files


def _directly(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _batch(run: Run, files: list[Path], fit: str, width: int = -1, height: int = -1) -> Tensor:
    images: list[Tensor] = []
    for index, file in enumerate(files):
        run.progress(index, len(files))
        image = read_picture(file)
        if not images:
            width = width if width > 0 else image.shape[2]
            height = height if height > 0 else image.shape[1]
        if image.shape[1:3] != (height, width):
            image = _fitted(image, width, height, fit, file.name)
        images.append(image)
    return torch.cat(images)


def _fitted(image: Tensor, width: int, height: int, fit: str, name: str) -> Tensor:
    if fit == "None":
        raise BadInput(
            f"{name} is {image.shape[2]}×{image.shape[1]}, not {width}×{height}.",
            why="All pictures of a batch are of one size.",
            do="Choose a resize method.",
        )
    if fit != "Pad":
        return resize_image(image, width, height, "bilinear", "center" if fit == "Crop" else "disabled")
    factor = min(width / image.shape[2], height / image.shape[1])
    new_width, new_height = max(1, int(image.shape[2] * factor)), max(1, int(image.shape[1] * factor))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    resized = resize_image(image, new_width, new_height, "bilinear")
    return F.pad(resized, (0, 0, left, width - new_width - left, top, height - new_height - top))
