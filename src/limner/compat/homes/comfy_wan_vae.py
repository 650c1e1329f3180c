"""comfy.ldm.wan.vae: the video autoencoder and its layers."""

from __future__ import annotations

from collections.abc import Sequence

from limner.compat.homes.stands_for import StandsFor
from limner.models.vae import wan

AttentionBlock = wan.AttentionBlock
CausalConv3d = wan.CausalConv3d
Decoder3d = wan.Decoder3d
Encoder3d = wan.Encoder3d
Resample = wan.Resample
ResidualBlock = wan.ResidualBlock
RMS_norm = wan.RMSNorm
Upsample = wan.Upsample


class WanVAE(wan.WanVAE, metaclass=StandsFor):
    """The autoencoder by its dimensions; those that checkpoints hold are instances too."""

    recognises = staticmethod(lambda instance: isinstance(instance, wan.WanVAE))

    def __init__(
        self,
        dim: int = 128,
        z_dim: int = 4,
        dim_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attn_scales: Sequence[float] = (),
        temperal_downsample: Sequence[bool] = (True, True, False),
        dropout: float = 0.0,
    ) -> None:
        del dropout
        levels = tuple(level for level in range(len(dim_mult)) if 2.0**-level in attn_scales)
        super().__init__(wan.WanConfig(dim, z_dim, tuple(dim_mult), num_res_blocks, levels, tuple(temperal_downsample)))
