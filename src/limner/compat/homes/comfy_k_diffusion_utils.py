"""comfy.k_diffusion.utils: small helpers of the sampling functions, and folders of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from limner.sampling.functions import append_dims

__all__ = ["append_dims"]


def n_params(module: nn.Module) -> int:
    """How many numbers a network's parameters hold."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def train_mode(model: nn.Module, mode: bool = True) -> Iterator[nn.Module]:
    """A network in training mode, or not, for as long as the block lasts."""
    before = model.training
    try:
        yield model.train(mode)
    finally:
        model.train(before)


def eval_mode(model: nn.Module) -> Any:
    """A network out of training mode for as long as the block lasts."""
    return train_mode(model, False)


def rand_log_normal(
    shape: Any, loc: float = 0.0, scale: float = 1.0, device: Any = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers whose logarithms are normal."""
    return (torch.randn(shape, device=device, dtype=dtype) * scale + loc).exp()


def rand_log_uniform(
    shape: Any, min_value: float, max_value: float, device: Any = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers whose logarithms are even."""
    low, high = torch.tensor([min_value, max_value]).log().tolist()
    even: Tensor = torch.rand(shape, device=device, dtype=dtype) * (high - low) + low
    return even.exp()


class FolderOfImages(torch.utils.data.Dataset[Any]):
    """The pictures of a folder and all below it."""

    IMG_EXTENSIONS: ClassVar[set[str]] = {
        ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"
    }  # fmt: skip

    def __init__(self, root: str | Path, transform: Any = None) -> None:
        super().__init__()
        self.root = Path(root)
        self.transform = transform or (lambda picture: picture)
        self.paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in self.IMG_EXTENSIONS)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int) -> Any:
        with Image.open(self.paths[key]) as picture:
            return (self.transform(picture.convert("RGB")),)
