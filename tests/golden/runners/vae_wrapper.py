"""The VAE as nodes call it: pictures in 0..1, cropping, whole and in tiles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from limner.memory import DefaultSettings, MemoryManager
from limner.models.load_vae import vae_of
from limner.weights import CheckpointHeader
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported


@torch.inference_mode()
def wrapper(path: Path, folder: Path) -> list[Check]:
    """decode, encode, and the tiled ones, whose tile and overlap are in the output's name."""
    case = Case(path, folder)
    if not any(name.startswith("decode_tiled") for name in case.expected):
        raise UnsupportedCaseError("A bare autoencoder.")
    header = CheckpointHeader.of(case.state_dict(), {"config": json.dumps(case.config)})
    if "decoder.conv_in.weight" not in header or len(header.shape("decoder.conv_in.weight")) != 4:
        raise UnsupportedCaseError("No autoencoder of pictures.")
    vae = vae_of(header, MemoryManager(DefaultSettings(force_fp32=True, cpu=True)))
    checks = []
    for name in case.expected:
        tiled = re.search(r"_tiled_(\d+)_(\d+)", name)
        tile, overlap = (int(number) for number in tiled.groups()) if tiled else (0, 0)
        if name.startswith("decode"):
            latent = case.inputs["latent"]
            found = vae.decode_tiled(latent, tile, tile, overlap) if tiled else vae.decode(latent)
        elif name.startswith("encode"):
            pixels = case.inputs["pixels"]
            found = vae.encode_tiled(pixels, tile, tile, overlap) if tiled else vae.encode(pixels)
        else:
            checks.append(unsupported(name))
            continue
        checks.append(case.check(name, found))
    return checks


RUNNERS = {"vae-*/wrapper*": wrapper}
