"""One safetensors file in the layout of a Stable Diffusion 1 checkpoint, from the trained parts.

python export.py            the averaged parameters, float16, into the package
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from common import DATA, HERE, RUNS
from diffusion import UNET, averaged
from safetensors.torch import save_file
from tokenizer import END, START
from tokenizers import Tokenizer
from torch import Tensor
from vae import CONFIG as VAE
from vae import build as build_vae

TARGET = HERE.parent / "src/limner/assets/limner-starter.safetensors"
DEFAULTS = {
    "width": 128, "height": 128, "steps": 20, "cfg": 3.0, "sampler": "dpmpp_2m", "scheduler": "karras",
    "prompt": "a red apple, 3d style", "negative": "",
}  # fmt: skip
ATTRIBUTION = (
    "Trained from nothing on pictures of Fluent Emoji (Copyright Microsoft Corporation, MIT License) and Noto Emoji "
    "(Copyright Google LLC, Apache License 2.0), with names of unicode-emoji-json (Copyright Mu-An Chiou, MIT "
    "License). The weights are under the Apache License 2.0. See MODEL_CARD.md."
)


def tensors(run: Path) -> dict[str, Tensor]:
    """Every tensor under its name in the file; `v_pred` marks velocity prediction."""
    unet, text = averaged(run)
    vae = build_vae()
    vae.load_state_dict(torch.load(DATA / "vae.pt"))
    parts = {
        "model.diffusion_model.": unet.state_dict(),
        "first_stage_model.": vae.state_dict(),
        "cond_stage_model.transformer.": text.state_dict(),
    }
    found = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    half = {name: value.to(torch.float16).contiguous() for name, value in found.items()}
    if broken := [name for name, value in half.items() if not value.isfinite().all()]:
        raise SystemExit(f"not finite in float16: {broken}")
    return half | {"v_pred": torch.zeros(0)}


def metadata() -> dict[str, str]:
    """What shapes cannot tell, the tokenizer, how to use it, and whose pictures it has seen."""
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    config = {
        "unet": {"num_head_channels": UNET.num_head_channels},
        "clip_l": {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end},
        "vae": {"norm_groups": VAE.norm_groups},
    }
    return {
        "config": json.dumps(config),
        "tokenizer_json": tokenizer.to_str(),
        "limner_defaults": json.dumps(DEFAULTS),
        "modelspec.title": "Limner starter",
        "modelspec.license": "Apache-2.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.prediction_type": "v",
        "modelspec.resolution": "128x128",
        "attribution": ATTRIBUTION,
    }


def main() -> None:
    """Write the file and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=RUNS / "diffusion.pt")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    found = tensors(args.run)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(found, args.out, metadata())
    args.out.chmod(0o644)
    counts: dict[str, int] = {}
    for name, value in found.items():
        counts[name.split(".")[0]] = counts.get(name.split(".")[0], 0) + value.numel()
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {len(found)} tensors, parameters {counts}")


if __name__ == "__main__":
    main()
