"""The starter model, as its file has it, and a network of few layers, watched."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

import limner
from limner.memory import DefaultSettings, MemoryManager
from limner.models.load import Checkpoint, load_checkpoint
from limner.quantize.samples import Sample, latent_of
from limner.quantize.watch import Watch, watched
from limner.weights import ops

STARTER = Path(limner.__file__).parent / "assets" / "limner-starter.safetensors"
QUICK = Sample("a red apple, 3d style", seed=1, width=64, height=64, steps=2, cfg=3.0)


@cache
def starter() -> Checkpoint:
    return load_checkpoint(STARTER, MemoryManager(DefaultSettings(force_fp32=True, cpu=True)))


@cache
def watched_starter() -> Watch:
    """Eight prompts of different words, seeds, sizes and guidance; two of their passes are kept."""
    watch, loaded = Watch(keep=2), starter()
    for seed, thing in enumerate(("apple", "fox", "car", "star", "house", "owl", "rocket", "cactus")):
        sample = replace(QUICK, prompt=f"a {thing}", seed=seed, width=48 + 16 * (seed % 2), cfg=1.5 + seed / 2, steps=1)
        latent_of(watched(loaded.model, watch), loaded.clip, sample)
    return watch


class Small(nn.Module):
    """A convolution and two matrices, of which the last is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = ops.Conv2d(2, 4, 3, padding=1)
        self.matrix = ops.Linear(4, 8)
        self.idle = ops.Linear(8, 8)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.matrix(self.picture(x).flatten(2).mT) * scale


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small().requires_grad_(False).eval()
