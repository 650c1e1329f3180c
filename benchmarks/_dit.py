"""Diffusion transformers and UNets of the diffusers library, ours with the same weights, and calls of both.

One row a family, at any width, depth and size: what the benchmarks of memory and of speed are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limner.memory.devices import has_native_bf16

Call = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Size:
    """How large. width: of the stream, in heads of 128. blocks: of two streams and of one. side: of the picture, in
    latent cells. tokens: of the text. batch: pictures."""

    heads: int = 4
    blocks: tuple[int, int] = (2, 2)
    side: int = 80
    tokens: int = 80
    batch: int = 1

    @property
    def width(self) -> int:
        """Of the stream."""
        return self.heads * 128


@dataclass(frozen=True)
class Pair:
    """The same network twice. call_ours, call_theirs: one pass of each. stream: bytes of the patches' stream."""

    ours: nn.Module
    theirs: nn.Module
    call_ours: Call
    call_theirs: Call
    stream: int


def converted(theirs: nn.Module, dtype: torch.dtype, **config: Any) -> nn.Module:
    """Our network with the weights of a diffusers module."""
    from tests.reference.make import ours

    return ours(theirs.state_dict(), **config).to(dtype).requires_grad_(False)


def empty(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """A module with random weights of this dtype, made without a copy in another."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        made = build()
    finally:
        torch.set_default_dtype(before)
    return made.eval().requires_grad_(False)


def places(rows: int, columns: int) -> Tensor:
    """Places of patches as diffusers' Flux takes them."""
    row, column = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    return torch.stack((torch.zeros_like(row), row, column), dim=-1).flatten(0, 1)


def cut(x: Tensor) -> Tensor:
    """(B, C, H, W) → patches (B, N, 4 C)."""
    batch, channels, height, width = x.shape
    split = x.view(batch, channels, height // 2, 2, width // 2, 2)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def flux(size: Size, dtype: torch.dtype) -> Pair:
    """FLUX.1 dev."""
    from diffusers import FluxTransformer2DModel

    theirs = empty(
        lambda: FluxTransformer2DModel(
            num_layers=size.blocks[0], num_single_layers=size.blocks[1], num_attention_heads=size.heads,
            joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True,
        ),
        dtype,
    )  # fmt: skip
    x, text = torch.randn(size.batch, 16, size.side, size.side, dtype=dtype), _text(size, 4096, dtype)
    vector, time, guidance = torch.randn(size.batch, 768, dtype=dtype), _time(size), torch.full((size.batch,), 3.5)
    patches, ids = cut(x), places(size.side // 2, size.side // 2)
    return Pair(
        converted(theirs, dtype),
        theirs,
        lambda network: network(x, time, context=text, y=vector, guidance=guidance),
        lambda network: network(
            hidden_states=patches, encoder_hidden_states=text, pooled_projections=vector, timestep=time.to(dtype),
            img_ids=ids, txt_ids=torch.zeros(size.tokens, 3), guidance=guidance, return_dict=False,
        ),
        size.batch * patches.shape[1] * size.width * dtype.itemsize,
    )  # fmt: skip


def chroma(size: Size, dtype: torch.dtype) -> Pair:
    """Chroma. Its table of modulations is at full depth whatever the depth; it is small beside the stream."""
    from diffusers import ChromaTransformer2DModel

    theirs = empty(
        lambda: ChromaTransformer2DModel(
            num_layers=size.blocks[0], num_single_layers=size.blocks[1], num_attention_heads=size.heads,
            joint_attention_dim=4096, approximator_hidden_dim=256,
        ),
        dtype,
    )  # fmt: skip
    x, text, time = (
        torch.randn(size.batch, 16, size.side, size.side, dtype=dtype),
        _text(size, 4096, dtype),
        _time(size),
    )
    patches, ids = cut(x), places(size.side // 2, size.side // 2)
    return Pair(
        converted(theirs, dtype),
        theirs,
        lambda network: network(x, time, context=text),
        lambda network: network(
            hidden_states=patches, encoder_hidden_states=text, timestep=time.to(dtype), img_ids=ids,
            txt_ids=torch.zeros(size.tokens, 3), return_dict=False,
        ),
        size.batch * patches.shape[1] * size.width * dtype.itemsize,
    )  # fmt: skip


def qwen_image(size: Size, dtype: torch.dtype) -> Pair:
    """Qwen-Image."""
    from diffusers import QwenImageTransformer2DModel

    theirs = empty(
        lambda: QwenImageTransformer2DModel(num_layers=sum(size.blocks), num_attention_heads=size.heads), dtype
    )
    x, text, time = (
        torch.randn(size.batch, 16, size.side, size.side, dtype=dtype),
        _text(size, 3584, dtype),
        _time(size),
    )
    patches, grid = cut(x), (1, size.side // 2, size.side // 2)
    return Pair(
        converted(theirs, dtype),
        theirs,
        lambda network: network(x, time, context=text),
        lambda network: network(
            hidden_states=patches, encoder_hidden_states=text, timestep=time.to(dtype),
            img_shapes=[[grid]] * size.batch, return_dict=False,
        ),
        size.batch * patches.shape[1] * size.width * dtype.itemsize,
    )  # fmt: skip


def sd3(size: Size, dtype: torch.dtype, **kind: Any) -> Pair:
    """Stable Diffusion 3. Its heads are 64 wide."""
    from diffusers import SD3Transformer2DModel

    theirs = empty(
        lambda: SD3Transformer2DModel(
            num_layers=sum(size.blocks), num_attention_heads=2 * size.heads, caption_projection_dim=size.width,
            joint_attention_dim=4096, pooled_projection_dim=2048, pos_embed_max_size=96, **kind,
        ),
        dtype,
    )  # fmt: skip
    x, text, time = (
        torch.randn(size.batch, 16, size.side, size.side, dtype=dtype),
        _text(size, 4096, dtype),
        _time(size),
    )
    vector = torch.randn(size.batch, 2048, dtype=dtype)
    return Pair(
        converted(theirs, dtype),
        theirs,
        lambda network: network(x, time, context=text, y=vector),
        lambda network: network(x, text, vector, time, return_dict=False),
        size.batch * (size.side // 2) ** 2 * size.width * dtype.itemsize,
    )


def sd35_medium(size: Size, dtype: torch.dtype) -> Pair:
    """Stable Diffusion 3.5 medium, whose first blocks also attend over the patches alone."""
    return sd3(size, dtype, qk_norm="rms_norm", dual_attention_layers=tuple(range(sum(size.blocks) // 2)))


def sdxl(size: Size, dtype: torch.dtype) -> Pair:
    """Stable Diffusion XL at any width: the first level has size.heads · 80 channels (320 with four)."""
    from diffusers import UNet2DConditionModel

    first = size.heads * 80
    widths = (first, 2 * first, 4 * first)
    theirs = empty(
        lambda: UNet2DConditionModel(
            block_out_channels=widths, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=tuple(width // 64 for width in widths), cross_attention_dim=2048,
            transformer_layers_per_block=(1, *size.blocks), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ),
        dtype,
    )  # fmt: skip
    x, text = torch.randn(size.batch, 4, size.side, size.side, dtype=dtype), _text(size, 2048, dtype)
    pooled, time = torch.randn(size.batch, 1280, dtype=dtype), _time(size) * 999
    numbers = torch.zeros(size.batch, 6)
    from limner.models.adm import sines

    y = torch.cat((pooled, sines([0.0] * 6).expand(size.batch, -1).to(dtype)), dim=1)
    told = {"text_embeds": pooled, "time_ids": numbers}
    # as the memory manager lays it out
    layout = torch.channels_last if has_native_bf16() else torch.contiguous_format
    laid_out = x.to(memory_format=layout)
    return Pair(
        converted(theirs, dtype).to(memory_format=layout),  # type: ignore[call-overload]
        theirs,
        lambda network: network(laid_out, time, context=text, y=y),
        lambda network: network(x, time, text, added_cond_kwargs=told, return_dict=False),
        size.batch * size.side**2 * first * dtype.itemsize,
    )


def _text(size: Size, width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size.batch, size.tokens, width, dtype=dtype)


def _time(size: Size) -> Tensor:
    return torch.full((size.batch,), 0.5)


FAMILIES: dict[str, Callable[[Size, torch.dtype], Pair]] = {
    "flux": flux,
    "chroma": chroma,
    "qwen_image": qwen_image,
    "sd3": sd3,
    "sd35_medium": sd35_medium,
    "sdxl": sdxl,
}
