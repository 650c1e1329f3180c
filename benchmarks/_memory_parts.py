"""What autoencoders, text encoders, vision encoders and ControlNets take beside their weights, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._weightless import built, peak_beside, weightless
from benchmarks.vae_memory import CASES as AUTOENCODERS
from limner.memory import DefaultSettings, MemoryManager
from limner.models.autoencoder import VAE
from limner.models.clip_vision import ClipVision
from limner.models.control import flux as control_flux
from limner.models.control import qwen_image as control_qwen
from limner.models.control import sd3 as control_sd3
from limner.models.control import unet as control_unet
from limner.models.control.kind import ControlKind
from limner.models.detect import detect
from limner.models.flux import FluxConfig
from limner.models.qwen_image import QwenImageConfig
from limner.models.sd3 import MMDiTConfig
from limner.models.text.kinds import parts_of
from limner.models.text.qwen25 import Qwen25Text
from limner.models.text.working import Rows
from limner.models.vae.kind import autoencoders as autoencoder_kinds
from limner.models.vision.kind import vision_encoders
from limner.models.vision.transformer import VisionConfig
from limner.weights import NetworkSource
from tests.models.checkpoints import real_header

BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32
TILE = 512
"""Pixels of a side of an autoencoder's tile."""


@dataclass(frozen=True)
class Measured:
    """One computation. said, measured: bytes. most: how many times the measured may be said. about: for the line."""

    kind: str
    name: str
    said: float
    measured: float
    most: float
    about: dict[str, Any] = field(default_factory=dict)


def no_source() -> NetworkSource:
    """The source of weights that nobody reads."""
    return NetworkSource("", nn.Identity, {}, "")


def autoencoders(
    sides: tuple[int, ...] = (TILE, 1024),
    names: tuple[str, ...] = (),
    dtypes: tuple[torch.dtype, ...] = (BFLOAT16, FLOAT32),
) -> Iterator[Measured]:
    """Decoding and encoding, a tile and a whole picture; of videos five frames."""
    memory = MemoryManager(DefaultSettings(cpu=True))
    for case in AUTOENCODERS:
        if names and case.name not in names:
            continue
        kind = autoencoder_kinds()[case.kind]
        about = kind.describe(case.config)
        vae = VAE(about, no_source(), memory, case.name)
        video = case.frames > 1
        for side in (64,) if video else sides:
            frames = ([5] if video else [1]) if about.frames is not None else []
            pixels = (1, about.colours, *frames, side, side)
            cells = side // about.downscale
            latent = (1, about.channels, *(about.frames.latents(one) for one in frames), cells, cells)  # type: ignore[union-attr]
            for dtype in dtypes:
                with weightless():
                    network = built(lambda kind=kind, case=case: kind.network(case.config), dtype)  # type: ignore[misc]
                    decoding = peak_beside(network, _computed(about.decode, network, latent, dtype))
                    encoding = peak_beside(network, _computed(about.encode, network, pixels, dtype))
                line = {"side": side, "frames": len(frames) and frames[0], "dtype": _name(dtype)}
                said = vae.memory_used_decode(latent, dtype), vae.memory_used_encode(pixels, dtype)
                yield Measured("decoding", case.name, said[0], decoding, 2.1, line)
                yield Measured("encoding", case.name, said[1], encoding, 2.1, line)


