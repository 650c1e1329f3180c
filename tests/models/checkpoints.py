"""Small checkpoints as files, and the headers of real ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch

from limner.memory import DefaultSettings, MemoryManager
from limner.weights import CheckpointHeader, save
from tests.models.make import (
    TINY_CLIP,
    TINY_KL,
    TINY_UNET,
    tiny_bpe,
    tiny_clip,
    tiny_t5,
    tiny_unet,
    tiny_vae,
    tiny_words,
)

HEADERS = Path(__file__).resolve().parents[1] / "headers"
CONFIG = {
    "unet": {"num_heads": TINY_UNET.num_heads, "norm_groups": TINY_UNET.norm_groups},
    "vae": {"norm_groups": TINY_KL.norm_groups},
    "clip_l": {
        "num_attention_heads": TINY_CLIP.num_attention_heads,
        "bos_token_id": 516,
        "eos_token_id": 517,
        "pad_token_id": 517,
    },
}


def memory(**settings) -> MemoryManager:
    """A manager that computes in float32 on the CPU."""
    return MemoryManager(DefaultSettings(force_fp32=True, cpu=True, **settings))


def tensors(**unet) -> dict[str, torch.Tensor]:
    """Every tensor of a small checkpoint, in the reference's layout."""
    parts = {
        "model.diffusion_model.": tiny_unet(**unet),
        "cond_stage_model.transformer.": tiny_clip(),
        "first_stage_model.": tiny_vae(),
    }
    return {prefix + name: value for prefix, part in parts.items() for name, value in part.state_dict().items()}


def metadata() -> dict[str, str]:
    return {"config": json.dumps(CONFIG), "tokenizer_json": tiny_bpe().to_str()}


def checkpoint(folder: Path, contents: dict[str, torch.Tensor] | None = None, name: str = "tiny.safetensors") -> Path:
    save(folder / name, tensors() if contents is None else contents, metadata())
    return folder / name


CLIP_SAYS = {name: CONFIG["clip_l"][name] for name in ("num_attention_heads", "bos_token_id", "eos_token_id")}


def text_files(folder: Path) -> dict[str, Path]:
    """CLIP-L, CLIP-G and T5 as files of their own in a folder: l, g and t5. Their configs say which is which."""
    bpe, words = tiny_bpe().to_str(), tiny_words().to_str()
    large = tiny_clip(projection_dim=8)
    with torch.no_grad():
        large.text_model.embeddings.token_embedding.weight.mul_(0.5)
    made = {
        "l": (tiny_clip(), {"clip_l": {**CLIP_SAYS, "pad_token_id": 517}}, bpe),
        "g": (large, {"clip_g": {**CLIP_SAYS, "pad_token_id": 0}}, bpe),
        "t5": (tiny_t5(), {"t5xxl": {}}, words),
    }
    paths = {name: folder / f"{name}.safetensors" for name in made}
    for name, (network, said, tokenizer) in made.items():
        save(paths[name], network.state_dict(), {"config": json.dumps(said), "tokenizer_json": tokenizer})
    return paths


def real_header(name: str) -> CheckpointHeader:
    """Names and shapes of a published checkpoint."""
    return CheckpointHeader.unstripped(json.loads(gzip.decompress((HEADERS / f"{name}.json.gz").read_bytes())), name)
