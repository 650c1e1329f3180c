"""Latents from and to files."""

from __future__ import annotations

import json
from typing import Annotated

import torch

from limner.graph import FileIn, Latent, Run, Ui, node
from limner.nodes.saving import Extra, Prompt
from limner.weights import CheckpointHeader, save

MARKER = "latent_format_version_0"
"""An empty tensor in files whose latents are as nodes pass them; older ones hold them as the model of SD1 sees them."""
OLD_SCALE = 1.0 / 0.18215


@node("SaveLatent", category="_for_testing", title="SaveLatent", output_node=True)
def save_latent(
    run: Run,
    samples: Latent,
    filename_prefix: str = "latents/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """A latent as a file in the output folder, with prompt and workflow inside; masks are not kept."""
    target = run.store.files.next_name("output", filename_prefix, "latent")
    metadata = None
    if not run.settings.disable_metadata:
        texts = {str(key): json.dumps(value) for key, value in (extra_pnginfo or {}).items()}
        metadata = {"prompt": "" if prompt is None else json.dumps(prompt), **texts}
    tensors = {"latent_tensor": samples["samples"].contiguous(), MARKER: torch.tensor([])}
    save(target.path(), tensors, metadata)
    return Ui({"latents": [{"filename": target.name(), "subfolder": target.subfolder, "type": "output"}]})


@node("LoadLatent", category="_for_testing", title="LoadLatent")
def load_latent(run: Run, latent: Annotated[str, FileIn("input", suffixes=(".latent",))]) -> Latent:
    """A latent of the input folder."""
    header = CheckpointHeader.read(run.store.files.existing(latent))
    scale = 1.0 if MARKER in header else OLD_SCALE
    return {"samples": header.tensor("latent_tensor").float() * scale}


@load_latent.changes_when
def _latent_digest(run: Run, latent: str) -> str:
    digest: str = run.store.files.digest(run.store.files.existing(latent))
    return digest