def _computed(
    compute: Callable[[nn.Module, Tensor], Tensor] | None,
    network: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> Callable[[], Any]:
    assert compute is not None
    return lambda: compute(network, torch.zeros(shape).to(dtype)).float()


TEXTS = {
    "te-clip-l": 77, "te-clip-h": 77, "te-clip-g": 77, "te-t5xxl": 256, "te-t5-base": 256, "te-t5-pile-xl": 256,
    "te-umt5xxl": 256, "te-byt5-small-glyph": 256, "te-qwen2.5-vl-7b": 256, "te-qwen2.5-3b": 256,
}  # fmt: skip
"""Headers of tests/headers, and tokens of a usual row."""


def texts(
    names: tuple[str, ...] = tuple(TEXTS), dtypes: tuple[torch.dtype, ...] = (FLOAT32, FLOAT16, BFLOAT16)
) -> Iterator[Measured]:
    """One row and two, their padding seen and hidden."""
    for name in names:
        kind, header = parts_of(real_header(name))[0]
        shapes, config = header.shapes(), kind.config(header.shapes(), {})
        for dtype in dtypes:
            with weightless():
                network = built(lambda kind=kind, config=config: kind.network(config), dtype)  # type: ignore[misc]
                for rows, masked in ((1, False), (2, False), (1, True)):
                    asked = Rows(rows, TEXTS[name], dtype, masked)
                    measured = peak_beside(network, _encoded(network, asked))
                    line = {"rows": rows, "tokens": asked.length, "masked": masked, "dtype": _name(dtype)}
                    yield Measured("text", name, kind.working(shapes, asked), measured, 1.5, line)
                if isinstance(network, Qwen25Text) and network.visual is not None:
                    seen = Rows(1, 1, dtype, pictures=((1024, 1024),))
                    measured = peak_beside(network, lambda: network.see(torch.zeros(1, 1024, 1024, 3), dtype))  # noqa: B023
                    yield Measured("seeing", name, kind.working(shapes, seen), measured, 1.5, {"dtype": _name(dtype)})


def _encoded(network: Any, rows: Rows) -> Callable[[], Any]:
    def encode() -> Any:
        ids = torch.zeros(rows.rows, rows.length, dtype=torch.int64)
        mask = torch.ones(rows.rows, rows.length, dtype=torch.bool) if rows.masked else None
        layer = -2 if network.longest else None
        out = network(ids, layer, embeds=network.embed(ids, rows.dtype), final_norm=True, attention_mask=mask)
        return (out.last if out.hidden is None else out.hidden).float()

    return encode


VISIONS = {
    "CLIP-L": ("clip", VisionConfig()),
    "CLIP-H": ("clip", VisionConfig(1280, 5120, 32, hidden_act="gelu", projection_dim=1024)),
    "CLIP-G": ("clip", VisionConfig(1664, 8192, 48, hidden_act="gelu", projection_dim=1280)),
    "SigLIP": ("siglip", VisionConfig(1152, 4304, 27, image_size=384, class_token=False, projection_dim=None,
                                      hidden_act="gelu_pytorch_tanh")),
}  # fmt: skip


def visions(names: tuple[str, ...] = tuple(VISIONS)) -> Iterator[Measured]:
    """One picture of each published encoder."""
    memory = MemoryManager(DefaultSettings(cpu=True))
    kinds = {kind.every_layer: kind for kind in vision_encoders().values()}
    for name in names:
        which, config = VISIONS[name]
        kind = kinds[which == "siglip"]
        side = config.image_size
        with weightless():
            network = built(lambda kind=kind, config=config: kind.network(config), FLOAT32)  # type: ignore[misc]
            wanted: Any = "all" if kind.every_layer else -2
            measured = peak_beside(
                network,
                lambda: network(torch.zeros(1, 3, side, side), intermediate_output=wanted),  # noqa: B023
            )
        vision = ClipVision(kind, config, no_source(), memory, name)
        yield Measured("vision", name, vision._bytes(), measured, 1.3, {"dtype": _name(vision.dtype)})


@dataclass(frozen=True)
class Control:
    """A published ControlNet. hint: channels, and cells of it for a cell of the latent. more: what it is told."""

    kind: ControlKind
    config: Any
    channels: int
    width: int
    hint: tuple[int, int] = (16, 1)
    more: dict[str, int] = field(default_factory=dict)


def controls() -> Iterator[Measured]:
    """Residuals for 1024², which stay while the model computes."""
    yield from (residuals_of(name, case) for name, case in published_controls().items())


def published_controls() -> dict[str, Control]:
    """ControlNets by what they are for."""
    unets = [detect(real_header(name)) for name in ("sd15", "sdxl-base")]
    sd1, sdxl = (one.family.infer_config(one.diffusion, {}) for one in unets)
    kind = control_unet.CONTROL
    flux = control_flux.ControlFluxConfig(FluxConfig(depth=5, depth_single_blocks=10))
    sd3 = control_sd3.ControlMMDiTConfig(MMDiTConfig(depth=12))
    qwen = control_qwen.ControlQwenImageConfig(QwenImageConfig(num_layers=5))
    return {
        "Stable Diffusion 1": Control(kind, control_unet.ControlUNetConfig(sd1), 4, 768, (3, 8)),
        "Stable Diffusion XL": Control(kind, control_unet.ControlUNetConfig(sdxl), 4, 2048, (3, 8), {"y": 2816}),
        "FLUX.1 union": Control(control_flux.CONTROL, flux, 16, 4096, more={"y": 768, "guidance": 0}),
        "Stable Diffusion 3": Control(control_sd3.CONTROL, sd3, 16, 4096, more={"y": 2048}),
        "Qwen-Image": Control(control_qwen.CONTROL, qwen, 16, 3584),
    }


def residuals_of(name: str, case: Control, cells: int = 128, dtype: torch.dtype = BFLOAT16) -> Measured:
    """Measure a pass, and hold the size of what it makes against what the kind says."""
    channels, scale = case.hint
    with weightless():
        network = built(lambda: case.kind.network(case.config), dtype)
        told = {
            key: torch.zeros(1, width, dtype=dtype) if width else torch.zeros(1) for key, width in case.more.items()
        }
        shown: dict[str, Any] = {
            "x": torch.zeros(1, case.channels, cells, cells, dtype=dtype),
            "hint": torch.zeros(1, channels, cells * scale, cells * scale, dtype=dtype),
            "timesteps": torch.full((1,), 0.5), "context": torch.zeros(1, 77, case.width, dtype=dtype),
        }  # fmt: skip
        made: dict[str, Any] = {}
        peak = peak_beside(network, lambda: made.update(network(**shown, **told)))
    distinct = {id(one): one.nbytes for several in made.values() for one in several if one is not None}
    said = case.kind.residuals(case.config) * cells**2 * dtype.itemsize
    figures = {"side": cells * 8, "dtype": _name(dtype), "pass_mib": round(peak / 2**20, 1)}
    return Measured("control's residuals", name, said, sum(distinct.values()), 1.1, figures)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
