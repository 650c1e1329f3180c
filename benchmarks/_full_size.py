"""Checkpoints at full size with random weights, LoRAs for them, prompts; a server's memory looked at from outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import torch

from limner.weights import save
from tests.models.checkpoints import real_header

BLOCK = 1 << 24
"""Random numbers that are made once and written over and over: only their size and spread matter."""


def checkpoint(path: Path, header: str) -> int:
    """Write a file with the tensors of a published one, float16, tensor by tensor; its bytes."""
    found = real_header(header)
    generator = np.random.default_rng(0)
    block = (generator.standard_normal(BLOCK, dtype=np.float32) * 0.02).astype(np.float16).tobytes()
    entries: dict[str, Any] = {}
    place = 0
    for name in found:
        shape, wide = found.shape(name), found.dtype(name) == torch.int64
        length = prod(shape) * (8 if wide else 2)
        kind = "I64" if wide else "F16"
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [place, place + length]}
        place += length
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in entries.items():
            length = entry["data_offsets"][1] - entry["data_offsets"][0]
            if entry["dtype"] == "I64":
                file.write(np.arange(prod(found.shape(name)), dtype=np.int64).tobytes())
                continue
            for start in range(0, length, len(block)):
                file.write(block[: min(len(block), length - start)])
    return path.stat().st_size


def lora(path: Path, header: str, seed: int, rank: int = 8) -> None:
    """Write a LoRA of every attention projection of a published file's diffusion model."""
    found, prefix = real_header(header), "model.diffusion_model."
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in found:
        if name.startswith(prefix) and ".attn" in name and name.endswith(".weight") and len(found.shape(name)) == 2:
            rows, columns = found.shape(name)
            key = "diffusion_model." + name.removeprefix(prefix).removesuffix(".weight")
            tensors[key + ".lora_up.weight"] = torch.randn(rows, rank, generator=generator).half() * 0.01
            tensors[key + ".lora_down.weight"] = torch.randn(rank, columns, generator=generator).half() * 0.01
    save(path, tensors)


def prompt(checkpoint: str, lora: str | None, seed: int, side: int = 128, text: str = "a house") -> dict[str, Any]:
    """One small picture in one step."""
    model = ["lora", 0] if lora else ["load", 0]
    clip = ["lora", 1] if lora else ["load", 1]
    nodes: dict[str, Any] = {
        "load": ("CheckpointLoaderSimple", {"ckpt_name": checkpoint}),
        "yes": ("CLIPTextEncode", {"clip": clip, "text": text}),
        "no": ("CLIPTextEncode", {"clip": clip, "text": ""}),
        "latent": ("EmptyLatentImage", {"width": side, "height": side, "batch_size": 1}),
        "sample": (
            "KSampler",
            {"model": model, "positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["latent", 0], "seed": seed,
             "steps": 1, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["load", 2]}),
        "show": ("PreviewImage", {"images": ["decode", 0]}),
    }  # fmt: skip
    if lora:
        more = {"model": ["load", 0], "clip": ["load", 1], "lora_name": lora}
        nodes["lora"] = ("LoraLoader", {**more, "strength_model": 1.0, "strength_clip": 1.0})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def private(pid: int) -> int:
    """Bytes of a process that belong to no file."""
    return _status(pid, "RssAnon:")


def resident(pid: int) -> int:
    """Bytes of a process in memory, file pages among them."""
    return _status(pid, "VmRSS:")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


class Watch:
    """The highest private memory of a process, looked at from outside every ten milliseconds."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure, self._stop, self.peak = measure, Event(), 0
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, self._measure())
