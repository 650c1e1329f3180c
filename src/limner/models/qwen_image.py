"""Qwen-Image, its Edit models included: text to picture by a transformer with two streams. Wu et al. 2025.

A picture's latent is cut into patches of 2×2 cells; pictures to edit are cut likewise and put behind it. Text tokens of
Qwen2.5-VL run beside them. Each of sixty blocks modulates and projects both streams with weights of their own, attends
over both at once, and feeds each forward. Places are told by rotating queries and keys.

The block is written for its memory. A token of width D costs D for its residual and 4 D inside the feed-forward, which
with D for what goes in or comes out is the worst moment: 6 D. So everything else stays below that. The modulated
streams live only until they are projected, q, k and v of both streams are joined one by one, what the second half needs
is made when the first is over, the streams are fed forward one after the other, and every residual is added in one pass
over what it replaces.

Attribute names are the keys of the published checkpoints (`transformer_blocks.0.attn.to_q.weight` …).

Shape letters: B batch, C latent channels, T frames, H and W latent height and width, N patches, L text tokens,
S = L + N, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.conditions import reference_conditions, standard_conditions
from limner.models.family import Family, LoraNames, Overrides, Prediction, has, lacks
from limner.models.layers import attention
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import add_gated, gelu, rotate, untouched
from limner.models.layers.shapes import agree, count, shape
from limner.models.text.encode import Encoded, EncodeSettings
from limner.models.text.recipe import RowSettings, TextEncoding, TextPart, Tokens
from limner.models.unet import timestep_embedding
from limner.sampling.latent_formats import FORMATS
from limner.sampling.wrappers import run_network
from limner.weights.header import CheckpointHeader
from limner.weights.ops import LayerNorm, Linear, RMSNorm
from limner.weights.quant.together import projected

if TYPE_CHECKING:
    from limner.models.base import BaseModel

PATCH = 2  # cells of a side of a patch
THETA = 10000.0

# -- the dimensions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QwenImageConfig:
    """The dimensions; the defaults are those of the published models. Names are those of the reference's arguments."""

    in_channels: int = 64  # of a patch
    out_channels: int = 16  # of a cell
    num_layers: int = 60
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    joint_attention_dim: int = 3584  # width of the text
    mlp_width: int = 12288
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)  # features of a head that tell frame, row and column

    @property
    def width(self) -> int:
        """D."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_header(cls, header: CheckpointHeader, overrides: Overrides) -> QwenImageConfig:
        """Read the dimensions off the tensors. overrides: `axes_dims_rope`; by rule the frame has an eighth of a head.

        Raises BadInput when a tensor is missing or the overrides contradict the shapes.
        """
        shapes = header.shapes()
        width, in_channels = shape(shapes, "img_in.weight", 2)
        head = shape(shapes, "transformer_blocks.0.attn.norm_q.weight", 1)[0]
        side = (head - head // 8) // 2
        config = cls(
            in_channels=in_channels,
            out_channels=shape(shapes, "proj_out.weight", 2)[0] // PATCH**2,
            num_layers=count(shapes, "transformer_blocks.{}."),
            num_attention_heads=width // head,
            attention_head_dim=head,
            joint_attention_dim=shape(shapes, "txt_norm.weight", 1)[0],
            mlp_width=shape(shapes, "transformer_blocks.0.img_mlp.net.0.proj.weight", 2)[0],
            axes_dims_rope=tuple(overrides.get("axes_dims_rope") or (head // 8, side, side)),
        )
        for name in (
            "in_channels", "out_channels", "num_layers", "num_attention_heads", "attention_head_dim",
            "joint_attention_dim",
        ):  # fmt: skip
            agree(overrides, name, getattr(config, name))
        axes = config.axes_dims_rope
        if sum(axes) != head or any(axis % 2 for axis in axes):
            raise BadInput(
                f"Heads {head} wide cannot tell frame, row and column by {list(axes)} features.",
                why="They must be even and fill the head.",
                do="Give an `axes_dims_rope` that does in the file's `config`.",
            )
        return config


# -- places -----------------------------------------------------------------------------------------------------------


def picture_places(
    frames: int,
    rows: int,
    columns: int,
    rope: Mapping[str, float],
    *,
    at: tuple[float, float, float] = (0, 0, 0),
    device: torch.device | None = None,
) -> Tensor:
    """Frame, row and column of each patch: (frames · rows · columns, 3), float32; the middle of a picture is zero.

    at: what is added to them. rope: `rope_options`: rows and columns are scale_y and scale_x apart instead of one, and
    moved by shift_t, shift_y and shift_x.
    """
    frame = torch.arange(frames, dtype=torch.float32, device=device) + at[0] + rope.get("shift_t", 0.0)
    sides = []
    for number, letter, start in ((rows, "y", at[1]), (columns, "x", at[2])):
        scale = rope.get(f"scale_{letter}", 1.0)
        middle = ((number - 1) * scale + 1) // 2
        steps = torch.arange(number, dtype=torch.float32, device=device) * scale
        sides.append(steps - middle + start + rope.get(f"shift_{letter}", 0.0))
    return torch.cartesian_prod(frame, *sides)


def text_places(length: int, start: float, device: torch.device | None = None) -> Tensor:
    """The place of each text token, the same on all three axes, counted from `start`: (length, 3), float32."""
    return (torch.arange(length, dtype=torch.float32, device=device) + start)[:, None].expand(-1, 3)


def rotation_of(places: Tensor, axes: Sequence[int], theta: float = THETA) -> Tensor:
    """Cosines and sines of the angles by which pairs of features are turned: (1, S, 1, head / 2, 2), float32.

    places: (S, axes). axes: how many features of a head tell each. Su et al. 2021, section 3.2.2; in float64.
    """
    angles = [
        torch.outer(place, theta ** -(torch.arange(0, width, 2, dtype=torch.float64, device=places.device) / width))
        for place, width in zip(places.double().unbind(-1), axes, strict=True)
    ]
    both = torch.cat(angles, dim=-1)
    return torch.stack((both.cos(), both.sin()), dim=-1)[None, :, None].float()


# -- the block --------------------------------------------------------------------------------------------------------


class Gelu(nn.Module):
    """The first layer of a feed-forward, with GELU after it."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, D) → (…, inner)."""
        return gelu(self.proj(x))


