"""comfy.ldm.modules.diffusionmodules.openaimodel: the UNet and its layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from limner.compat.homes.comfy_model_detection import convert_config
from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models import unet
from limner.models.unet import Block, UNetConfig, apply_control
from limner.models.unet import timestep_embedding as _sines
from limner.weights.ops import Conv2d

__all__ = ["apply_control"]

TimestepEmbedSequential = Block
GROUPS = 32


def _pictures_only(name: str, dims: int) -> None:
    if dims != 2:
        raise missing(f"{name} over {dims} axes", "video")


def _sized(module: nn.Module, dtype: Any) -> None:
    if dtype is not None:
        module.to(dtype)


class Downsample(unet.Downsample, metaclass=StandsFor):
    """Half the size, by a strided convolution; those of a model are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.Downsample))

    def __init__(
        self,
        channels: int,
        use_conv: bool = True,
        dims: int = 2,
        out_channels: int | None = None,
        padding: int = 1,
        dtype: Any = None,
        device: Any = None,
        operations: Any = None,
    ) -> None:
        _pictures_only("Downsample", dims)
        super().__init__(channels)
        del device, operations
        if not use_conv:
            self.op = nn.AvgPool2d(2)  # type: ignore[assignment]
        elif out_channels not in (None, channels) or padding != 1:
            self.op = Conv2d(channels, out_channels or channels, 3, stride=2, padding=padding)
        _sized(self, dtype)


class Upsample(unet.Upsample, metaclass=StandsFor):
    """Twice the size, by nearest neighbours and a convolution; those of a model are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.Upsample))

    def __init__(
        self,
        channels: int,
        use_conv: bool = True,
        dims: int = 2,
        out_channels: int | None = None,
        padding: int = 1,
        dtype: Any = None,
        device: Any = None,
        operations: Any = None,
    ) -> None:
        _pictures_only("Upsample", dims)
        super().__init__(channels)
        del device, operations
        if not use_conv:
            self.conv = nn.Identity()  # type: ignore[assignment]
        elif out_channels not in (None, channels) or padding != 1:
            self.conv = Conv2d(channels, out_channels or channels, 3, padding=padding)
        _sized(self, dtype)

    def forward(self, x: Tensor, output_shape: Any = None) -> Tensor:
        """x: (B, C, H, W). output_shape: of the result, all axes or the last two; twice the size where None."""
        size = (2 * x.shape[2], 2 * x.shape[3]) if output_shape is None else tuple(output_shape)[-2:]
        return super().forward(x, (int(size[0]), int(size[1])))


class ResBlock(unet.ResBlock, metaclass=StandsFor):
    """Two convolutions with the time embedding between them; those of a model are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.ResBlock))

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float = 0.0,
        out_channels: int | None = None,
        use_conv: bool = False,
        use_scale_shift_norm: bool = False,
        dims: int = 2,
        use_checkpoint: bool = False,
        up: bool = False,
        down: bool = False,
        dtype: Any = None,
        **others: Any,
    ) -> None:
        _pictures_only("ResBlock", dims)
        if use_scale_shift_norm or up or down or use_conv or others.get("skip_t_emb"):
            raise missing("ResBlock with use_conv, use_scale_shift_norm, up, down or skip_t_emb", "config")
        super().__init__(channels, out_channels or channels, emb_channels, GROUPS)
        del dropout, use_checkpoint
        _sized(self, dtype)


TimestepBlock = ResBlock


class UNetModel(unet.UNet, metaclass=StandsFor):
    """A UNet by the reference's arguments; those of models are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.UNet))

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: Any,
        dropout: float = 0,
        channel_mult: Any = (1, 2, 4, 8),
        dtype: Any = None,
        **others: Any,
    ) -> None:
        del image_size, dropout
        said = convert_config({**others, "num_res_blocks": num_res_blocks, "channel_mult": channel_mult})
        if said.get("use_temporal_resblock") or said.get("use_temporal_attention"):
            raise missing("UNetModel over time", "video")
        down = tuple(said.get("transformer_depth") or (0,) * sum(said["num_res_blocks"]))
        up = said.get("transformer_depth_output") or (0,) * (sum(said["num_res_blocks"]) + len(channel_mult))
        middle = said.get("transformer_depth_middle")
        heads, width = said.get("num_heads", -1), said.get("num_head_channels", -1)
        super().__init__(
            UNetConfig(
                in_channels=in_channels,
                out_channels=out_channels,
                model_channels=model_channels,
                channel_mult=tuple(channel_mult),
                num_res_blocks=tuple(said["num_res_blocks"]),
                transformer_depth=down,
                transformer_depth_middle=down[-1] if middle is None else middle,
                transformer_depth_output=tuple(up),
                use_linear_in_transformer=bool(said.get("use_linear_in_transformer", False)),
                context_dim=said.get("context_dim"),
                disable_self_attentions=tuple(said.get("disable_self_attentions") or ()),
                adm_in_channels=said.get("adm_in_channels"),
                num_classes=classes if isinstance(classes := said.get("num_classes"), int) else None,
                num_heads=heads if width == -1 else -1,
                num_head_channels=width,
                attn_precision=said.get("attn_precision"),
            )
        )
        self.dtype = dtype
        _sized(self, dtype)


def forward_timestep_embed(
    ts: Any,
    x: Tensor,
    emb: Tensor,
    context: Tensor | None = None,
    transformer_options: Any = None,
    output_shape: Any = None,
    time_context: Any = None,
    num_video_frames: Any = None,
    image_only_indicator: Any = None,
) -> Tensor:
    """The layers of one place of a UNet, each given what it takes."""
    del time_context, num_video_frames, image_only_indicator
    size = None if output_shape is None else (int(output_shape[2]), int(output_shape[3]))
    found: Tensor = Block.run(ts, x, emb, context, transformer_options, size)
    return found


class Timestep(nn.Module):
    """Sines and cosines of a time. dim: how many."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        """t: (B,) → (B, dim)."""
        return _sines(t, self.dim)
