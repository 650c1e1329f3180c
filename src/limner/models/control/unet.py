"""ControlNets of Stable Diffusion 1, 2 and XL. Zhang et al. 2023.

A copy of the UNet's way down that is also shown a hint, and one 1×1 convolution after each block: what they make is
added to the skips of the UNet. Names are those of the original files (`control_model.…`); diffusers' are converted. A
union network (xinsir's ControlNet++) is told which kinds of hint it gets, and lets hints and latent look at each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.control.base import ControlBase, Residuals, told
from limner.models.control.kind import ControlFile, ControlKind, Layout, make_control_net
from limner.models.convert import unet_from_diffusers
from limner.models.family import Mark, has, lacks
from limner.models.layers.hooks import Hooks
from limner.models.layers.residual import ResidualAttention
from limner.models.layers.shapes import Overrides, Shapes, agree, count, shape
from limner.models.unet import UNet, UNetConfig, timestep_embedding
from limner.weights import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.ops import Conv2d, Linear
from limner.weights.quant import as_floats

HINT_LAYERS = (0, 2, 4, 6, 8, 10, 12, 14)
"""Where the convolutions of `input_hint_block` stand; those at 4, 8 and 12 halve the size."""
ANGLES = 256
"""Width of the embedding of one entry of a union network's list of kinds, unless the file says otherwise."""


@dataclass(frozen=True)
class ControlUNetConfig:
    """unet: of the way down. hint: channels before and after each convolution of the hint. kinds: of a union network.

    union_depth: transformers in which the hints of a union network and the latent look at each other.
    """

    unet: UNetConfig
    hint: tuple[int, ...] = (3, 16, 16, 32, 32, 96, 96, 256, 320)
    kinds: int = 0
    angles: int = ANGLES
    union_depth: int = 1
    union_heads: int = 8

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> ControlUNetConfig:
        """Read the dimensions off the tensors.

        overrides: as of `UNetConfig`, `hint_channels`, `num_control_type`,
        and `num_trans_head`, 8 by rule.
        """
        first = shape(shapes, "input_blocks.0.0.weight", 4)
        unet = UNetConfig.from_state({**shapes, "out.2.weight": (first[1], first[0], 3, 3)}, overrides)
        kinds = shape(shapes, "task_embedding", 2)[0] if "task_embedding" in shapes else 0
        angles = shape(shapes, "control_add_embedding.linear_1.weight", 2)[1] // kinds if kinds else ANGLES
        config = cls(
            unet=replace(unet, transformer_depth_output=()),
            hint=hint_widths(shapes),
            kinds=kinds,
            angles=angles,
            union_depth=count(shapes, "transformer_layes.{}.attn."),
            union_heads=int(overrides.get("num_trans_head") or 8),
        )
        agree(overrides, "hint_channels", config.hint[0])
        if kinds:
            agree(overrides, "num_control_type", kinds)
        return config


def hint_widths(shapes: Shapes) -> tuple[int, ...]:
    """The channels of the hint before and after each convolution."""
    found = [shape(shapes, f"input_hint_block.{place}.weight", 4) for place in HINT_LAYERS]
    return (found[0][1], *(one[0] for one in found))


def hint_block(widths: Sequence[int]) -> nn.Sequential:
    """Eight convolutions with SiLU between them, to an eighth of the size."""
    layers: list[nn.Module] = []
    for place, (before, after) in zip(HINT_LAYERS, pairwise(widths), strict=True):
        layers += [nn.SiLU()] if place else []
        layers.append(Conv2d(before, after, 3, padding=1, stride=2 if place in (4, 8, 12) else 1))
    return nn.Sequential(*layers)


class ControlAddEmbedding(nn.Module):
    """Which kinds of hint there are, for the time embedding."""

    def __init__(self, kinds: int, angles: int, width: int) -> None:
        super().__init__()
        self.kinds = kinds
        self.angles = angles
        self.linear_1 = Linear(kinds * angles, width)
        self.linear_2 = Linear(width, width)

    def forward(self, chosen: Sequence[int], like: Tensor) -> Tensor:
        """chosen: numbers of kinds, none for any → (1, width) in the dtype of `like`."""
        marks = torch.zeros(self.kinds, device=like.device)
        for number in chosen:
            marks[number] = 1
        angles = timestep_embedding(marks, self.angles).flatten()[None].to(like.dtype)
        return self.linear_2(F.silu(self.linear_1(angles)))


