"""LoRA files for FLUX.1 that call their tensors otherwise: those of Black Forest Labs' controls, and those of USO.

The control LoRAs (Canny and Depth, Black Forest Labs 2024) turn FLUX.1 dev into a network that is shown a picture
beside the latent: the first layer gets twice as many inputs, biases change as well, and norms are replaced. USO's (Wu
et al. 2025, "USO") names the adapters of XLabs' attention processors: one for each stream of a block of two, of one
stream for the part of a layer that makes q, k and v.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from limner.models.family import LoraLayout, Mark, has
from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.targets import Part, Target

_NATIVE = "diffusion_model."


def _control(header: CheckpointHeader) -> CheckpointHeader:
    """A control LoRA: changes of biases and whole norms by their suffixes, and how large the first layer becomes."""

    def known(name: str) -> str:
        name = f"{name}.set_weight" if name.endswith("_norm.scale") else name
        return _NATIVE + name.replace(".lora_B.bias", ".diff_b")

    shape = header.shape("img_in.lora_B.weight")[0], header.shape("img_in.lora_A.weight")[1]
    named = header.rename(known)
    size = LazyTensor.of(torch.tensor(shape))
    return replace(named, tensors={**named.tensors, f"{_NATIVE}img_in.reshape_weight": size})


CONTROL = LoraLayout(
    (has("img_in.lora_A.weight"), has("img_in.lora_B.weight"), has("single_blocks.0.norm.key_norm.scale")), _control
)

_USO = re.compile(r"(?P<block>(double|single)_blocks\.\d+)\.processor\.(?P<layer>qkv|proj)_lora(?P<stream>[12]?)\.")
_USO_LAYERS = {
    ("qkv", "1"): "img_attn.qkv", ("qkv", "2"): "txt_attn.qkv",
    ("proj", "1"): "img_attn.proj", ("proj", "2"): "txt_attn.proj",
    ("qkv", ""): "linear1_qkv", ("proj", ""): "linear2",
}  # fmt: skip


def _uso(header: CheckpointHeader) -> CheckpointHeader:
    """USO's LoRA by the layers that its processors stand beside."""

    def known(name: str) -> str:
        found = _USO.search(name)
        if found is None:
            return name
        layer = _USO_LAYERS[found["layer"], found["stream"]]
        rest = re.sub(r"^(up|down)\.", r"lora_\1.", name[found.end() :])
        return f"{_NATIVE}{found['block']}.{layer}.{rest}"

    return header.rename(known)


USO = LoraLayout(
    (Mark("a LoRA of an attention processor", lambda header: any(".processor.qkv_lora" in name for name in header)),),
    _uso,
)

LAYOUTS = (CONTROL, USO)


def parts(config: Any, names: Sequence[str]) -> Mapping[str, Target]:  # noqa: ARG001
    """`linear1_qkv`: the part of `linear1` that makes q, k and v."""
    width = config.hidden_size
    return {
        f"single_blocks.{number}.linear1_qkv": Part(f"single_blocks.{number}.linear1.weight", 0, 3 * width)
        for number in range(config.depth_single_blocks)
    }
