"""Chroma: Flux's blocks, told what to do by a network of their own. Lodestone Rock 2025, model card of Chroma1.

Flux makes every shift, scale and gate inside its blocks, from one vector. Here a small network makes all of them at
once from the time, the guidance and the number of each, as a table of 344 rows, and each block is handed its own.
There is no vector of the text, and text is hidden from attention where it is padding.

Attribute names are the keys of the published checkpoints (`distilled_guidance_layer.in_proj.weight` …).
Shape letters: B batch, N patches, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limner.models.family import DiffusersLayout, Family, Overrides, has, lacks
from limner.models.flux import (
    FLUX,
    Flux,
    FluxConfig,
    conditions_of,
    diffusers_targets,
    distilled,
    embedded,
)
from limner.models.layers.shapes import Shapes, agree, count, shape
from limner.models.layers.streams import MLPEmbedder, ModulationOut, RMSNorm, norm
from limner.models.text.encode import EncodeSettings
from limner.models.text.recipe import RowSettings, TextEncoding, TextPart
from limner.weights.header import CheckpointHeader
from limner.weights.ops import Linear
from limner.weights.targets import Target

ROWS = 344  # shifts, scales and gates of the published depth, whatever the depth; the last two are the last layer's
GUIDER = "distilled_guidance_layer"


@dataclass(frozen=True)
class ChromaConfig(FluxConfig):
    """Flux's dimensions, and those of the network that tells its blocks. Defaults are Chroma1's."""

    vec_in_dim: int | None = None
    guidance_embed: bool = False
    in_dim: int = 64  # what it is given: time and guidance a quarter each, the number of a row half
    hidden_dim: int = 5120
    n_layers: int = 5

    @classmethod
    def from_state(cls, shapes: Shapes, overrides: Overrides) -> ChromaConfig:
        """Read the dimensions off the tensors of a bare network.

        overrides: as of `FluxConfig`, but `in_channels` and `out_channels` count a patch's.
        """
        patch = {"in_channels", "out_channels"}
        flux = FluxConfig.from_state(shapes, {name: said for name, said in overrides.items() if name not in patch})
        hidden, given = shape(shapes, f"{GUIDER}.in_proj.weight", 2)
        config = cls(**{**asdict(flux), "in_dim": given, "hidden_dim": hidden,
                        "n_layers": count(shapes, f"{GUIDER}.norms.{{}}.")})  # fmt: skip
        for name in ("in_dim", "hidden_dim", "n_layers"):
            agree(overrides, name, getattr(config, name))
        for name in patch:
            agree(overrides, name, getattr(flux, name) * flux.patch_size**2)
        return config


class Approximator(nn.Module):
    """Residual layers from the place of a row to the row: what Flux's modulations were distilled into."""

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int, n_layers: int = 5, **_: Any) -> None:
        super().__init__()
        self.in_proj = Linear(in_dim, hidden_dim)
        self.layers = nn.ModuleList(MLPEmbedder(hidden_dim, hidden_dim) for _ in range(n_layers))
        self.norms = nn.ModuleList(RMSNorm(hidden_dim) for _ in range(n_layers))
        self.out_proj = Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, rows, in) → (B, rows, out)."""
        x = self.in_proj(x)
        for layer, normalize in zip(self.layers, self.norms, strict=True):
            x = x + layer(normalize(x))
        return self.out_proj(x)


class LastLayer(nn.Module):
    """Patches to the latent's cells; it is handed its shift and scale."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int, **_: Any) -> None:
        super().__init__()
        self.norm_final = norm(hidden_size)
        self.linear = Linear(hidden_size, patch_size**2 * out_channels)

    def forward(self, x: Tensor, vec: Sequence[Tensor], modulation_dims: Any = None) -> Tensor:
        """x: (B, N, D), vec: shift and scale, (B, 1, D) each → (B, N, patch² · out)."""
        del modulation_dims
        shift, scale = vec
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))


