"""How much must be free beside the weights for the next step, and do the formulas say so?

One pass of every family, autoencoder, text encoder, vision encoder and ControlNet at its published width and depth, on
fake tensors, which take no memory: the most bytes alive at once, against what the formula says for the same shapes.

Counted are operations as an accelerator has them, one kernel each. What is not seen: workspaces of convolutions and of
matrix products, and an allocator's gaps. `on_cpu`: the ratio where a CPU makes norms of several operations.

budget: never less than measured, and at most 1.3 times that for pictures of 1024² and more; 1.5 smaller ones, where
what does not grow with the picture weighs most, builds of a family that are lighter than its heaviest, and text; what
autoencoders are said to take has 1.3 to 2 times their tensors in it, as much as their convolutions took on a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import report
from benchmarks._memory_parts import autoencoders, controls, texts, visions
from benchmarks._weightless import diffusion_model, peak_of_pass
from limner.models.chroma_radiance import FAMILY as RADIANCE
from limner.models.chroma_radiance import RadianceConfig
from limner.models.model import Model
from tests.models.checkpoints import real_header

MOST, MOST_SMALL = 1.3, 1.5
BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """A published build. header: of tests/headers. tokens: of a usual prompt. pooled: width of the text's vector.

    lighter: whether its family has a heavier build, by which the factor is.
    """

    header: str
    channels: int
    tokens: int
    pooled: int = 0
    lighter: bool = False

    def model(self, dtype: torch.dtype) -> Model:
        """It, computing in this dtype."""
        return diffusion_model(real_header(self.header), dtype)


class Radiance(Case):
    """Chroma Radiance, of which no header is kept; its cells are pixels."""

    def model(self, dtype: torch.dtype) -> Model:
        """As Chroma, with its network in the place of Chroma's."""
        chroma = diffusion_model(real_header("chroma"), dtype)
        config = RadianceConfig()
        source = replace(chroma.source, build=lambda: RADIANCE.network(config))
        made = Model(RADIANCE, config, source, chroma.sampling, chroma.memory)
        made.set_model_compute_dtype(dtype)
        return made


CASES = (
    Case("sd15", 4, 77), Case("sd15-inpaint", 4, 77), Case("sd21-v", 4, 77), Case("sd21-unclip-h-unet", 4, 77),
    Case("sd-x4-upscaler-unet", 4, 77), Case("sdxl-base", 4, 77, 1280), Case("sdxl-inpaint-unet", 4, 77, 1280),
    Case("ssd-1b-unet", 4, 77, 1280), Case("segmind-vega-unet", 4, 77, 1280),
    Case("koala-700m-unet", 4, 77, 1280, lighter=True), Case("koala-1b-unet", 4, 77, 1280, lighter=True),
    Case("sdxl-refiner", 4, 77, 1280), Case("pixart-sigma", 4, 300),
    Case("sd3-medium", 16, 154, 2048), Case("sd35-medium", 16, 154, 2048), Case("sd35-large", 16, 154, 2048),
    Case("flux-dev", 16, 256, 768), Case("flux-fill", 16, 256, 768), Case("flux-schnell", 16, 256, 768),
    Case("flux-kontext", 16, 256, 768), Case("chroma", 16, 256), Radiance("chroma-radiance", 3, 256),
    Case("qwen-image", 16, 64),
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What a pass is given. side: of the picture in pixels. tokens: of the text, in units of a usual prompt.

    references: pictures to go by, each as large as the picture.
    """

    side: int
    batch: int = 1
    tokens: int = 1
    references: int = 0
    dtype: torch.dtype = BFLOAT16


SHOWN = (Shown(512), Shown(512, tokens=4), Shown(1024), Shown(1024, 2), Shown(1024, dtype=FLOAT32), Shown(1536))
REFERENCES = (Shown(1024, references=1), Shown(1024, 2, references=2))
WITH_REFERENCES = ("flux-kontext", "qwen-image")


def families(names: list[str]) -> Iterator[bool]:
    """Every family, or those named."""
    for case in CASES:
        if names and case.header not in names:
            continue
        shown = (*SHOWN, *REFERENCES) if case.header in WITH_REFERENCES else SHOWN
        for one in shown:
            yield of_pass(case, one)


def of_pass(case: Case, shown: Shown) -> bool:
    """Measure one pass and hold the formula against it."""
    model = case.model(shown.dtype)
    cells = shown.side // model.latent_format.downscale
    shape = (shown.batch, case.channels, cells, cells)
    width = model.family.context_width(model.config)

    def entries() -> dict[str, Any]:
        found: dict[str, Any] = {"cross_attn": torch.zeros(1, case.tokens * shown.tokens, width or 1)}
        if case.pooled:
            found["pooled_output"] = torch.zeros(1, case.pooled)
        if shown.references:
            found["reference_latents"] = [torch.zeros(1, *shape[1:]) for _ in range(shown.references)]
        return found

    single = model.model.extra_conds_shapes(**entries())
    shapes = {name: [(shown.batch, *one[1:]) for one in several] for name, several in single.items()}
    said = formula(model, shape, shapes)
    measured = peak_of_pass(model, shape, entries)
    apart = peak_of_pass(model, shape, entries, taken_apart=True)
    most = MOST if shown.side >= 1024 and not case.lighter else MOST_SMALL
    case_of = {"batch": shown.batch, "tokens": case.tokens * shown.tokens, "references": shown.references}
    return hold(
        "pass", f"{case.header} {model.family.name}", said, measured, most, side=shown.side, **case_of,
        dtype=str(shown.dtype).removeprefix("torch."), on_cpu=round(model.memory_required(shape, shapes) / apart, 3),
    )  # fmt: skip


def formula(model: Model, shape: tuple[int, ...], shapes: dict[str, Any]) -> int:
    """What the model says for an accelerator."""
    model.model.device = torch.device("meta")
    said = model.memory_required(shape, shapes)
    model.model.device = model.load_device
    return said


def hold(kind: str, name: str, said: float, measured: float, most: float, **about: Any) -> bool:
    """Print a line; whether the formula keeps within its budget."""
    ratio = round(said / measured, 3)
    good = 1.0 <= ratio <= most and about.get("on_cpu", 1.0) >= 1.0
    figures = {"measured_mib": round(measured / 2**20, 1), "formula_mib": round(said / 2**20, 1)}
    report(
        f"memory of a {kind}",
        of=name,
        **about,
        **figures,
        ratio=ratio,
        least=1.0,
        value=ratio,
        budget=most,
        within=good,
    )
    return good


def main() -> int:
    """Measure and report: everything, or the headers that are named."""
    kept = list(families(sys.argv[1:]))
    if not sys.argv[1:]:
        parts = (*autoencoders(), *texts(), *visions(), *controls())
        kept += [hold(one.kind, one.name, one.said, one.measured, one.most, **one.about) for one in parts]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
