"""A hundred prompts through Limner itself, as one picture to be judged by eye.

python judge.py                      runs/judge.png from the packaged file, in reading order of the printed list
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from captions import with_article
from common import RUNS
from export import TARGET
from grids import save_grid
from prepare import read_concepts
from safetensors import safe_open

from limner.memory import MemoryManager
from limner.models.load import load_checkpoint
from limner.sampling.run import ksample
from limner.settings import Settings


def hundred(style: str) -> list[str]:
    """Every second concept of concepts.txt by its shortest name."""
    names = [(concept.others or (concept.name,))[0] for concept in read_concepts()[::2]]
    return [with_article(name) + (f", {style} style" if style else "") for name in names[:100]]


def main() -> None:
    """Draw, write, list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=TARGET)
    parser.add_argument("--out", type=Path, default=RUNS / "judge.png")
    parser.add_argument("--style", default="3d")
    parser.add_argument("--prompt", action="append", help="instead of the hundred")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sampler")
    parser.add_argument("--scheduler")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cfg", type=float)
    args = parser.parse_args()

    with safe_open(args.file, "pt") as file:
        chosen = json.loads(file.metadata()["limner_defaults"])
    for name in ("sampler", "scheduler", "steps", "cfg"):
        chosen[name] = getattr(args, name) or chosen[name]
    prompts = args.prompt or hundred(args.style)
    model, clip, vae = load_checkpoint(args.file, MemoryManager(Settings()))
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    pictures = []
    for number, prompt in enumerate(prompts):
        words = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        latent = {"samples": torch.zeros(1, 4, chosen["height"] // 8, chosen["width"] // 8)}
        done = ksample(model, args.seed + number, chosen["steps"], chosen["cfg"], chosen["sampler"],
                       chosen["scheduler"], words, empty, latent)  # fmt: skip
        pictures.append((vae.decode(done["samples"])[0].clamp(0, 1) * 255).round().byte().numpy())
    save_grid(np.stack(pictures), 10, args.out)
    for start in range(0, len(prompts), 10):
        print(" | ".join(prompts[start : start + 10]))


if __name__ == "__main__":
    main()
