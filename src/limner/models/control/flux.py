"""ControlNets of FLUX.1: those of XLabs, and those of InstantX, union and inpainting included.

The first blocks of the model, shown a hint beside the latent: XLabs' a picture through convolutions, InstantX' its
latent. A union network is told by a token before the text what it is shown. XLabs' residuals are given to the model's
blocks in turn, again and again; InstantX' each to several in a row.

Names are those of the model (`double_blocks.0.…`), as in XLabs' files; InstantX' come in the diffusers library's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.models.control.base import Residuals, told
from limner.models.control.kind import ControlKind, Hint, Layout
from limner.models.control.unet import HINT_NAMES, hint_block, hint_widths
from limner.models.family import Overrides, has
from limner.models.flux import Flux, FluxConfig
from limner.models.flux import from_diffusers as flux_targets
from limner.models.layers.hooks import Hooks
from limner.models.layers.patches import patched
from limner.models.layers.shapes import agree, shape
from limner.sampling.latent_formats import FORMATS
from limner.weights import CheckpointHeader
from limner.weights.ops import Embedding, Linear
from limner.weights.targets import renamed

LATENT = FORMATS["Flux"]
BLOCKS, SINGLE_BLOCKS = 19, 38
"""Blocks of the model, of two streams and of one."""


@dataclass(frozen=True)
class ControlFluxConfig:
    """flux: of the blocks. hint_channels: of the latent of the hint, and of a mask where there is one.

    picture: channels before and after each convolution, where the hint is a picture; empty where it is a latent.
    modes: kinds of hint that a union network knows.
    """

    flux: FluxConfig
    hint_channels: int = 16
    picture: tuple[int, ...] = ()
    modes: int = 0


def infer_config(header: CheckpointHeader, said: Overrides) -> ControlFluxConfig:
    """The dimensions from the tensors; `said` is the file's config (see `FluxConfig`)."""
    shapes = header.shapes()
    width, patch_channels = shape(shapes, "img_in.weight", 2)
    flux = FluxConfig.from_state({**shapes, "final_layer.linear.weight": (patch_channels, width)}, said)
    cells = flux.patch_size**2
    modes = "controlnet_mode_embedder.weight"
    config = ControlFluxConfig(
        flux=flux,
        hint_channels=shape(shapes, "pos_embed_input.weight", 2)[1] // cells,
        picture=hint_widths(shapes) if "input_hint_block.0.weight" in shapes else (),
        modes=shape(shapes, modes, 2)[0] if modes in shapes else 0,
    )
    agree(said, "control_latent_channels", config.hint_channels)
    agree(said, "latent_input", not config.picture)
    if config.modes:
        agree(said, "num_union_modes", config.modes)
    return config


