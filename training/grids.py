"""Pictures side by side in one PNG, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(pixels: Tensor) -> np.ndarray:
    """(batch, 3, height, width) in -1..1 → (batch, height, width, 3) uint8."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def grid(pictures: np.ndarray, columns: int) -> Image.Image:
    """(batch, height, width, 3) uint8 → one picture, row by row, the last row filled with grey."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    page = np.full((rows * columns, height, width, 3), 128, np.uint8)
    page[:count] = pictures
    page = page.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(page.reshape(rows * height, columns * width, 3))


def save_grid(pixels: Tensor | np.ndarray, columns: int, path: Path, scale: float = 1.0) -> None:
    """Write a grid of uint8 pictures, or of pixels in -1..1, as a PNG."""
    page = grid(to_uint8(pixels) if isinstance(pixels, torch.Tensor) else pixels, columns)
    if scale != 1.0:
        page = page.resize((round(page.width * scale), round(page.height * scale)), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
