"""comfy.ldm.flux.controlnet and comfy.cldm.mmdit: control networks of transformers by the reference's arguments."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models.control import flux, sd3
from limner.models.control.flux import ControlFluxConfig
from limner.models.control.sd3 import ControlMMDiTConfig
from limner.models.flux import FluxConfig
from limner.models.sd3 import MMDiTConfig

HINT = (3, *[16] * 8)


class ControlNetFlux(flux.ControlFlux, metaclass=StandsFor):
    """A control network of FLUX.1; those of controls are instances too."""

    recognises = staticmethod(lambda found: isinstance(found, flux.ControlFlux))

    def __init__(
        self,
        latent_input: bool = False,
        num_union_modes: int = 0,
        mistoline: bool = False,
        control_latent_channels: int | None = None,
        dtype: Any = None,
        **others: Any,
    ) -> None:
        if mistoline:
            raise missing("ControlNetFlux(mistoline=True)", "controlnet")
        known = {field.name for field in fields(FluxConfig)}
        said = {name: value for name, value in others.items() if name in known}
        config = FluxConfig(**{**said, "axes_dim": tuple(said.get("axes_dim", (16, 56, 56)))})
        channels = control_latent_channels or config.in_channels
        super().__init__(ControlFluxConfig(config, channels, () if latent_input else HINT, num_union_modes))
        self.dtype = dtype
        if dtype is not None:
            self.to(dtype)


class ControlNet(sd3.ControlMMDiT, metaclass=StandsFor):
    """A control network of Stable Diffusion 3; those of controls are instances too. num_blocks: of it."""

    recognises = staticmethod(lambda found: isinstance(found, sd3.ControlMMDiT))

    def __init__(
        self, num_blocks: int | None = None, control_latent_channels: int | None = None, dtype: Any = None,
        **others: Any,
    ) -> None:  # fmt: skip
        known = {field.name for field in fields(MMDiTConfig)} - {"x_block_self_attn_layers"}
        said = {name: value for name, value in others.items() if name in known}
        alone = tuple(others.get("x_block_self_attn_layers") or ())
        config = MMDiTConfig(**{**said, "depth": num_blocks or said.get("depth", 24)}, x_block_self_attn_layers=alone)
        super().__init__(ControlMMDiTConfig(config, control_latent_channels or config.in_channels))
        self.dtype = dtype
        if dtype is not None:
            self.to(dtype)