class FeedForward(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.net = nn.ModuleList((Gelu(width, inner), nn.Identity(), Linear(inner, width)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, D) → like x."""
        return self.net[2](self.net[0](x))


class Attention(nn.Module):
    """The projections of both streams around an attention over both."""

    def __init__(self, config: QwenImageConfig) -> None:
        super().__init__()
        width, head = config.width, config.attention_head_dim
        self.heads = config.num_attention_heads
        self.to_q, self.to_k, self.to_v = (Linear(width, width) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (RMSNorm(head, eps=1e-6) for _ in range(4))
        self.to_out = nn.ModuleList((Linear(width, width), nn.Identity()))
        self.to_add_out = Linear(width, width)

    def of_image(self, x: Tensor) -> list[Tensor]:
        """q, k and v of the patches, head by head. x: (B, N, D) → (B, N, heads, head) each."""
        return self._parts(x, (self.to_q, self.to_k, self.to_v), (self.norm_q, self.norm_k))

    def of_text(self, x: Tensor) -> list[Tensor]:
        """The same of the text."""
        projections = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        return self._parts(x, projections, (self.norm_added_q, self.norm_added_k))

    def _parts(self, x: Tensor, projections: Iterable[nn.Module], norms: Iterable[nn.Module]) -> list[Tensor]:
        parts = [
            one.view(*x.shape[:2], self.heads, -1) for one in projected(*((project, x) for project in projections))
        ]
        for place, norm in enumerate(norms):
            parts[place] = norm(parts[place])
        return parts

    def over_both(
        self, text: list[Tensor], image: list[Tensor], rotation: Tensor, mask: Tensor | None, hooks: Hooks
    ) -> Tensor:
        """The attention over text, then patches: (B, S, D). What it is given is joined part by part, and emptied."""
        q = rotate(torch.cat((text.pop(0), image.pop(0)), dim=1), rotation)
        k = rotate(torch.cat((text.pop(0), image.pop(0)), dim=1), rotation)
        v = torch.cat((text.pop(0), image.pop(0)), dim=1)
        return attention.optimized_attention(
            q.flatten(2), k.flatten(2), v.flatten(2), self.heads, mask=mask, transformer_options=hooks
        )


def modulate(normed: Tensor, vectors: Tensor) -> Tensor:
    """normed · (1 + scale) + shift. normed: (B, N, D); vectors: (B, 1, 3 D), the shift, the scale and the gate."""
    shift, scale, _ = vectors.chunk(3, dim=-1)
    return torch.addcmul(shift, normed, 1 + scale)


def gate(vectors: Tensor) -> Tensor:
    """What a change is multiplied by before it is added: (B, 1, D)."""
    return vectors.chunk(3, dim=-1)[2]


class QwenImageTransformerBlock(nn.Module):
    """Attention over both streams at once, then a feed-forward for each."""

    def __init__(self, config: QwenImageConfig) -> None:
        super().__init__()
        width = config.width

        def norm() -> LayerNorm:
            return LayerNorm(width, eps=1e-6, elementwise_affine=False)

        self.img_mod = nn.Sequential(nn.SiLU(), Linear(width, 6 * width))
        self.img_norm1, self.img_norm2 = norm(), norm()
        self.img_mlp = FeedForward(width, config.mlp_width)
        self.txt_mod = nn.Sequential(nn.SiLU(), Linear(width, 6 * width))
        self.txt_norm1, self.txt_norm2 = norm(), norm()
        self.txt_mlp = FeedForward(width, config.mlp_width)
        self.attn = Attention(config)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None,
        temb: Tensor,
        image_rotary_emb: Tensor,
        transformer_options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Text and patches, changed.

        hidden_states:         (B, N, D), the patches. encoder_hidden_states: (B, L, D), the text.
        encoder_hidden_states_mask: None, or (B, 1, 1, S), true where a token takes part.
        temb:                  (B, D), the time. image_rotary_emb: the rotation of text, then patches.
        returns:               the text, then the patches.
        """
        image, text = hidden_states.clone(), encoder_hidden_states.clone()
        return self.over(image, text, encoder_hidden_states_mask, temb, image_rotary_emb, Hooks.of(transformer_options))

    def over(
        self, image: Tensor, text: Tensor, mask: Tensor | None, temb: Tensor, rotation: Tensor, hooks: Hooks
    ) -> tuple[Tensor, Tensor]:
        """The same, written over `image` and `text`."""
        image_now, image_later = self.img_mod(temb)[:, None].chunk(2, dim=-1)
        text_now, text_later = self.txt_mod(temb)[:, None].chunk(2, dim=-1)
        attended = self.attn.over_both(
            self.attn.of_text(modulate(self.txt_norm1(text), text_now)),
            self.attn.of_image(modulate(self.img_norm1(image), image_now)),
            rotation, mask, hooks,
        )  # fmt: skip
        length = text.shape[1]
        image = add_gated(image, gate(image_now), self.attn.to_out[0](attended[:, length:]))
        text = add_gated(text, gate(text_now), self.attn.to_add_out(attended[:, :length]))
        del attended
        image = self._fed_forward(image, self.img_norm2, image_later, self.img_mlp)
        text = self._fed_forward(text, self.txt_norm2, text_later, self.txt_mlp)
        return text, image

    @staticmethod
    def _fed_forward(x: Tensor, norm: LayerNorm, vectors: Tensor, mlp: FeedForward) -> Tensor:
        """A stream with what its feed-forward gives added. What goes in is gone before anything comes out."""
        inner = mlp.net[0](modulate(norm(x), vectors))
        return add_gated(x, gate(vectors), mlp.net[2](inner))


_BLOCK = QwenImageTransformerBlock.forward

# -- the network ------------------------------------------------------------------------------------------------------


class Timestep(nn.Module):
    """The time as cosines and sines, through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(256, width)
        self.linear_2 = Linear(width, width)

    def forward(self, embedded: Tensor) -> Tensor:
        """embedded: (B, 256) → (B, D)."""
        return self.linear_2(F.silu(self.linear_1(embedded)))


class TimeEmbedding(nn.Module):
    """What the blocks are told of the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = Timestep(width)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """timesteps: (B,), 0 … 1 → (B, D)."""
        return self.timestep_embedder(timestep_embedding(timesteps.float() * 1000, 256).to(dtype))


class LastLayer(nn.Module):
    """The last normalization, scaled and shifted by the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = Linear(width, 2 * width)
        self.norm = LayerNorm(width, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x: (B, N, D), temb: (B, D) → like x."""
        scale, shift = self.linear(F.silu(temb))[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class QwenImageTransformer2DModel(nn.Module):
    """The velocity of a latent at a time, given a text and perhaps pictures to edit."""

    def __init__(self, config: QwenImageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_text_embed = TimeEmbedding(width)
        self.txt_norm = RMSNorm(config.joint_attention_dim, eps=1e-6)
        self.img_in = Linear(config.in_channels, width)
        self.txt_in = Linear(config.joint_attention_dim, width)
        self.transformer_blocks = nn.ModuleList(QwenImageTransformerBlock(config) for _ in range(config.num_layers))
        self.norm_out = LastLayer(width)
        self.proj_out = Linear(width, PATCH**2 * config.out_channels)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the network predicts for x, in x's dtype.

        x:              (B, C, T, H, W) or (B, C, H, W); odd sides are continued from the other edge.
        timesteps:      (B,), 0 … 1.
        context:        (B, L, joint_attention_dim), the encoded text.
        attention_mask: (B, L), which text tokens take part; all where None.
        ref_latents:    pictures to edit, each like x but of any size. ref_latents_method: where they are seen: "index",
                        one frame behind the other; "offset", beside the picture; "uxo", beyond its corner.
        control:        residuals of a ControlNet: "input" is a list of (B, up to N, D), added to the first patches
                        after each block (None adds nothing).
        transformer_options: hooks (see `limner.models.layers.hooks`): `post_input` ({img, txt, img_ids, txt_ids}),
                        `double_block` ({img, txt, x, block_index}), `patches_replace["dit"][("double_block", i)]`
                        ({img, txt, vec, pe, attn_mask} → {img, txt}); and `rope_options` (see `picture_places`).
        returns:        like x.
        """
        options = dict(transformer_options or {})
        found: Tensor = run_network(
            self,
            options,
            x,
            timesteps,
            context,
            attention_mask,
            ref_latents,
            control=control,
            transformer_options=options,
            **kwargs,
        )
        return found

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        ref_latents_method: str | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        hooks = Hooks(transformer_options)
        frames = x if x.ndim == 5 else x.unsqueeze(2)
        image, image_ids, grid = self.process_pictures(frames, ref_latents or (), ref_latents_method, hooks)
        text_ids = text_places(context.shape[1], max(grid[1:]) // 2, x.device)
        image, text = self.img_in(image), self.txt_in(self.txt_norm(context.to(x.dtype)))
        for patch in hooks.at("post_input"):
            found = patch({"img": image, "txt": text, "img_ids": image_ids, "txt_ids": text_ids,
                           "transformer_options": hooks})  # fmt: skip
            image, text, image_ids, text_ids = (found[name] for name in ("img", "txt", "img_ids", "txt_ids"))
        rotation = rotation_of(torch.cat((text_ids, image_ids)), self.config.axes_dims_rope)
        mask = None if attention_mask is None else _over_patches(attention_mask, image.shape[1])
        temb = self.time_text_embed(timesteps, x.dtype)
        residuals = (control or {}).get("input") or []
        image = self._blocks(image, text, temb, rotation, mask, x, residuals, hooks)
        cells = self.proj_out(self.norm_out(image[:, : grid[0] * grid[1] * grid[2]], temb))
        return unpatched(cells, grid)[..., : x.shape[-2], : x.shape[-1]].reshape(x.shape)

    def process_pictures(
        self, x: Tensor, references: Sequence[Tensor], method: str | None, hooks: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
        """The patches of a picture and of those to edit, their places, and the picture's (frames, rows, columns)."""
        rope = hooks.get("rope_options") or {}
        patches, grid = patched(x)
        all_patches, places = [patches], [picture_places(*grid, rope, device=x.device)]
        down, right = 0, 0  # patches that are taken, beside the picture or beyond its corner
        for number, reference in enumerate(references, 1):
            patches, (frames, rows, columns) = patched(reference if reference.ndim == 5 else reference.unsqueeze(2))
            at: tuple[float, float, float] = (number, 0, 0)
            if method == "offset":
                at = (1, 0, right) if rows + down > columns + right else (1, down, 0)
                down, right = max(down, rows + int(at[1])), max(right, columns + int(at[2]))
            elif method == "uxo":
                down, right = (grid[1], grid[2]) if number == 1 else (down, right)
                at = (0, down, right)
                down, right = down + rows, right + columns
            elif method not in (None, "index"):
                raise BadInput(
                    f"There is no way {method!r} to see reference pictures.", do="Choose index, offset or uxo."
                )
            all_patches.append(patches.to(x))
            places.append(picture_places(frames, rows, columns, rope, at=at, device=x.device))
        return torch.cat(all_patches, dim=1), torch.cat(places), grid

    def _blocks(
        self,
        image: Tensor,
        text: Tensor,
        temb: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        x: Tensor,
        residuals: Sequence[Tensor | None],
        hooks: Hooks,
    ) -> Tensor:
        """The patches after all blocks. image and text are written over, unless someone looks on."""
        watched = bool(hooks.at("double_block") or hooks.at("post_input"))
        for number, block in enumerate(self.transformer_blocks):
            hooks.note(block_index=number)
            replacement = hooks.block_replacement("double_block", number)
            if replacement is not None:
                args = {"img": image, "txt": text, "vec": temb, "pe": rotation, "attn_mask": mask,
                        "transformer_options": hooks}  # fmt: skip
                found = replacement(args, {"original_block": _as_function(block, hooks)})
                image, text = found["img"], found["txt"]
            elif isinstance(block, QwenImageTransformerBlock) and untouched(block, _BLOCK) and not watched:
                text, image = block.over(image, text, mask, temb, rotation, hooks)
            else:
                text, image = block(image, text, mask, temb, rotation, transformer_options=hooks)
            for patch in hooks.at("double_block"):
                found = patch({"img": image, "txt": text, "x": x, "block_index": number, "transformer_options": hooks})
                image, text = found["img"], found["txt"]
            residual = residuals[number] if number < len(residuals) else None
            if residual is not None:
                image = _with_residual(image, residual)
        return image


def _as_function(block: nn.Module, hooks: Hooks) -> Any:
    """A block as packs call it that take its place."""

    def original_block(args: Mapping[str, Any]) -> dict[str, Tensor]:
        text, image = block(
            args["img"], args["txt"], args.get("attn_mask"), args["vec"], args["pe"], transformer_options=hooks
        )
        return {"img": image, "txt": text}

    return original_block


def _with_residual(image: Tensor, residual: Tensor) -> Tensor:
    """The patches with a control's residual added to the first ones; those of pictures to edit have none."""
    missing = image.shape[1] - residual.shape[1]
    return image + F.pad(residual.to(image.dtype), (0, 0, 0, missing))


def _over_patches(mask: Tensor, patches: int) -> Tensor:
    """A mask of text tokens (B, L) as one of all tokens, (B, 1, 1, S), true where a token takes part."""
    return F.pad(mask.bool(), (0, patches), value=True)[:, None, None]


def patched(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """(B, C, T, H, W) → patches (B, T · rows · columns, C · 4), frame by frame and row by row; (T, rows, columns)."""
    batch, channels, frames, height, width = x.shape
    cells = F.pad(x.flatten(1, 2), (0, -width % PATCH, 0, -height % PATCH), mode="circular")
    rows, columns = cells.shape[-2] // PATCH, cells.shape[-1] // PATCH
    split = cells.view(batch, channels, frames, rows, PATCH, columns, PATCH)
    return split.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, frames * rows * columns, -1), (frames, rows, columns)


def unpatched(patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The inverse: (B, T · rows · columns, C · 4) → (B, C, T, 2 · rows, 2 · columns)."""
    frames, rows, columns = grid
    split = patches.view(len(patches), frames, rows, columns, -1, PATCH, PATCH)
    return split.permute(0, 4, 1, 2, 5, 3, 6).reshape(len(patches), -1, frames, rows * PATCH, columns * PATCH)


# -- the text ---------------------------------------------------------------------------------------------------------

START = 151644  # <|im_start|>
USER, LINE = 872, 198  # "user" and the line break after it
SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
SYSTEM_EDIT = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain how "
    "the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate."
)
VISION = "<|vision_start|><|image_pad|><|vision_end|>"
"""What stands for a picture in a prompt."""


def chat(system: str, before: str = "") -> str:
    """A template of one question to Qwen2.5-VL, {} being the prompt. before: what stands before it."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{before}{{}}<|im_end|>\n<|im_start|>assistant\n"


def template(prompt: str, options: Mapping[str, Any]) -> str:
    """The prompt as the model was trained to read it. Wu et al. 2025, figures 7 and 8.

    options: `llama_template`, another template; `images`, the pictures that come with the prompt. A prompt that is a
    whole conversation already stays as it is.
    """
    if prompt.startswith(("<|im_start|>", "<|start_header_id|>")):
        return prompt
    chosen = options.get("llama_template") or (chat(SYSTEM_EDIT, VISION) if options.get("images") else chat(SYSTEM))
    return str(chosen).replace("{}", prompt, 1)


def trim(tokens: Tokens, encoded: Encoded) -> Encoded:
    """The encoding from where the user speaks: without the system's part and what opens the user's."""
    (rows,) = tokens.values()
    ids = [token[0] for token in rows[0]]
    starts = [place for place, token in enumerate(ids) if isinstance(token, int) and token == START]
    if len(starts) < 2:
        return encoded
    cut = starts[1]
    if [token for token in ids[cut + 1 : cut + 3] if isinstance(token, int)] == [USER, LINE]:
        cut += 3
    return encoded._replace(cond=encoded.cond[:, cut:])


TEXT = TextEncoding(
    types=("qwen_image",),
    parts=(
        TextPart(
            "qwen25_7b",
            "qwen25_7b",
            ("text_encoders.qwen25_7b.",),
            EncodeSettings(),
            RowSettings(min_length=1, max_length=None, pad_to_max=False, weights=False),
        ),
    ),
    template=template,
    trim=trim,
    default_for=(("qwen25_7b",),),
)

# -- the family -------------------------------------------------------------------------------------------------------


def prediction(diffusion: CheckpointHeader, whole: CheckpointHeader) -> Prediction:  # noqa: ARG001
    """A rectified flow, shifted towards noise by a fixed mean."""
    return Prediction("flux", {"shift": 1.15})


def conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The text and its mask, and the pictures to edit in model space."""
    found = standard_conditions(model, entries)
    if entries.get("attention_mask") is not None:
        found["attention_mask"] = entries["attention_mask"]
    return found | reference_conditions(model, entries)


FAMILY = Family(
    name="qwen_image",
    title="Qwen-Image",
    marks=(
        has("img_in.weight"),
        has("txt_norm.weight"),
        has("transformer_blocks.0.attn.add_q_proj.weight"),
        has("transformer_blocks.0.img_mod.1.weight"),
        has("norm_out.linear.weight"),
        has("proj_out.weight"),
        lacks("controlnet_blocks.0.weight"),
        lacks("time_text_embed.addition_t_embedding.weight"),
    ),
    infer_config=QwenImageConfig.from_header,
    network=QwenImageTransformer2DModel,
    prediction=prediction,
    latent=FORMATS["Wan21"],
    text=TEXT,
    conditions=conditions,
    context_width=lambda config: config.joint_attention_dim,
    lora=LoraNames(own=("{dots}", "transformer.{dots}", "lycoris_{flat}"), signs=("_img_mlp_net_", "_img_mod_1")),
    legacy=lambda config: {"image_model": "qwen_image"},  # noqa: ARG005
    dtypes=(torch.bfloat16, torch.float32),
    memory_factor=0.52,  # measured: benchmarks/memory_formula.py
    memory_text=8.0,
)
