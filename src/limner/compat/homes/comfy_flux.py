"""comfy.ldm.flux.model, comfy.ldm.chroma.layers and .model: Flux and Chroma by the reference's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from limner.compat.homes.stands_for import ReachesBase, StandsFor
from limner.models import chroma, flux
from limner.models.chroma import ChromaConfig
from limner.models.flux import FluxConfig
from limner.models.layers import streams


@dataclass
class FluxParams:
    """The dimensions of Flux, as its network is given them."""

    in_channels: int
    out_channels: int
    vec_in_dim: int
    context_in_dim: int
    hidden_size: int
    mlp_ratio: float
    num_heads: int
    depth: int
    depth_single_blocks: int
    axes_dim: Sequence[int]
    theta: int
    patch_size: int
    qkv_bias: bool
    guidance_embed: bool


@dataclass
class ChromaParams:
    """The dimensions of Chroma. in_channels, out_channels: of a patch."""

    in_channels: int
    out_channels: int
    context_in_dim: int
    hidden_size: int
    mlp_ratio: float
    num_heads: int
    depth: int
    depth_single_blocks: int
    axes_dim: Sequence[int]
    theta: int
    patch_size: int
    qkv_bias: bool
    in_dim: int
    out_dim: int
    hidden_dim: int
    n_layers: int


def _known(config: type, said: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(config)}
    found = {name: value for name, value in said.items() if name in names}
    return {**found, "axes_dim": tuple(said["axes_dim"])} if "axes_dim" in said else found


def _finish(network: nn.Module, final_layer: bool, dtype: Any) -> None:
    if not final_layer:
        del network.final_layer
    network.dtype = dtype
    if dtype is not None:
        network.to(dtype)


class Flux(flux.Flux, metaclass=ReachesBase):
    """Flux by its parts; those of loaded models are instances too. kwargs: of `FluxParams`, or FLUX.1 dev's."""

    recognises = staticmethod(lambda found: isinstance(found, flux.Flux) and not isinstance(found, chroma.Chroma))

    def __init__(
        self,
        image_model: Any = None,
        final_layer: bool = True,
        dtype: Any = None,
        device: Any = None,
        operations: Any = None,
        **kwargs: Any,
    ) -> None:
        del image_model, device, operations
        super().__init__(FluxConfig(**_known(FluxConfig, kwargs)))
        _finish(self, final_layer, dtype)


class Chroma(chroma.Chroma, metaclass=ReachesBase):
    """Chroma by its parts; those of loaded models are instances too. kwargs: of `ChromaParams`."""

    recognises = staticmethod(lambda found: isinstance(found, chroma.Chroma))

    def __init__(
        self,
        image_model: Any = None,
        final_layer: bool = True,
        dtype: Any = None,
        device: Any = None,
        operations: Any = None,
        **kwargs: Any,
    ) -> None:
        del image_model, device, operations
        said = _known(ChromaConfig, kwargs)
        cells = int(said.get("patch_size", 2)) ** 2
        said |= {name: said[name] // cells for name in ("in_channels", "out_channels") if name in said}
        super().__init__(ChromaConfig(**said))
        _finish(self, final_layer, dtype)


class DoubleStreamBlock(streams.DoubleStreamBlock, metaclass=StandsFor):
    """Flux's block as Chroma has it: it is given its shifts, scales and gates."""

    recognises = staticmethod(lambda found: isinstance(found, streams.DoubleStreamBlock) and not found.modulation)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"modulation": False, **kwargs})


class SingleStreamBlock(streams.SingleStreamBlock, metaclass=StandsFor):
    """The same of one stream."""

    recognises = staticmethod(lambda found: isinstance(found, streams.SingleStreamBlock) and found.modulation is None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"modulation": False, **kwargs})
