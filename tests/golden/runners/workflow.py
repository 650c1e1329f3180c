"""Whole workflows through the engine, in float32: the latent that was saved, and the picture.

The checkpoint is made from the manifest of a real one by the weights' rule, once, into LIMNER_GOLDEN_CACHE (by default
~/.cache/limner/golden): 2.1 GB and a minute for Stable Diffusion 1.5.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from limner.cli.assemble import Parts, assembled
from limner.cli.run import execute
from limner.settings import Settings
from tests.golden import weights
from tests.golden.case import Check, UnsupportedCaseError

LATENT_TOLERANCE = 0.01
PICTURE_TOLERANCE = 10 ** (-45 / 20)  # 45 dB: the root of the mean squared difference, of pixels in 0..1
FIXTURES = Path(__file__).resolve().parents[2] / "headers"
SUFFIX = ".workflow.json"


def workflow(path: Path, folder: Path) -> list[Check]:
    """Run a prompt and hold what it saved against what the reference saved."""
    prompt = json.loads(path.read_text())
    meta = json.loads(path.with_name(path.name.removesuffix(SUFFIX) + ".meta.json").read_text())
    with tempfile.TemporaryDirectory() as base:
        _furnish(Path(base), folder, prompt, meta)
        settings = Settings(base_directory=base, cpu=True, force_fp32=True)
        with assembled(settings, owned=False) as parts:
            _refuse_unknown(prompt, parts)
            written = [Path(line) for line in execute(parts, prompt)]
        return [_compared(folder / expected, written) for expected in meta["outputs"].values()]


def _refuse_unknown(prompt: Mapping[str, Any], parts: Parts) -> None:
    unknown = {call["class_type"] for call in prompt.values()} - set(parts.registry.kinds())
    if unknown:
        raise UnsupportedCaseError(f"no node {', '.join(sorted(unknown))}")


def _furnish(base: Path, folder: Path, prompt: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Put the models and pictures that the prompt names into the folders under `base`."""
    rule = meta["checkpoint"]
    checkpoint = _checkpoint(_manifest(folder, rule["manifest"]), rule["seed"], rule["dtype"])
    for call in prompt.values():
        if "ckpt_name" in call["inputs"]:
            _place(base / "models" / "checkpoints", call["inputs"]["ckpt_name"]).symlink_to(checkpoint)
        if call["class_type"] == "LoadImage":
            name = call["inputs"]["image"]
            _place(base / "input", name).write_bytes((folder / name).read_bytes())
    if lora := meta.get("lora"):
        made = weights.tensors(weights.read_manifest(folder / lora["manifest"]), lora["seed"])
        tensors = {key: torch.from_numpy(array).to(getattr(torch, lora["dtype"])) for key, array in made}
        save_file(tensors, _place(base / "models" / "loras", lora["file"]))


def _place(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _manifest(folder: Path, named: str) -> Path:
    """The manifest beside the folder of cases, else among this project's own headers."""
    found = [folder.parent.parent / named, FIXTURES / Path(named).name]
    for path in found:
        if path.exists():
            return path
    raise UnsupportedCaseError(f"no manifest {named} to make the checkpoint from")


def _checkpoint(manifest: Path, seed: int, dtype: str) -> Path:
    """The checkpoint of a manifest, from the cache or made now."""
    cache = Path(os.environ.get("LIMNER_GOLDEN_CACHE") or Path.home() / ".cache" / "limner" / "golden")
    path = cache / f"{manifest.name.split('.')[0]}-{seed}-{dtype}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        kind = getattr(torch, dtype)
        made = weights.tensors(weights.read_manifest(manifest), seed)
        tensors = {
            key: value.to(kind) if value.is_floating_point() else value
            for key, value in ((key, torch.from_numpy(array)) for key, array in made)
        }
        partial = path.with_suffix(f".{os.getpid()}.part")
        save_file(tensors, partial)
        partial.replace(path)
    return path


def _compared(expected: Path, written: list[Path]) -> Check:
    """The last file of the same kind against the expected one: of a batch, the reference kept the last picture."""
    if expected.suffix == ".png":
        found = next((path for path in reversed(written) if path.suffix == ".png"), None)
        return Check("picture", _picture_error(found, expected) if found else float("nan"), PICTURE_TOLERANCE)
    found = next((path for path in reversed(written) if path.suffix == ".latent"), None)
    error = float("nan")
    if found is not None:
        got, wanted = load_file(found)["latent_tensor"], load_file(expected)["latent_tensor"]
        error = (got - wanted).abs().max().item() if got.shape == wanted.shape else float("inf")
    return Check("latent", error, LATENT_TOLERANCE)


def _picture_error(found: Path, expected: Path) -> float:
    got, wanted = (np.asarray(Image.open(path), np.float64) / 255 for path in (found, expected))
    return float(np.sqrt(np.mean((got - wanted) ** 2))) if got.shape == wanted.shape else float("inf")


RUNNERS = {f"workflow-*/*{SUFFIX}": workflow}