class ControlUNet(nn.Module):
    """Residuals for the skips and the middle of a UNet, of a latent, a time, a text and a hint."""

    def __init__(self, config: ControlUNetConfig) -> None:
        super().__init__()
        self.config = config
        unet = config.unet
        emb = 4 * unet.model_channels
        self.time_embed = nn.Sequential(Linear(unet.model_channels, emb), nn.SiLU(), Linear(emb, emb))
        self.label_emb = (
            nn.Sequential(nn.Sequential(Linear(unet.adm_in_channels, emb), nn.SiLU(), Linear(emb, emb)))
            if unet.adm_in_channels is not None
            else None
        )
        self.input_blocks, skips = UNet._make_input_blocks(unet, emb)
        self.middle_block = UNet._make_middle(unet, emb)
        self.input_hint_block = hint_block(config.hint)
        self.zero_convs = nn.ModuleList(nn.Sequential(Conv2d(width, width, 1)) for width in skips)
        self.middle_block_out = nn.Sequential(Conv2d(skips[-1], skips[-1], 1))
        if config.kinds:
            width = unet.model_channels
            self.control_add_embedding = ControlAddEmbedding(config.kinds, config.angles, emb)
            self.task_embedding = nn.Parameter(torch.empty(config.kinds, width))
            self.transformer_layes = nn.ModuleList(
                ResidualAttention(width, config.union_heads) for _ in range(config.union_depth)
            )
            self.spatial_ch_projs = Linear(width, width)

    def forward(
        self,
        x: Tensor,
        hint: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control_type: Sequence[int] = (),
        **_: Any,
    ) -> Residuals:
        """What is added to the UNet, computed and returned in x's dtype.

        x:            (B, in_channels, H, W). timesteps: (B,), 0 … 999.
        hint:         (B or 1, hint channels, 8 H, 8 W), a picture in 0..1.
        context:      (B, L, D), the encoded text. y: (B, adm), for networks that take a vector.
        control_type: of union networks, which kind the hint is; several are several hints, (B, kinds, …). None: any.
        returns:      "output": one residual for each input block, in their order; "middle": one.

        Raises BadInput when the text is of another width, y is missing, or a kind does not exist.
        """
        self._check(context, y, control_type)
        unet = self.config.unet
        emb = self.time_embed(timestep_embedding(timesteps, unet.model_channels).to(x.dtype))
        if self.label_emb is not None and y is not None:
            emb = emb + self.label_emb(y.to(x.dtype))
        if self.config.kinds:
            emb = emb + self.control_add_embedding(control_type, x)
        hooks = Hooks(None)
        residuals: list[Tensor | None] = []
        for number, (block, convolution) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            x = block(x, emb, context, hooks)
            if number == 0:
                x = x + self._guide(x, hint, control_type)
            residuals.append(convolution(x))
        x = self.middle_block(x, emb, context, hooks)
        return {"output": residuals, "middle": [self.middle_block_out(x)]}

    def _guide(self, x: Tensor, hint: Tensor, control_type: Sequence[int]) -> Tensor:
        """The hint at the latent's size; of a union network, that of all hints, moved by what they say together."""
        if not self.config.kinds or not control_type:
            return self.input_hint_block(hint)
        hints = hint.unbind(1) if hint.ndim == 5 else [hint] * len(control_type)
        seen = [self.input_hint_block(one) for one in hints]
        tokens = [one.mean(dim=(2, 3)) + self.task_embedding[number].to(one.dtype)
                  for one, number in zip(seen, control_type, strict=True)]  # fmt: skip
        tokens = [token.expand(x.shape[0], -1) for token in tokens]
        joined = torch.stack([*tokens, x.mean(dim=(2, 3))], dim=1)
        for layer in self.transformer_layes:
            joined = layer(joined)
        guide = torch.zeros_like(x)
        for number, one in enumerate(seen):
            guide += one + self.spatial_ch_projs(joined[:, number])[:, :, None, None]
        return guide

    def _check(self, context: Tensor | None, y: Tensor | None, control_type: Sequence[int]) -> None:
        unet = self.config.unet
        if context is not None and unet.context_dim is not None:
            told(context, "text", unet.context_dim)
        if self.label_emb is not None and y is None:
            raise BadInput("This ControlNet needs a vector y.", why="It was made for Stable Diffusion XL.")
        wrong = [number for number in control_type if self.config.kinds and not 0 <= number < self.config.kinds]
        if wrong:
            raise BadInput(
                f"The union ControlNet has no kind number {wrong[0]}.",
                why=f"It was made for {self.config.kinds} kinds.",
                do="Choose another type in SetUnionControlNetType.",
            )


