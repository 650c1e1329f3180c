"""comfy.cldm.cldm: control networks of UNets by the reference's arguments."""

from __future__ import annotations

from typing import Any

from limner.compat.homes.comfy_model_detection import convert_config
from limner.compat.homes.stands_for import StandsFor
from limner.models.control import unet
from limner.models.control.unet import ControlUNetConfig
from limner.models.layers import residual
from limner.models.unet import UNetConfig


class ControlNet(unet.ControlUNet, metaclass=StandsFor):
    """A control network by the reference's arguments; those of controls are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, unet.ControlUNet))

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        hint_channels: int,
        num_res_blocks: Any,
        dropout: float = 0,
        channel_mult: Any = (1, 2, 4, 8),
        dtype: Any = None,
        union_controlnet_num_control_type: int | None = None,
        **others: Any,
    ) -> None:
        del image_size, dropout
        said = convert_config({**others, "num_res_blocks": num_res_blocks, "channel_mult": channel_mult})
        depths = tuple(said.get("transformer_depth") or (0,) * sum(said["num_res_blocks"]))
        middle = said.get("transformer_depth_middle")
        heads, width = said.get("num_heads", -1), said.get("num_head_channels", -1)
        config = UNetConfig(
            in_channels=in_channels,
            out_channels=in_channels,
            model_channels=model_channels,
            channel_mult=tuple(channel_mult),
            num_res_blocks=tuple(said["num_res_blocks"]),
            transformer_depth=depths,
            transformer_depth_middle=depths[-1] if middle is None else middle,
            transformer_depth_output=(),
            use_linear_in_transformer=bool(said.get("use_linear_in_transformer", False)),
            context_dim=said.get("context_dim"),
            adm_in_channels=said.get("adm_in_channels"),
            num_heads=heads if width == -1 else -1,
            num_head_channels=width,
        )
        hint = (hint_channels, 16, 16, 32, 32, 96, 96, 256, model_channels)
        super().__init__(ControlUNetConfig(config, hint, union_controlnet_num_control_type or 0))
        self.dtype = dtype
        if dtype is not None:
            self.to(dtype)


OptimizedAttention = residual.SelfAttention
ResBlockUnionControlnet = residual.ResidualAttention
ControlAddEmbedding = unet.ControlAddEmbedding