class ControlFlux(Flux):
    """Residuals for the patches after each block, of a latent, a time, a text and a hint."""

    def __init__(self, config: ControlFluxConfig) -> None:
        super().__init__(config.flux)
        del self.final_layer
        flux = config.flux
        width = flux.hidden_size
        self.modes, self.picture = config.modes, config.picture
        self.controlnet_blocks = nn.ModuleList(Linear(width, width) for _ in range(flux.depth))
        self.controlnet_single_blocks = nn.ModuleList(Linear(width, width) for _ in range(flux.depth_single_blocks))
        self.pos_embed_input = Linear(flux.patch_size**2 * config.hint_channels, width)
        if config.modes:
            self.controlnet_mode_embedder = Embedding(config.modes, width)
        if config.picture:
            self.input_hint_block = hint_block(config.picture)

    def forward(  # type: ignore[override]
        self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None,
        guidance: Tensor | None = None, control_type: Sequence[int] = (), **_: Any,
    ) -> Residuals:  # fmt: skip
        """What is added after the model's blocks, in x's dtype.

        x:            (B, C, H, W). timesteps: (B,), 0 … 1. context: (B, L, context_in_dim), the text.
        hint:         (B or 1, 3, 8 H, 8 W), a picture in 0..1; or (B or 1, hint channels, H, W), a latent and a mask.
        y, guidance:  as of the model. control_type: of union networks, which kind the hint is; none for any.
        returns:      "input": (B, N, D) for each of the model's blocks of two streams, "output": of one.

        Raises BadInput when the text is of another width or a kind does not exist.
        """
        context = told(context, "text", self.config.context_in_dim).to(x.dtype)
        hooks = Hooks(None)
        patches, places = self.process_img(x)
        latent = self.input_hint_block(hint * 2 - 1) if self.picture else hint
        shown, _rows, _columns = patched(latent, self.patch_size)
        img = self.img_in(patches) + self.pos_embed_input(shown)
        txt = self._with_kind(self.txt_in(context), control_type)
        vec = self.told(timesteps, y, guidance, x.dtype)
        text_places = places.new_zeros(1, txt.shape[1], places.shape[-1])
        pe = self.pe_embedder(torch.cat((text_places, places), dim=1))
        doubles: list[Tensor] = []
        double_blocks: Iterable[Any] = self.double_blocks
        for block, layer in zip(double_blocks, self.controlnet_blocks, strict=True):
            img, txt = block.over(img, txt, vec, pe, None, hooks)
            doubles.append(layer(img))
        length = txt.shape[1]
        img = torch.cat((txt, img), dim=1) if len(self.single_blocks) else img
        singles: list[Tensor] = []
        single_blocks: Iterable[Any] = self.single_blocks
        for block, layer in zip(single_blocks, self.controlnet_single_blocks, strict=True):
            img = block.over(img, vec, pe, None, hooks)
            singles.append(layer(img[:, length:]))
        return {"input": self.spread(doubles, BLOCKS), "output": self.spread(singles, SINGLE_BLOCKS)}

    def _with_kind(self, txt: Tensor, control_type: Sequence[int]) -> Tensor:
        """The text behind a token for each kind of hint."""
        if not self.modes or not control_type:
            return txt
        wrong = [number for number in control_type if not 0 <= number < self.modes]
        if wrong:
            raise BadInput(
                f"The union ControlNet has no kind number {wrong[0]}.",
                why=f"It was made for {self.modes} kinds.",
                do="Choose another type in SetUnionControlNetType.",
            )
        kinds = self.controlnet_mode_embedder(torch.tensor(list(control_type), device=txt.device), txt.dtype)
        return torch.cat((kinds.expand(len(txt), -1, -1), txt), dim=1)

    def spread(self, residuals: Sequence[Tensor], blocks: int) -> list[Tensor | None]:
        """The residuals over the model's blocks: in turn, or each to as many in a row as it takes."""
        if not residuals:
            return []
        if self.picture:
            return [residuals[number % len(residuals)] for number in range(blocks)]
        each = math.ceil(blocks / len(residuals))
        return [residuals[number // each] for number in range(blocks)]


def from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """The diffusers library's names under the model's."""
    targets = dict(flux_targets(header))
    for leaf in ("weight", "bias"):
        targets[f"controlnet_x_embedder.{leaf}"] = f"pos_embed_input.{leaf}"
        for theirs, ours in HINT_NAMES.items():
            targets[f"input_hint_block.{theirs}.{leaf}"] = f"input_hint_block.{ours}.{leaf}"
    return renamed(header, targets)


def hint(config: ControlFluxConfig) -> Hint:
    """A picture; or a latent, and a mask where there is one more channel."""
    if config.picture:
        return Hint()
    return Hint(ratio=1, latent=LATENT, mask=config.hint_channels == config.flux.in_channels + 1)


CONTROL = ControlKind(
    name="control-flux",
    title="ControlNet of FLUX.1",
    layouts=(
        Layout((has("controlnet_blocks.0.weight"), has("double_blocks.0.img_attn.norm.key_norm.scale"),
                has("pos_embed_input.weight"))),
        Layout((has("controlnet_blocks.0.weight"), has("controlnet_x_embedder.weight"), has("x_embedder.weight"),
                has("transformer_blocks.0.attn.add_q_proj.weight")),
               from_diffusers),
    ),
    infer_config=infer_config,
    network=ControlFlux,
    hint=hint,
    residuals=lambda config: (
        (config.flux.depth + config.flux.depth_single_blocks) * config.flux.hidden_size / config.flux.patch_size**2
    ),
    extra_conds=("y", "guidance"),
    dtypes=(torch.bfloat16, torch.float16, torch.float32),
)  # fmt: skip
