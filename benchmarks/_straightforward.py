"""Blocks of transformers in the order of their description, everything kept until the end.

What the memory of a block is held against: the same layers, the same numbers, no thought of lifetimes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.models.layers.attention import optimized_attention
from limner.models.layers.hooks import Hooks


def scaled(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """normed · (1 + scale) + shift."""
    return torch.addcmul(shift, normed, 1 + scale)


def turned(x: Tensor, rotation: Tensor) -> Tensor:
    """Pairs of features turned. rotation: (1, S, 1, width / 2, 2), cosine and sine."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(rotation)).flatten(-2).to(x.dtype)


def qwen_image(block: Any, image: Tensor, text: Tensor, temb: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """A block of Qwen-Image: text, then patches."""
    attn = block.attn
    image_vectors, text_vectors = (mod(temb)[:, None].chunk(6, dim=-1) for mod in (block.img_mod, block.txt_mod))

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (attn.heads, -1))

    image_normed, text_normed = block.img_norm1(image), block.txt_norm1(text)
    image_in, text_in = scaled(image_normed, *image_vectors[:2]), scaled(text_normed, *text_vectors[:2])
    image_q, image_k, image_v = attn.to_q(image_in), attn.to_k(image_in), attn.to_v(image_in)
    text_q, text_k, text_v = attn.add_q_proj(text_in), attn.add_k_proj(text_in), attn.add_v_proj(text_in)
    q = torch.cat((attn.norm_added_q(heads(text_q)), attn.norm_q(heads(image_q))), dim=1)
    k = torch.cat((attn.norm_added_k(heads(text_k)), attn.norm_k(heads(image_k))), dim=1)
    v = torch.cat((text_v, image_v), dim=1)
    out = optimized_attention(
        turned(q, rotation).flatten(2), turned(k, rotation).flatten(2), v, attn.heads, transformer_options=Hooks({})
    )
    length = text.shape[1]
    image_out, text_out = attn.to_out[0](out[:, length:]), attn.to_add_out(out[:, :length])
    image = torch.addcmul(image, image_vectors[2], image_out)
    text = torch.addcmul(text, text_vectors[2], text_out)
    image_later = scaled(block.img_norm2(image), *image_vectors[3:5])
    text_later = scaled(block.txt_norm2(text), *text_vectors[3:5])
    image_inner = block.img_mlp.net[0].proj(image_later)
    image_fed = block.img_mlp.net[2](F.gelu(image_inner, approximate="tanh"))
    text_inner = block.txt_mlp.net[0].proj(text_later)
    text_fed = block.txt_mlp.net[2](F.gelu(text_inner, approximate="tanh"))
    return torch.addcmul(text, text_vectors[5], text_fed), torch.addcmul(image, image_vectors[5], image_fed)


def _normed_heads(attn: Any, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)) for part in packed.chunk(3, dim=-1))
    return attn.norm.query_norm(q), attn.norm.key_norm(k), v


def flux_double(block: Any, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    """A block of FLUX.1 of two streams: patches, then text."""
    rotation = pe[:, 0, :, None, :, :, 0].contiguous()
    (img_now, img_later), (txt_now, txt_later) = block.img_mod(vec), block.txt_mod(vec)
    img_in = scaled(block.img_norm1(img), img_now.shift, img_now.scale)
    img_packed = block.img_attn.qkv(img_in)
    img_q, img_k, img_v = _normed_heads(block.img_attn, img_packed)
    txt_in = scaled(block.txt_norm1(txt), txt_now.shift, txt_now.scale)
    txt_packed = block.txt_attn.qkv(txt_in)
    txt_q, txt_k, txt_v = _normed_heads(block.txt_attn, txt_packed)
    q, k, v = torch.cat((txt_q, img_q), dim=1), torch.cat((txt_k, img_k), dim=1), torch.cat((txt_v, img_v), dim=1)
    q, k = turned(q, rotation), turned(k, rotation)
    out = optimized_attention(q.flatten(2), k.flatten(2), v.flatten(2), block.num_heads, transformer_options=Hooks({}))
    length = txt.shape[1]
    img = img + img_now.gate * block.img_attn.proj(out[:, length:])
    img_fed = block.img_mlp(scaled(block.img_norm2(img), img_later.shift, img_later.scale))
    img = img + img_later.gate * img_fed
    txt = txt + txt_now.gate * block.txt_attn.proj(out[:, :length])
    txt_fed = block.txt_mlp(scaled(block.txt_norm2(txt), txt_later.shift, txt_later.scale))
    return img, txt + txt_later.gate * txt_fed


def flux_single(block: Any, x: Tensor, vec: Tensor, pe: Tensor) -> Tensor:
    """A block of FLUX.1 of one stream."""
    rotation = pe[:, 0, :, None, :, :, 0].contiguous()
    by, _ = block.modulation(vec)
    shown = scaled(block.pre_norm(x), by.shift, by.scale)
    packed, inner = block.linear1(shown).split((3 * block.hidden_size, block.mlp_hidden_dim), dim=-1)
    q, k, v = (part.unflatten(-1, (block.num_heads, -1)) for part in packed.chunk(3, dim=-1))
    q, k = turned(block.norm.query_norm(q), rotation), turned(block.norm.key_norm(k), rotation)
    out = optimized_attention(q.flatten(2), k.flatten(2), v.flatten(2), block.num_heads, transformer_options=Hooks({}))
    both = torch.cat((out, block.mlp_act(inner)), dim=2)
    return x + by.gate * block.linear2(both)