class Chroma(Flux):
    """Flux, told by an approximator."""

    config: ChromaConfig
    modulates = False

    def _make_told(self, config: FluxConfig) -> None:
        assert isinstance(config, ChromaConfig)  # noqa: S101 - what its constructor is given
        self.in_dim = config.in_dim
        self.distilled_guidance_layer = Approximator(
            config.in_dim, config.hidden_size, config.hidden_dim, config.n_layers
        )

    def _last_layer(self, config: FluxConfig) -> nn.Module:
        return LastLayer(config.hidden_size, config.patch_size, config.out_channels)

    def told(self, timesteps: Tensor, y: Tensor | None, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """All shifts, scales and gates: (B, 344, D). y is not used. guidance: 0 where None."""
        del y
        quarter = self.in_dim // 4
        guidance = torch.zeros_like(timesteps) if guidance is None else guidance
        time = torch.cat((embedded(timesteps, quarter), embedded(guidance, quarter)), dim=-1).to(dtype)
        rows = embedded(torch.arange(ROWS, device=timesteps.device), 2 * quarter).to(dtype)
        places = torch.cat((time[:, None].expand(-1, ROWS, -1), rows.expand(len(time), -1, -1)), dim=-1)
        return self.distilled_guidance_layer(places)

    def single_told(self, told: Tensor, number: int) -> ModulationOut:
        """Three rows of block `number` of one stream; they come first."""
        return _rows(told, 3 * number)

    def double_told(self, told: Tensor, number: int) -> tuple[tuple[ModulationOut, ...], ...]:
        """Six rows of the patches and six of the text; those of all patches come before those of all text."""
        of_image = 3 * self.config.depth_single_blocks + 6 * number
        of_text = of_image + 6 * self.config.depth
        return tuple((_rows(told, start), _rows(told, start + 3)) for start in (of_image, of_text))

    def last_told(self, told: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale: the last two rows."""
        return told[:, -2:-1], told[:, -1:]


def _rows(told: Tensor, start: int) -> ModulationOut:
    return ModulationOut(*(told[:, start + place : start + place + 1] for place in range(3)))


# -- other names for the same weights ---------------------------------------------------------------------------------


def chroma_targets(depth: int, single: int, width: int, inner: int, layers: int) -> dict[str, Target]:
    """The diffusers library's name of every tensor → where it belongs. inner: width inside the feed-forward."""
    found = diffusers_targets(depth, single, width, inner)
    for number in range(layers):
        for theirs, ours in (("linear_1", "in_layer"), ("linear_2", "out_layer")):
            for leaf in ("weight", "bias"):
                name = f"{GUIDER}.layers.{number}"
                found[f"{name}.{theirs}.{leaf}"] = f"{name}.{ours}.{leaf}"
        found[f"{GUIDER}.norms.{number}.weight"] = f"{GUIDER}.norms.{number}.scale"
    return found


def from_diffusers(header: CheckpointHeader) -> Mapping[str, Target]:
    """The targets of a header in the diffusers library's layout."""
    shapes = header.shapes()
    return chroma_targets(
        count(shapes, "transformer_blocks.{}."),
        count(shapes, "single_transformer_blocks.{}."),
        shape(shapes, "x_embedder.weight", 2)[0],
        shape(shapes, "transformer_blocks.0.ff.net.0.proj.weight", 2)[0],
        count(shapes, GUIDER + ".norms.{}."),
    )


def older_names(header: CheckpointHeader) -> Mapping[str, Target]:
    """Early checkpoints have the approximator in a list of one."""
    return {name: name.replace(f"{GUIDER}.0.", f"{GUIDER}.", 1) for name in header}


def legacy(config: Any) -> dict[str, Any]:
    """The reference counts a patch's channels, and says what the approximator gives."""
    cells = config.patch_size**2
    patch = {"in_channels": config.in_channels * cells, "out_channels": config.out_channels * cells}
    return {"image_model": "chroma", **patch, "out_dim": config.hidden_size}


# -- the family -------------------------------------------------------------------------------------------------------

TEXT = TextEncoding(
    types=("chroma",),
    parts=(
        TextPart(
            "t5xxl",
            "t5xxl",
            ("text_encoders.t5xxl.", "cond_stage_model."),
            EncodeSettings(start=-1, end=1, pad=0, empty_end=False),
            RowSettings(min_length=1, max_length=None, pad_to_max=False, embeddings=False),
        ),
    ),
)

FAMILY = replace(
    FLUX,
    name="chroma",
    title="Chroma",
    marks=(
        has("double_blocks.0.img_attn.norm.key_norm.scale"),
        has("img_in.weight"),
        has(f"{GUIDER}.norms.0.scale"),
        has(f"{GUIDER}.in_proj.weight"),
        has("final_layer.linear.weight"),
        lacks("controlnet_blocks.0.weight"),
    ),
    infer_config=lambda header, overrides: ChromaConfig.from_state(header.shapes(), overrides),
    network=Chroma,
    prediction=distilled,
    text=TEXT,
    vae_prefixes=("first_stage_model.", "vae."),
    conditions=conditions_of(0.0),
    vector=Family.vector,
    concat=Family.concat,
    grown=Family.grown,
    diffusers=DiffusersLayout(
        (
            has("x_embedder.weight"),
            has("single_transformer_blocks.0.proj_mlp.weight"),
            has(f"{GUIDER}.in_proj.weight"),
            has("single_transformer_blocks.0.attn.norm_q.weight"),
            lacks("controlnet_blocks.0.weight"),
        ),
        from_diffusers,
    ),
    legacy=legacy,
    layouts=(DiffusersLayout((has(f"{GUIDER}.0.norms.0.scale"),), older_names),),
    memory_factor=0.5,  # measured: benchmarks/memory_formula.py
    memory_text=8.0,
)
