"""The plain pictures that the workflows of the packs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_inputs(folder: Path) -> None:
    """`gradient.png` (96x64, RGB), `disc.png` (96x64, RGBA: a disc on nothing) and `mask.png` (grey) in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:64, 0:96]
    red, green = x * 255 // 95, y * 255 // 63
    colour = np.stack([red, green, 255 - red], axis=-1).astype(np.uint8)
    inside = ((x - 48) ** 2 + (y - 32) ** 2 < 24**2).astype(np.uint8) * 255
    Image.fromarray(colour).save(folder / "gradient.png")
    Image.fromarray(np.dstack([colour, inside])).save(folder / "disc.png")
    Image.fromarray(inside).save(folder / "mask.png")
