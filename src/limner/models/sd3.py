"""Stable Diffusion 3 and 3.5: text to picture by a transformer with two streams, MMDiT. Esser et al. 2024.

A picture's latent is cut into patches of 2×2 cells, and each patch, with its place added, becomes a token. Text tokens
run beside them through the same depth: a block modulates, projects and feeds forward each stream with weights of its
own, but attends over both at once. What modulates is the time and one vector of the whole text. 3.5 normalizes queries
and keys; its medium model lets the patches also attend over themselves alone in the first blocks.

Attribute names are the keys of the published checkpoints (`joint_blocks.0.x_block.attn.qkv.weight` …).

Shape letters: B batch, C latent channels, H and W latent height and width, N patches, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.family import DiffusersLayout, Family, LoraNames, Overrides, Prediction, has
from limner.models.layers import attention
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import add_gated, gelu, split_linear, untouched
from limner.models.layers.shapes import agree, count, shape
from limner.models.lora_keys import weights_alone
from limner.models.text.encode import Encoded, EncodeSettings
from limner.models.text.recipe import RowSettings, TextEncoding, TextPart
from limner.models.unet import timestep_embedding
from limner.sampling.latent_formats import FORMATS
from limner.sampling.wrappers import run_network
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Conv2d, LayerNorm, Linear, RMSNorm
from limner.weights.targets import Part, Target

if TYPE_CHECKING:
    from limner.models.base import BaseModel

HEAD_WIDTH = 64  # of the published models
WIDEST = 2432  # 3.5 large, by which `memory_factor` is

# -- the network ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MMDiTConfig:
    """The dimensions; the defaults are Stable Diffusion 3 medium's. Names are those of the reference's arguments."""

    in_channels: int = 16
    out_channels: int = 16
    patch_size: int = 2
    hidden_size: int = 1536
    depth: int = 24
    num_heads: int = 24
    mlp_width: int = 6144
    adm_in_channels: int = 2048  # width of the vector y
    context_dim: int = 4096  # width of the text
    pos_embed_max_size: int = 192  # patches of a side for which there are positions
    qk_norm: str | None = None  # "rms": queries and keys are normalized
    x_block_self_attn_layers: tuple[int, ...] = ()  # blocks in which patches also attend over themselves alone

    @classmethod
    def from_header(cls, header: CheckpointHeader, overrides: Overrides) -> MMDiTConfig:
        """Read the dimensions off the tensors. overrides: `num_heads`; by rule a head is 64 wide.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        shapes = header.shapes()
        width, channels, patch, _ = shape(shapes, "x_embedder.proj.weight", 4)
        patches = shape(shapes, "pos_embed", 3)[1]
        depth = count(shapes, "joint_blocks.{}.")
        normed = "joint_blocks.0.x_block.attn.ln_q.weight"
        head_width = shape(shapes, normed, 1)[0] if normed in shapes else HEAD_WIDTH
        config = cls(
            in_channels=channels,
            out_channels=shape(shapes, "final_layer.linear.weight", 2)[0] // patch**2,
            patch_size=patch,
            hidden_size=width,
            depth=depth,
            num_heads=int(overrides.get("num_heads") or max(1, width // head_width)),
            mlp_width=shape(shapes, "joint_blocks.0.x_block.mlp.fc1.weight", 2)[0],
            adm_in_channels=shape(shapes, "y_embedder.mlp.0.weight", 2)[1],
            context_dim=shape(shapes, "context_embedder.weight", 2)[1],
            pos_embed_max_size=isqrt(patches),
            qk_norm="rms" if normed in shapes else None,
            x_block_self_attn_layers=tuple(
                number for number in range(depth) if f"joint_blocks.{number}.x_block.attn2.qkv.weight" in shapes
            ),
        )
        for name in (
            "in_channels", "out_channels", "patch_size", "depth", "adm_in_channels", "pos_embed_max_size", "qk_norm",
            "x_block_self_attn_layers",
        ):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        agree(overrides, "num_patches", patches)
        if patches != config.pos_embed_max_size**2:
            raise BadInput(f"pos_embed holds {patches} positions.", why="They must fill a square.")
        if width % config.num_heads or (normed in shapes and width // config.num_heads != head_width):
            raise BadInput(
                f"{width} channels cannot be split into {config.num_heads} attention heads.",
                why=f"A head is {head_width} wide." if normed in shapes else "They must be equally wide.",
                do="Give a `num_heads` that fits in the file's `config`.",
            )
        return config


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift. x: (B, N, D); shift, scale: (B, 1, D)."""
    return torch.addcmul(shift, x, 1 + scale)


class PatchEmbed(nn.Module):
    """The latent cut into patches."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.proj = Conv2d(config.in_channels, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W), sides multiples of a patch's → (B, N, D), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class VectorEmbedder(nn.Module):
    """A vector through two layers."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(width_in, width), nn.SiLU(), Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in) → (B, D)."""
        return self.mlp(x)


class TimestepEmbedder(nn.Module):
    """The time as cosines and sines, through two layers."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(Linear(frequencies, width), nn.SiLU(), Linear(width, width))

    def forward(self, t: Tensor, dtype: torch.dtype, **_: Any) -> Tensor:
        """t: (B,), 0 … 1000 → (B, D) in `dtype`."""
        return self.mlp(timestep_embedding(t, self.frequencies).to(dtype))


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, D) → like x."""
        return self.fc2(gelu(self.fc1(x)))


class SelfAttention(nn.Module):
    """The projections of one stream around an attention, which may be over several streams."""

    def __init__(self, config: MMDiTConfig, *, output: bool = True) -> None:
        super().__init__()
        width, head = config.hidden_size, config.hidden_size // config.num_heads
        self.num_heads = config.num_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width) if output else None
        self.ln_q = RMSNorm(head, eps=1e-6) if config.qk_norm else nn.Identity()
        self.ln_k = RMSNorm(head, eps=1e-6) if config.qk_norm else nn.Identity()

    def normalized(self, parts: list[Tensor]) -> list[Tensor]:
        """Projected q, k and v, (B, N, D) each, with q and k normalized head by head."""
        for place, norm in enumerate((self.ln_q, self.ln_k)):
            parts[place] = norm(parts[place].view(*parts[place].shape[:2], self.num_heads, -1)).flatten(2)
        return parts

    def forward(self, x: Tensor, transformer_options: Mapping[str, Any] | None = None) -> Tensor:
        """Attention of the stream over itself. x: (B, N, D) → like x."""
        q, k, v = self.normalized(list(split_linear(self.qkv, x, 3)))
        hooks = Hooks.of(transformer_options)
        attended = attention.optimized_attention(q, k, v, self.num_heads, transformer_options=hooks)
        del q, k, v
        return self.project(attended)

    def project(self, attended: Tensor) -> Tensor:
        """What the attention gave, projected where the stream goes on."""
        return attended if self.proj is None else self.proj(attended)


class DismantledBlock(nn.Module):
    """One stream's part of a block, in the steps between which the streams meet.

    pre_only: after the attention nothing more is made of the stream. alone: it also attends over itself.
    """

    def __init__(self, config: MMDiTConfig, *, pre_only: bool = False, alone: bool = False) -> None:
        super().__init__()
        width = config.hidden_size
        self.pre_only = pre_only
        self.norm1 = LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(config, output=not pre_only)
        self.attn2 = SelfAttention(config) if alone else None
        if not pre_only:
            self.norm2 = LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.mlp = Mlp(width, config.mlp_width)
        # shift and scale, and the gate of what is added: of the attention, the feed-forward, the attention alone
        self.parts = 2 if pre_only else 9 if alone else 6
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(width, self.parts * width))

    def modulation(self, c: Tensor) -> tuple[Tensor, ...]:
        """The `parts` vectors that the stream is modulated by, (B, 1, D) each. c: (B, D)."""
        return self.adaLN_modulation(c)[:, None].chunk(self.parts, dim=-1)

    def pre_attention(self, x: Tensor, modulation: Sequence[Tensor]) -> list[Tensor]:
        """q, k and v of the stream, (B, N, D) each."""
        shift, scale = modulation[:2]
        return self.attn.normalized(list(split_linear(self.attn.qkv, modulate(self.norm1(x), shift, scale), 3)))

    def post_attention(self, x: Tensor, attended: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """The stream with what the attention gave added, written over x."""
        return add_gated(x, modulation[2], self.attn.project(attended))

    def feed_forward(self, x: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """The stream with what the feed-forward gives added, written over x.

        What goes in is let go of before anything comes out: this is the moment of most memory.
        """
        shift, scale, gate = modulation[3:6]
        inner = gelu(self.mlp.fc1(modulate(self.norm2(x), shift, scale)))
        return add_gated(x, gate, self.mlp.fc2(inner))


class JointBlock(nn.Module):
    """Attention over both streams at once, and a feed-forward for each."""

    def __init__(self, config: MMDiTConfig, *, pre_only: bool = False, alone: bool = False) -> None:
        super().__init__()
        self.context_block = DismantledBlock(config, pre_only=pre_only)
        self.x_block = DismantledBlock(config, alone=alone)

    def forward(
        self, context: Tensor, x: Tensor, c: Tensor, transformer_options: Mapping[str, Any] | None = None, **_: Any
    ) -> tuple[Tensor | None, Tensor]:
        """Both streams, changed. context: (B, L, D), x: (B, N, D), c: (B, D), the time and the vector of the text.

        In the last block the context ends: it is None.
        """
        return self.over(context.clone(), x.clone(), c, Hooks.of(transformer_options))

    def over(self, context: Tensor, x: Tensor, c: Tensor, hooks: Hooks) -> tuple[Tensor | None, Tensor]:
        """The same, written over `context` and `x`."""
        of_text, of_image = self.context_block.modulation(c), self.x_block.modulation(c)
        # made now, because the attention over both changes x
        alone = None if self.x_block.attn2 is None else modulate(self.x_block.norm1(x), *of_image[6:8])
        attended = self._attend(
            self.context_block.pre_attention(context, of_text), self.x_block.pre_attention(x, of_image), hooks
        )
        length = context.shape[1]
        x = self.x_block.post_attention(x, attended[:, length:], of_image)
        if not self.context_block.pre_only:
            context = self.context_block.post_attention(context, attended[:, :length], of_text)
        del attended
        if self.x_block.attn2 is not None and alone is not None:
            x = add_gated(x, of_image[8], self.x_block.attn2(alone, hooks))
            del alone
        x = self.x_block.feed_forward(x, of_image)
        if self.context_block.pre_only:
            return None, x
        return self.context_block.feed_forward(context, of_text), x

    def _attend(self, text: list[Tensor], image: list[Tensor], hooks: Hooks) -> Tensor:
        """Attention over text, then patches: (B, L + N, D). The parts are joined one by one, and let go of."""
        q, k, v = (torch.cat((text.pop(0), image.pop(0)), dim=1) for _ in range(3))
        return attention.optimized_attention(q, k, v, self.x_block.attn.num_heads, transformer_options=hooks)


_BLOCK = JointBlock.forward


class FinalLayer(nn.Module):
    """Patches to the latent's cells."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_final = LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = Linear(width, config.patch_size**2 * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x: (B, N, D), c: (B, D) → (B, N, patch² · out_channels)."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class MMDiT(nn.Module):
    """The velocity of a latent at a time, given a text."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, last = config.hidden_size, config.depth - 1
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = VectorEmbedder(config.adm_in_channels, width)
        self.context_embedder = Linear(config.context_dim, width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.pos_embed_max_size**2, width))
        self.joint_blocks = nn.ModuleList(
            JointBlock(config, pre_only=number == last, alone=number in config.x_block_self_attn_layers)
            for number in range(config.depth)
        )
        self.final_layer = FinalLayer(config)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the network predicts for x, in x's dtype.

        x:         (B, in_channels, H, W), any H and W from 1 up; odd sides are continued from the other edge.
        timesteps: (B,), 0 … 1000.
        context:   (B, L, context_dim), the encoded text.
        y:         (B, adm_in_channels), the vector of the text.
        control:   residuals of a ControlNet: "output" is a list of (B, N, D) for the patches after each block but the
                   last, spread evenly where there are fewer than blocks (None adds nothing).
        transformer_options: hooks (see `limner.models.layers.hooks`); `patches_replace["dit"][("double_block", i)]`
                   is called with {"img", "txt", "vec", "transformer_options"} and answers {"img", "txt"}.
        returns:   (B, out_channels, H, W).

        Raises BadInput when the text or the vector is missing or of another width.
        """
        options = dict(transformer_options or {})
        found: Tensor = run_network(self, options, x, timesteps, context, y, control, options, **kwargs)
        return found

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        context = _wanted(context, "text", self.config.context_dim).to(x.dtype)
        y = _wanted(y, "vector", self.config.adm_in_channels).to(x.dtype)
        hooks = Hooks(transformer_options)
        patch, height, width = self.config.patch_size, x.shape[-2], x.shape[-1]
        shown = F.pad(x, (0, -width % patch, 0, -height % patch), mode="circular")
        rows, columns = shown.shape[-2] // patch, shown.shape[-1] // patch
        tokens = (self.x_embedder(shown) + self.positions(rows, columns).to(x)).contiguous()
        c = self.t_embedder(timesteps, x.dtype) + self.y_embedder(y)
        tokens = self._blocks(tokens, self.context_embedder(context), c, (control or {}).get("output") or [], hooks)
        cells = self.final_layer(tokens, c).view(len(x), rows, columns, patch, patch, -1)
        output = cells.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, rows * patch, columns * patch)
        return output[:, :, :height, :width]

    def positions(self, rows: int, columns: int) -> Tensor:
        """The middle of the table of positions: (1, rows · columns, D). Beyond the table its edge is repeated."""
        side = self.config.pos_embed_max_size
        row, column = (
            (torch.arange(number, device=self.pos_embed.device) + (side - number) // 2).clamp(0, side - 1)
            for number in (rows, columns)
        )
        return self.pos_embed.view(1, side, side, -1)[:, row[:, None], column].flatten(1, 2)

    def _blocks(
        self, tokens: Tensor, text: Tensor | None, c: Tensor, control: Sequence[Tensor | None], hooks: Hooks
    ) -> Tensor:
        """The patches after all blocks. tokens and text are written over."""
        for number, block in enumerate(self.joint_blocks):
            hooks.note(block_index=number)
            text, tokens = self._block(number, block, text, tokens, c, hooks)
            residual = control[number * len(control) // len(self.joint_blocks)] if control else None
            if residual is not None and text is not None:
                tokens = tokens + residual.to(tokens.dtype)
        return tokens

    def _block(
        self, number: int, block: nn.Module, text: Any, tokens: Tensor, c: Tensor, hooks: Hooks
    ) -> tuple[Any, Tensor]:
        """Text and patches after one block, or after what takes its place; the text is None after the last.

        A block that nobody looks into writes over what it is given.
        """
        replacement = hooks.block_replacement("double_block", number)
        if replacement is None:
            if isinstance(block, JointBlock) and untouched(block, _BLOCK):
                return block.over(text, tokens, c, hooks)
            return block(text, tokens, c, transformer_options=hooks)

        def original_block(args: Mapping[str, Any]) -> dict[str, Tensor | None]:
            text, tokens = block(args["txt"], args["img"], args["vec"], transformer_options=hooks)
            return {"img": tokens, "txt": text}

        args = {"img": tokens, "txt": text, "vec": c, "transformer_options": hooks}
        found = replacement(args, {"original_block": original_block})
        return found.get("txt"), found["img"]


def _wanted(given: Tensor | None, what: str, width: int) -> Tensor:
    """What the network must be given, of the right width."""
    if given is not None and given.shape[-1] == width:
        return given
    found = "there is none" if given is None else f"it is {given.shape[-1]} wide"
    raise BadInput(
        f"This Stable Diffusion 3 model needs a {what} of width {width}; {found}.",
        why="The prompt was encoded for another model.",
        do="Encode it with a CLIP that is loaded with the type `sd3`.",
    )


# -- the family -------------------------------------------------------------------------------------------------------


def diffusers_names(width: int, depth: int) -> dict[str, Target]:
    """Names of the diffusers library → ours: q, k and v apart, and norms at the end with scale before shift."""
    found: dict[str, Target] = {"pos_embed.pos_embed": "pos_embed"}
    for kind in ("weight", "bias"):
        for theirs, ours in _OUTSIDE_BLOCKS.items():
            found[f"{theirs}.{kind}"] = f"{ours}.{kind}"
        found[f"norm_out.linear.{kind}"] = Part(f"final_layer.adaLN_modulation.1.{kind}", swapped=True)
        for number in range(depth):
            before, block = f"transformer_blocks.{number}", f"joint_blocks.{number}"
            for theirs, ours in _IN_BLOCKS.items():
                found[f"{before}.{theirs}.{kind}"] = f"{block}.{ours}.{kind}"
            for theirs, ours in _PROJECTIONS.items():
                for place, letter in enumerate("qkv"):
                    part = Part(f"{block}.{ours}.{kind}", place * width, width)
                    found[f"{before}.{theirs.format(letter)}.{kind}"] = part
        ending = f"context_block.adaLN_modulation.1.{kind}"
        found[f"transformer_blocks.{depth - 1}.norm1_context.linear.{kind}"] = Part(
            f"joint_blocks.{depth - 1}.{ending}", swapped=True
        )
    return found


_OUTSIDE_BLOCKS = {
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
}
_IN_BLOCKS = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_PROJECTIONS = {
    "attn.to_{}": "x_block.attn.qkv",
    "attn.add_{}_proj": "context_block.attn.qkv",
    "attn2.to_{}": "x_block.attn2.qkv",
}


def diffusers_targets(header: CheckpointHeader) -> dict[str, Target]:
    """The diffusers library's names in a header → ours."""
    shapes = header.shapes()
    width = shape(shapes, "pos_embed.proj.weight", 4)[0]
    return diffusers_names(width, count(shapes, "transformer_blocks.{}."))


def lora_aliases(config: MMDiTConfig, names: Sequence[str]) -> dict[str, Target]:
    """The diffusers library's names of the weights that this network has."""
    return weights_alone(diffusers_names(config.hidden_size, config.depth), names)


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:  # noqa: ARG001
    """A rectified flow, shifted towards noise."""
    return Prediction("flow", {"shift": 3.0, "multiplier": 1000.0})


def vector(model: BaseModel, entries: Mapping[str, Any]) -> Tensor | None:  # noqa: ARG001
    """The pooled outputs of both CLIPs."""
    pooled: Tensor | None = entries.get("pooled_output")
    return pooled


TEXT_WIDTH = 4096
CLIP_L_WIDTH, CLIP_G_WIDTH = 768, 1280


def combine(outputs: Mapping[str, Encoded]) -> Encoded:
    """CLIP-L and CLIP-G side by side, zeros up to T5's width, then T5's tokens. What is missing is zeros.

    The pooled vector is that of L, then of G. Esser et al. 2024, section B.3.
    """
    clip_l, clip_g, t5 = (outputs.get(name) for name in ("clip_l", "clip_g", "t5xxl"))
    width = TEXT_WIDTH if t5 is None else t5.cond.shape[-1]
    conds = [] if t5 is None else [t5.cond]
    clips = [found.cond for found in (clip_l, clip_g) if found is not None]
    if clips:
        length = min(cond.shape[1] for cond in clips)  # of different lengths the longer one is cut
        beside = torch.cat([cond[:, :length] for cond in clips], dim=-1)
        missing = CLIP_L_WIDTH if clip_l is None else 0
        right = width - missing - beside.shape[-1]
        if right < 0:
            raise BadInput(
                f"The T5 encoder is {width} wide, both CLIPs together {width - right}.",
                why="They are of different sizes of model.",
                do="Load the encoders that belong together: CLIP-L, CLIP-G and T5-XXL.",
            )
        conds.insert(0, F.pad(beside, (missing, right)))
    pooled_l = torch.zeros(1, CLIP_L_WIDTH) if clip_l is None or clip_l.pooled is None else clip_l.pooled
    pooled_g = torch.zeros(1, CLIP_G_WIDTH) if clip_g is None or clip_g.pooled is None else clip_g.pooled
    cond = torch.cat(conds, dim=1) if conds else torch.zeros(1, 77, width)
    return Encoded(cond, torch.cat((pooled_l, pooled_g), dim=-1))


TEXT = TextEncoding(
    types=("sd3",),
    parts=(
        TextPart(
            "clip_l",
            "l",
            ("text_encoders.clip_l.",),
            EncodeSettings(layer=-2, final_norm=False),
            optional=True,
        ),
        TextPart(
            "clip_g",
            "g",
            ("text_encoders.clip_g.",),
            EncodeSettings(layer=-2, final_norm=False, project=True, pad=0),
            optional=True,
        ),
        TextPart(
            "t5xxl",
            "t5xxl",
            ("text_encoders.t5xxl.",),
            EncodeSettings(start=-1, end=1, pad=0),
            RowSettings(min_length=77, max_length=None, pad_to_max=False),
            optional=True,
        ),
    ),
    combine=combine,
)

FAMILY = Family(
    name="sd3",
    title="Stable Diffusion 3",
    marks=(
        has("x_embedder.proj.weight"),
        has("pos_embed"),
        has("context_embedder.weight"),
        has("joint_blocks.0.context_block.attn.qkv.weight"),
        has("joint_blocks.0.x_block.attn.qkv.weight"),
        has("final_layer.linear.weight"),
    ),
    infer_config=MMDiTConfig.from_header,
    network=MMDiT,
    prediction=prediction,
    latent=FORMATS["SD3"],
    text=TEXT,
    vector=vector,
    context_width=lambda config: config.context_dim,
    diffusers=DiffusersLayout(
        marks=(has("pos_embed.proj.weight"), has("transformer_blocks.0.attn.add_q_proj.weight")),
        targets=diffusers_targets,
    ),
    lora=LoraNames(
        lora_aliases,
        ("transformer.{dots}", "base_model.model.{dots}", "lora_transformer_{flat}", "lycoris_{flat}"),
        signs=("joint_blocks_",),
    ),
    legacy=lambda config: {
        "input_size": None,
        "pos_embed_scaling_factor": None,
        "num_patches": config.pos_embed_max_size**2,
    },
    memory_factor=0.41,  # of the large build; measured: benchmarks/memory_formula.py
    memory_text=11.0,
    memory_scale=lambda config: config.hidden_size / WIDEST,
)
