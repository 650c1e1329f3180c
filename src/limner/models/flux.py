"""FLUX.1: text to picture by a transformer of two streams, then one. Black Forest Labs 2024.

Its Fill, Kontext and control variants are here as well. A picture's latent is cut into patches of 2×2 cells; pictures
to go by (Kontext) are cut likewise and put behind it. Text tokens of T5 run beside them. First come blocks that
modulate, project and feed forward both streams with weights of their own and attend over both at once; then text and
patches become one stream, in blocks whose attention and feed-forward run side by side. Places are told by rotating
queries and keys.

Attribute names are the keys of the published checkpoints (`double_blocks.0.img_attn.qkv.weight` …), the blocks'
arguments those of the reference, because node packs build and call them.

Shape letters: B batch, C latent channels, H and W latent height and width, N patches, L text tokens, S = L + N,
D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.conditions import reference_conditions, standard_conditions
from limner.models.family import DiffusersLayout, Family, LoraNames, Mark, Prediction, has, lacks
from limner.models.flux_lora import LAYOUTS, parts
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import untouched
from limner.models.layers.masks import resized_mask
from limner.models.layers.patches import patched, unpatched
from limner.models.layers.rope import grid_ids
from limner.models.layers.shapes import Overrides, Shapes, agree, count_whole, shape
from limner.models.layers.streams import DoubleStreamBlock, EmbedND, LastLayer, MLPEmbedder, SingleStreamBlock
from limner.models.lora_keys import weights_alone
from limner.models.text.encode import Encoded, EncodeSettings
from limner.models.text.recipe import RowSettings, TextEncoding, TextPart
from limner.models.unet import timestep_embedding
from limner.sampling.latent_formats import FORMATS
from limner.sampling.wrappers import run_network
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Linear
from limner.weights.targets import Part, Target

if TYPE_CHECKING:
    from limner.models.base import BaseModel

# -- the dimensions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FluxConfig:
    """The dimensions; the defaults are those of FLUX.1 dev. Names are those of the reference's arguments."""

    in_channels: int = 16  # of a cell, with what is joined to the latent
    out_channels: int = 16
    vec_in_dim: int | None = 768  # width of the vector y; None where there is none
    context_in_dim: int = 4096  # width of the text
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19  # blocks of two streams
    depth_single_blocks: int = 38  # blocks of one
    axes_dim: tuple[int, ...] = (16, 56, 56)  # features of a head that tell picture, row and column
    theta: int = 10000
    patch_size: int = 2
    qkv_bias: bool = True
    guidance_embed: bool = True

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> FluxConfig:
        """Read the dimensions off the tensors of a bare network.

        overrides: `axes_dim` (by rule the picture has an eighth of a head), `theta` and `patch_size` are taken from
        it; what shapes tell must agree with it.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        width, patch_channels = shape(shapes, "img_in.weight", 2)
        cells = int(overrides.get("patch_size") or 2) ** 2
        heads = width // shape(shapes, "double_blocks.0.img_attn.norm.key_norm.scale", 1)[0]
        config = cls(
            in_channels=patch_channels // cells,
            out_channels=shape(shapes, "final_layer.linear.weight", 2)[0] // cells,
            vec_in_dim=shapes["vector_in.in_layer.weight"][1] if "vector_in.in_layer.weight" in shapes else None,
            context_in_dim=shape(shapes, "txt_in.weight", 2)[1],
            hidden_size=width,
            mlp_ratio=shape(shapes, "double_blocks.0.img_mlp.0.weight", 2)[0] / width,
            num_heads=heads,
            depth=count_whole(shapes, "double_blocks.{}."),
            depth_single_blocks=count_whole(shapes, "single_blocks.{}."),
            axes_dim=axes_of(overrides, width, heads),
            theta=int(overrides.get("theta") or 10000),
            patch_size=int(overrides.get("patch_size") or 2),
            qkv_bias="double_blocks.0.img_attn.qkv.bias" in shapes,
            guidance_embed="guidance_in.in_layer.weight" in shapes,
        )
        for name in ("in_channels", "out_channels", "vec_in_dim", "context_in_dim", "hidden_size", "num_heads",
                     "depth", "depth_single_blocks", "qkv_bias", "guidance_embed"):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        return config


def axes_of(overrides: Overrides, width: int, heads: int) -> tuple[int, ...]:
    """Features of a head that tell each axis of a place. Raises BadInput where they do not make up a head."""
    head = width // heads
    side = (head - head // 8) // 2
    axes = tuple(int(axis) for axis in overrides.get("axes_dim") or (head // 8, side, side))
    if width % heads or sum(axes) != head or any(axis % 2 for axis in axes):
        raise BadInput(
            f"{width} channels cannot be split into {heads} heads whose places are told by {list(axes)} features.",
            why="The features must be even numbers that make up a head.",
            do="Give an `axes_dim` that does in the file's `config`.",
        )
    return axes


_OF_DOUBLE, _OF_SINGLE = DoubleStreamBlock.forward, SingleStreamBlock.forward
"""By these a block is known whose `forward` no pack replaced: it may write over what it is given."""

# -- the network ------------------------------------------------------------------------------------------------------


class Flux(nn.Module):
    """The velocity of a latent at a time, given a text and perhaps pictures to go by."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.params = self.config = config
        width = config.hidden_size
        self.patch_size, self.hidden_size, self.num_heads = config.patch_size, width, config.num_heads
        self.in_channels = config.in_channels * config.patch_size**2
        self.out_channels = config.out_channels
        self.pe_embedder = EmbedND(width // config.num_heads, config.theta, config.axes_dim)
        self.img_in = Linear(self.in_channels, width)
        self.txt_in = Linear(config.context_in_dim, width)
        self._make_told(config)
        block = (width, config.num_heads, config.mlp_ratio)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(*block, config.qkv_bias, modulation=self.modulates) for _ in range(config.depth)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(*block, modulation=self.modulates) for _ in range(config.depth_single_blocks)
        )
        self.final_layer = self._last_layer(config)

    modulates = True
    """Whether each block makes its shifts, scales and gates itself, from one vector."""

    def _make_told(self, config: FluxConfig) -> None:
        """The layers that make what the blocks are told."""
        width = config.hidden_size
        self.time_in = MLPEmbedder(256, width)
        self.vector_in = None if config.vec_in_dim is None else MLPEmbedder(config.vec_in_dim, width)
        self.guidance_in = MLPEmbedder(256, width) if config.guidance_embed else None

    def _last_layer(self, config: FluxConfig) -> nn.Module:
        return LastLayer(config.hidden_size, config.patch_size, config.out_channels)

    def told(self, timesteps: Tensor, y: Tensor | None, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What all blocks are told: time, guidance and text as one vector, (B, D)."""
        vec = self.time_in(embedded(timesteps, 256).to(dtype))
        if self.guidance_in is not None and guidance is not None:
            vec = vec + self.guidance_in(embedded(guidance, 256).to(dtype))
        if self.vector_in is None:
            return vec
        wanted = self.vector_in.in_layer.in_features
        y = vec.new_zeros(len(vec), wanted) if y is None else y
        if y.shape[-1] != wanted:
            raise BadInput(
                f"The vector of the text is {y.shape[-1]} wide, this Flux model takes {wanted}.",
                why="The prompt was encoded for another model.",
                do="Encode it with the text encoders of Flux (Load CLIP, type flux).",
            )
        return vec + self.vector_in(y.to(dtype))

    def double_told(self, told: Tensor, number: int) -> Any:  # noqa: ARG002 - others tell each block its own
        """What block `number` of two streams is told."""
        return told

    def single_told(self, told: Tensor, number: int) -> Any:  # noqa: ARG002
        """What block `number` of one stream is told."""
        return told

    def last_told(self, told: Tensor) -> Any:
        """What the last layer is told."""
        return told

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the network predicts for x, in x's dtype.

        x:           (B, in_channels, H, W); odd sides are continued from the other edge.
        timesteps:   (B,), 0 … 1.
        context:     (B, L, context_in_dim), the encoded text.
        y:           (B, vec_in_dim), its vector; zeros where None.
        guidance:    (B,), the strength that a distilled model imitates; None for none.
        ref_latents: pictures to go by, each like x but of any size. ref_latents_method: where they are seen: "offset",
                     beside the picture; "index", one layer behind the other; "uxo", beyond its corner.
        attention_mask: None, or what is added to the scores of text, then patches: (B, S, S).
        control:     residuals of a ControlNet: "input" after each block of two streams, "output" after each of one,
                     (B, up to N, D) each (None adds nothing).
        transformer_options: hooks (see `limner.models.layers.hooks`): `post_input` ({img, txt, img_ids, txt_ids}),
                     `double_block` ({img, txt, x, block_index}), `single_block`, `patches_replace["dit"]` of
                     ("double_block", i) ({img, txt, vec, pe, attn_mask} → {img, txt}) and ("single_block", i)
                     ({img, vec, pe, attn_mask} → {img}); and `rope_options` (see `rope.grid_ids`).
        returns:     (B, out_channels, H, W).
        """
        options = dict(transformer_options or {})
        found: Tensor = run_network(
            self, options, x, timesteps, context, y, guidance, ref_latents, control, options, **kwargs
        )
        return found

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        ref_latents_method: str | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        hooks = Hooks(transformer_options)
        height, width = x.shape[-2:]
        rows, columns = -(-height // self.patch_size), -(-width // self.patch_size)
        img, ids = self.with_references(x, ref_latents or (), ref_latents_method, hooks)
        txt_ids = ids.new_zeros(1, context.shape[1], len(self.config.axes_dim))
        out = self.forward_orig(
            img, ids, context.to(x.dtype), txt_ids, timesteps, y, guidance, control, hooks, attention_mask
        )
        cells = unpatched(out[:, : rows * columns], rows, columns, self.patch_size)
        return cells[:, :, :height, :width]

    def with_references(
        self, x: Tensor, references: Sequence[Tensor], method: str | None, hooks: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The patches of a picture and of those to go by, and their places."""
        patches, ids = self.process_img(x, transformer_options=hooks)
        patch = self.patch_size
        rows, columns = -(-x.shape[-2] // patch), -(-x.shape[-1] // patch)
        all_patches, all_ids = [patches], [ids]
        down = right = 0  # cells that are taken, beside the picture or beyond its corner
        for number, reference in enumerate(references, 1):
            height, width = reference.shape[-2:]
            index, top, left = 1, 0, 0
            if method == "index":
                index = number
            elif method == "uxo":
                if number == 1:
                    down, right = rows * patch, columns * patch
                index, top, left = 0, down, right
                down, right = down + height, right + width
            elif method in (None, "offset"):
                top, left = (0, right) if height + down > width + right else (down, 0)
                down, right = max(down, height + top), max(right, width + left)
            else:
                raise BadInput(
                    f"There is no way {method!r} to see reference pictures.", do="Choose index, offset or uxo."
                )
            row, column = ((side + patch // 2) // patch for side in (top, left))
            patches, ids = self.process_img(reference.to(x), index, row, column, hooks)
            all_patches.append(patches)
            all_ids.append(ids)
        return torch.cat(all_patches, dim=1), torch.cat(all_ids, dim=1)

    def process_img(
        self,
        x: Tensor,
        index: float = 0,
        h_offset: float = 0,
        w_offset: float = 0,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A picture's patches (B, N, C · patch²) and their places (1, N, 3)."""
        rope = (transformer_options or {}).get("rope_options") or {}
        patches, rows, columns = patched(x, self.patch_size)
        return patches, grid_ids(rows, columns, rope, index=index, top=h_offset, left=w_offset, device=x.device)

    def forward_orig(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The same from patches to patches. img: (B, N, C · patch²), txt: (B, L, …); places: (B or 1, …, 3)."""
        hooks = Hooks.of(transformer_options)
        told = self.told(timesteps, y, guidance, img.dtype)
        out = self.blocks_over(self.img_in(img), img_ids, txt, txt_ids, told, control, hooks, attn_mask, img)
        return self.final_layer(out, self.last_told(told))

    def blocks_over(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        told: Any,
        control: Mapping[str, list[Tensor | None]] | None,
        hooks: Hooks,
        attn_mask: Tensor | None,
        x: Tensor,
    ) -> Tensor:
        """Patches after all blocks: (B, N, D). img: (B, N, D), written over. x: the picture, for those who look on."""
        txt = self.txt_in(txt)
        if post_input := hooks.at("post_input"):
            img_ids, txt_ids = img_ids.expand(len(img), -1, -1), txt_ids.expand(len(img), -1, -1)
            for patch in post_input:
                found = patch({"img": img, "txt": txt, "img_ids": img_ids, "txt_ids": txt_ids,
                               "transformer_options": hooks})  # fmt: skip
                img, txt, img_ids, txt_ids = (found[name] for name in ("img", "txt", "img_ids", "txt_ids"))
        pe = self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
        mask = None if attn_mask is None else attn_mask.to(img.dtype) if attn_mask.is_floating_point() else attn_mask
        inputs, outputs = ((control or {}).get(name) or [] for name in ("input", "output"))
        img, txt = self._double(img, txt, told, pe, mask, x, inputs, hooks)
        length = txt.shape[1]
        img = torch.cat((txt, img), dim=1)
        del txt
        return self._single(img, length, told, pe, mask, outputs, hooks)[:, length:]

    def _double(
        self,
        img: Tensor,
        txt: Tensor,
        told: Any,
        pe: Tensor,
        mask: Tensor | None,
        x: Tensor,
        residuals: Sequence[Tensor | None],
        hooks: Hooks,
    ) -> tuple[Tensor, Tensor]:
        """Patches and text after the blocks of two streams; written over, unless someone looks on."""
        watched = bool(hooks.at("double_block") or hooks.at("post_input"))
        for number, block in enumerate(self.double_blocks):
            hooks.note(block_index=number)
            vec = self.double_told(told, number)
            replacement = hooks.block_replacement("double_block", number)
            if replacement is not None:
                args = {"img": img, "txt": txt, "vec": vec, "pe": pe, "attn_mask": mask, "transformer_options": hooks}
                found = replacement(args, {"original_block": as_function(block, hooks)})
                img, txt = found["img"], found["txt"]
            elif isinstance(block, DoubleStreamBlock) and untouched(block, _OF_DOUBLE) and not watched:
                img, txt = block.over(img, txt, vec, pe, mask, hooks)
            else:
                img, txt = block(img=img, txt=txt, vec=vec, pe=pe, attn_mask=mask, transformer_options=hooks)
            for patch in hooks.at("double_block"):
                found = patch({"img": img, "txt": txt, "x": x, "vec": vec, "block_index": number,
                               "transformer_options": hooks})  # fmt: skip
                img, txt = found["img"], found["txt"]
            img = with_residual(img, residuals, number, 0)
        return img, txt

    def _single(
        self,
        img: Tensor,
        text: int,
        told: Any,
        pe: Tensor,
        mask: Tensor | None,
        residuals: Sequence[Tensor | None],
        hooks: Hooks,
    ) -> Tensor:
        """The one stream after its blocks. text: how many of its tokens are text's."""
        watched = bool(hooks.at("single_block"))
        for number, block in enumerate(self.single_blocks):
            hooks.note(block_index=number)
            vec = self.single_told(told, number)
            replacement = hooks.block_replacement("single_block", number)
            if replacement is not None:
                args = {"img": img, "vec": vec, "pe": pe, "attn_mask": mask, "transformer_options": hooks}
                img = replacement(args, {"original_block": as_function(block, hooks)})["img"]
            elif isinstance(block, SingleStreamBlock) and untouched(block, _OF_SINGLE) and not watched:
                img = block.over(img, vec, pe, mask, hooks)
            else:
                img = block(img, vec=vec, pe=pe, attn_mask=mask, transformer_options=hooks)
            for patch in hooks.at("single_block"):
                img = patch({"img": img, "vec": vec, "block_index": number, "transformer_options": hooks})["img"]
            img = with_residual(img, residuals, number, text)
        return img


def embedded(times: Tensor, width: int) -> Tensor:
    """Times of 0 … 1 as cosines and sines: (B,) → (B, width), float32."""
    return timestep_embedding(times.float() * 1000, width)


def with_residual(img: Tensor, residuals: Sequence[Tensor | None], number: int, start: int) -> Tensor:
    """The stream with a control's residual added to its patches, which begin at `start`; pictures to go by get none."""
    residual = residuals[number] if number < len(residuals) else None
    if residual is None:
        return img
    behind = img.shape[1] - start - residual.shape[1]
    return img + F.pad(residual.to(img.dtype), (0, 0, start, behind))


def as_function(block: nn.Module, hooks: Hooks) -> Callable[[Mapping[str, Any]], dict[str, Tensor]]:
    """A block as packs call it that take its place."""

    def original_block(args: Mapping[str, Any]) -> dict[str, Tensor]:
        told = {"vec": args["vec"], "pe": args["pe"], "attn_mask": args.get("attn_mask"), "transformer_options": hooks}
        if "txt" not in args:
            return {"img": block(args["img"], **told)}
        return dict(zip(("img", "txt"), block(args["img"], args["txt"], **told), strict=True))

    return original_block


# -- other names for the same weights ---------------------------------------------------------------------------------

_ENDS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}


class _Names(NamedTuple):
    """Of one kind of block: layers and norms, theirs → ours; layers of which theirs are parts, ours → theirs."""

    layers: Mapping[str, str]
    norms: Mapping[str, str]
    parts: Mapping[str, Sequence[str]]


_DOUBLE = _Names(
    layers={
        "norm1.linear": "img_mod.lin", "attn.to_out.0": "img_attn.proj",
        "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
        "norm1_context.linear": "txt_mod.lin", "attn.to_add_out": "txt_attn.proj",
        "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
    },
    norms={
        "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
    },
    parts={
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
)  # fmt: skip
_SINGLE = _Names(
    layers={"norm.linear": "modulation.lin", "proj_out": "linear2"},
    norms={"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"},
    parts={"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
)


def diffusers_targets(depth: int, single: int, width: int, inner: int) -> dict[str, Target]:
    """The diffusers library's name of every tensor → where it belongs. inner: width inside the feed-forward."""
    found: dict[str, Target] = {}

    def fused(there: str, parts: Sequence[str], here: str) -> None:
        for place, part in enumerate(parts):
            found[f"{there}.{part}"] = Part(here, place * width, inner if part.startswith("proj_mlp") else width)

    for leaf in ("weight", "bias"):
        found |= {f"{theirs}.{leaf}": f"{ours}.{leaf}" for theirs, ours in _ENDS.items()}
        found[f"norm_out.linear.{leaf}"] = Part(f"final_layer.adaLN_modulation.1.{leaf}", swapped=True)
        for there, here, names in _blocks(depth, single):
            found |= {f"{there}.{theirs}.{leaf}": f"{here}.{ours}.{leaf}" for theirs, ours in names.layers.items()}
            for ours, theirs in names.parts.items():
                fused(there, [f"{name}.{leaf}" for name in theirs], f"{here}.{ours}.{leaf}")
    for there, here, names in _blocks(depth, single):
        found |= {f"{there}.{theirs}.weight": f"{here}.{ours}.scale" for theirs, ours in names.norms.items()}
    return found


def _blocks(depth: int, single: int) -> Iterator[tuple[str, str, _Names]]:
    """For each block its name there and here, and the names inside it."""
    for number in range(depth):
        yield f"transformer_blocks.{number}", f"double_blocks.{number}", _DOUBLE
    for number in range(single):
        yield f"single_transformer_blocks.{number}", f"single_blocks.{number}", _SINGLE


def from_diffusers(header: CheckpointHeader) -> Mapping[str, Target]:
    """The targets of a header in the diffusers library's layout."""
    shapes = header.shapes()
    return diffusers_targets(
        count_whole(shapes, "transformer_blocks.{}."),
        count_whole(shapes, "single_transformer_blocks.{}."),
        shape(shapes, "x_embedder.weight", 2)[0],
        shape(shapes, "transformer_blocks.0.ff.net.0.proj.weight", 2)[0],
    )


def lora_aliases(config: Any, names: Sequence[str]) -> Mapping[str, Target]:
    """Diffusers' names of those weights that the network has."""
    inner = int(config.hidden_size * config.mlp_ratio)
    targets = diffusers_targets(config.depth, config.depth_single_blocks, config.hidden_size, inner)
    return weights_alone(targets, names)


LORA = LoraNames(
    lora_aliases, ("transformer.{dots}", "lycoris_{flat}", "lora_transformer_{flat}"), parts=parts,
    signs=("double_blocks_", "single_blocks_", "single_transformer_blocks_"), layouts=LAYOUTS,
)  # fmt: skip

# -- the families -----------------------------------------------------------------------------------------------------


def combine(outputs: Mapping[str, Encoded]) -> Encoded:
    """What T5 says of each token, and the vector that CLIP-L gives the whole text."""
    return outputs["t5xxl"]._replace(pooled=outputs["clip_l"].pooled)


TEXT = TextEncoding(
    types=("flux",),
    parts=(
        TextPart("clip_l", "l", ("text_encoders.clip_l.",), EncodeSettings()),
        TextPart(
            "t5xxl",
            "t5xxl",
            ("text_encoders.t5xxl.",),
            EncodeSettings(start=-1, end=1, pad=0),
            RowSettings(min_length=256, max_length=None, pad_to_max=False),
        ),
    ),
    combine=combine,
)


def distilled(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:  # noqa: ARG001
    """A rectified flow, shifted towards noise by a fixed mean."""
    return Prediction("flux", {"shift": 1.15})


def few_steps(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:  # noqa: ARG001
    """A rectified flow without a shift."""
    return Prediction("flow", {"shift": 1.0, "multiplier": 1.0})


def concat(config: FluxConfig) -> tuple[str, ...]:
    """What the extra input channels are: a picture to go by, or the picture to fill and where."""
    extra = config.in_channels - config.out_channels
    if extra <= 0:
        return ()
    return ("scaled_image",) if extra <= 2 * config.out_channels else ("scaled_image", "pixel_mask")


def grown(config: FluxConfig, shapes: Shapes) -> FluxConfig:
    """The config with as many input channels as a LoRA has given the first layer."""
    width = shapes.get("img_in.weight", (0, 0))[1]
    return replace(config, in_channels=max(width // config.patch_size**2, config.in_channels))


def conditions_of(guidance: float) -> Callable[[BaseModel, Mapping[str, Any]], dict[str, Any]]:
    """What the network is told of one condition. guidance: where the condition does not say it."""

    def conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Text, its vector and mask, what is joined to the latent, guidance, pictures to go by in model space."""
        found = standard_conditions(model, entries)
        strength = entries.get("guidance", guidance)
        if strength is not None:
            found["guidance"] = torch.tensor([float(strength)])
        if entries.get("attention_mask") is not None:
            found["attention_mask"] = mask_of_all(entries["attention_mask"], entries)
        return found | reference_conditions(model, entries)

    return conditions


def mask_of_all(mask: Tensor, entries: Mapping[str, Any]) -> Tensor:
    """A mask of text and patches, made for a picture of `attention_mask_img_shape` patches, for the latent's size."""
    size = entries.get("attention_mask_img_shape")
    rows, columns = (-(-side // 2) for side in entries["noise"].shape[-2:])
    if size is None or tuple(size) == (rows, columns):
        return mask
    return resized_mask(mask, tuple(size), (rows, columns))


def _six_fold(header: CheckpointHeader) -> bool:
    """Picture, picture to fill and 64 channels of its mask: 96 for 16."""
    first, last = (header.shapes().get(f"{name}.weight", (0, 0)) for name in ("img_in", "final_layer.linear"))
    return first[-1] == 6 * last[0] > 0


FLUX = Family(
    name="flux",
    title="Flux",
    marks=(
        has("double_blocks.0.img_attn.norm.key_norm.scale"),
        has("img_in.weight"),
        has("final_layer.adaLN_modulation.1.weight"),
        has("guidance_in.in_layer.weight"),
        lacks("controlnet_blocks.0.weight"),
        lacks("txt_in.individual_token_refiner.blocks.0.norm1.weight"),
    ),
    infer_config=lambda header, overrides: FluxConfig.from_state(header.shapes(), overrides),
    network=Flux,
    prediction=distilled,
    latent=FORMATS["Flux"],
    text=TEXT,
    vae_prefixes=("vae.", "first_stage_model."),
    conditions=conditions_of(3.5),
    vector=lambda model, entries: entries.get("pooled_output"),  # noqa: ARG005
    context_width=lambda config: config.context_in_dim,
    concat=concat,
    grown=grown,
    diffusers=DiffusersLayout(
        (
            has("x_embedder.weight"),
            has("single_transformer_blocks.0.proj_mlp.weight"),
            lacks("controlnet_blocks.0.weight"),
        ),
        from_diffusers,
    ),
    lora=LORA,
    legacy=lambda config: {"image_model": "flux"},  # noqa: ARG005
    dtypes=(torch.bfloat16, torch.float16, torch.float32),
    memory_factor=0.5,  # measured: benchmarks/memory_formula.py
    memory_text=8.0,
)
FILL = replace(
    FLUX,
    name="flux_fill",
    title="Flux Fill",
    marks=(*FLUX.marks, Mark("six times as many input as output channels", _six_fold)),
    dtypes=(torch.bfloat16, torch.float32),
    memory_factor=0.54,  # what is joined to the latent is six times as wide
)
SCHNELL = replace(
    FLUX,
    name="flux_schnell",
    title="Flux schnell",
    marks=tuple(lacks("guidance_in.in_layer.weight") if "guidance_in" in mark.name else mark for mark in FLUX.marks),
    prediction=few_steps,
)
FAMILIES = (FLUX, FILL, SCHNELL)