# -- files ------------------------------------------------------------------------------------------------------------

HINT_NAMES = {"conv_in": 0, "conv_out": 14, **{f"blocks.{n}": 2 * n + 2 for n in range(6)}}
"""What the diffusers library calls the convolutions of the hint."""
_DIFFUSERS = {
    **{f"controlnet_cond_embedding.{theirs}": f"input_hint_block.{ours}" for theirs, ours in HINT_NAMES.items()},
    "controlnet_mid_block": "middle_block_out.0",
}


def from_diffusers(header: CheckpointHeader) -> CheckpointHeader:
    """A ControlNet of the diffusers library under the original names."""

    def renamed(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        if module.startswith("controlnet_down_blocks."):
            return f"zero_convs.{module.rpartition('.')[2]}.0.{leaf}"
        return f"{_DIFFUSERS[module]}.{leaf}" if module in _DIFFUSERS else name

    return unet_from_diffusers(header).rename(renamed)


def from_checkpoint(header: CheckpointHeader) -> CheckpointHeader:
    """The part of a training checkpoint that is the ControlNet, with the mark of a difference where it has that."""
    inside = header.select("control_model.")
    marks = {"difference": header.tensors["difference"]} if "difference" in header else {}
    return replace(inside, tensors={**inside.tensors, **marks})


def infer_config(header: CheckpointHeader, said: Mapping[str, Any]) -> ControlUNetConfig:
    """The dimensions from the tensors; `said` is the file's config."""
    return ControlUNetConfig.from_state(header.shapes(), said)


def residuals(config: ControlUNetConfig) -> float:
    """Numbers for each latent cell: after the first convolution, each block and each halving, and after the middle."""
    widths = config.unet.widths
    found = float(config.unet.model_channels)
    for level, (width, blocks) in enumerate(zip(widths, config.unet.num_res_blocks, strict=True)):
        found += width * (blocks / 4**level + (0 if level == len(widths) - 1 else 1 / 4 ** (level + 1)))
    return found + widths[-1] / 4 ** (len(widths) - 1)


def make(kind: ControlKind, file: ControlFile) -> ControlBase:
    """The control of a file. Where the file holds differences, those of the model's weights are added to them.

    Raises BadInput for differences without a model.
    """
    if "difference" not in file.header:
        return make_control_net(kind, file)
    if file.model is None:
        raise BadInput(
            f"{file.header.path.name} holds only the differences to a model's weights.",
            why="It has the tensor `difference`.",
            do="Load it with Load ControlNet Model (diff) and the model it was made for.",
        )
    base = file.model.source
    tensors = {
        name: _added(entry, base, name) if name in base.tensors else entry
        for name, entry in file.header.tensors.items()
        if name != "difference"
    }
    identity = f"{file.header.identity}+{base.identity}/{base.patches_digest}"
    return make_control_net(kind, replace(file, header=replace(file.header, tensors=tensors, identity=identity)))


def _added(entry: LazyTensor, base: Any, name: str) -> LazyTensor:
    """A difference and the base's patched weight, read when it is needed."""

    def read() -> Tensor:
        return (as_floats(entry.read()).float() + base.patched(name).float()).to(entry.dtype)

    return replace(entry, read=read, is_view=False).packed(None)


CONTROL = ControlKind(
    name="unet",
    title="ControlNet of Stable Diffusion 1, 2 or XL",
    layouts=(
        Layout((has("zero_convs.0.0.weight"), has("input_hint_block.0.weight"), lacks("lora_controlnet"))),
        Layout((has("control_model.zero_convs.0.0.weight"), has("control_model.input_hint_block.0.weight")),
               from_checkpoint),
        Layout((has("controlnet_cond_embedding.conv_in.weight"), has("controlnet_down_blocks.0.weight"),
                Mark("down_blocks", lambda header: "down_blocks.0.resnets.0.conv1.weight" in header)),
               from_diffusers),
    ),
    infer_config=infer_config,
    network=ControlUNet,
    residuals=residuals,
    make=make,
)  # fmt: skip
