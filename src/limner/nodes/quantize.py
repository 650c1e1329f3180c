"""Models quantized, calibrated, saved and compared."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, NamedTuple, cast

import torch

from limner.errors import BadInput
from limner.graph import Choice, Float, Image, Int, Kind, Run, Text, Ui, node
from limner.models import saving
from limner.nodes.kinds import CLIP, MODEL, VAE
from limner.nodes.sampler import Guidance, SamplerName, Scheduler, Seed, Steps
from limner.nodes.saving import Extra, Prompt, carried
from limner.quantize.choosing import Layers, options_of, quantized_model, searched, unreached, with_inputs
from limner.quantize.inputs import OBSERVERS, Observer
from limner.quantize.pictures import likeness
from limner.quantize.samples import Sample, latent_of, parsed
from limner.quantize.search import decibels, output_noise
from limner.quantize.watch import Watch, watched
from limner.weights.lazy import PackedTensor
from limner.weights.quant import REGISTRY, as_floats, sqnr
from limner.weights.quant.recipe import Recipe

WRITTEN = tuple(name for name in REGISTRY if REGISTRY[name].writes)
NONE = "none"
KEPT = 6
"""Passes of the network that a calibration keeps, to measure noise on."""

Calibration = Annotated[Any, Kind("LIMNER_CALIBRATION")]
"""`limner.quantize.watch.Watch`: what the layers of a model were given while it sampled."""
Side = Annotated[int, Int(min=16, max=16384, step=8)]
Patterns = Annotated[str, Text(multiline=False)]

quantizing_node = partial(node, category="quantization", python_module="limner.nodes.quantize", style="v3")


@quantizing_node("LimnerCalibrate", title="Calibrate")
def calibrate(
    run: Run,
    *,
    model: MODEL,
    clip: CLIP,
    prompts: Annotated[str, Text(multiline=True)] = "a red apple, 3d style\na fox, 3d style",
    seed: Seed = 0,
    steps: Steps = 20,
    cfg: Guidance = 7.0,
    sampler_name: SamplerName,
    scheduler: Scheduler,
    width: Side = 512,
    height: Side = 512,
) -> Calibration:
    """What the layers of a model are given while it samples: fixed scales of inputs and searches follow from it.

    model: the diffusion model, in full precision.
    clip: its text encoder.
    prompts: one a line; after | may follow settings of its own, such as seed=3 size=768x512 cfg=5 negative="blurry".
    seed: of the first prompt, less one.
    steps: how many steps are taken for each.
    cfg: how strongly the prompt is followed.
    sampler_name: how a step is taken.
    scheduler: how the noise levels are spread over the steps.
    width: of the pictures, in pixels.
    height: of the pictures, in pixels.
    """
    usual = Sample("", "", seed, width, height, steps, cfg, sampler_name, scheduler)
    samples, watch = parsed(prompts, "prompts", usual), Watch(KEPT)
    total, done, seen = sum(one.steps for one in samples), 0, watched(model, watch)
    for sample in samples:
        latent_of(seen, clip, sample, partial(_progress, run, done, total))
        done += sample.steps
    return watch


def _progress(run: Run, before: int, total: int, done: int, of: int) -> None:
    del of
    run.progress(before + done, total)


@quantizing_node("LimnerQuantizeModel", title="Quantize Model")
def quantize_model(
    run: Run,
    *,
    model: MODEL,
    format: Annotated[str, Choice(WRITTEN)],  # noqa: A002 - the name of the flag
    include: Patterns = "",
    exclude: Patterns = "",
    observer: Annotated[str, Choice(OBSERVERS)] = "amax",
    max_error: Annotated[float, Float(min=0.0, max=200.0, step=0.5)] = 0.0,
    also: Annotated[str, Choice((NONE, *WRITTEN))] = NONE,
    calibration: Calibration | None = None,
) -> MODEL:
    """The model with weights in fewer bits, in memory. Patches such as LoRA stay what they are.

    model: the diffusion model.
    format: the layout.
    include: patterns of layers to quantize, with commas between, in place of all in its blocks.
    exclude: patterns of layers to keep.
    observer: how fixed scales follow from inputs.
    max_error: the least ratio of signal to noise of the network's output, dB, for which layers are kept in more bits;
        0 quantizes all. It needs a calibration.
    also: a layout between format and none that layers may have then.
    calibration: what its layers are given; without it inputs have no fixed scales.
    """
    watch: Watch = Watch() if calibration is None else calibration
    if max_error > 0 and not watch.passes:
        raise BadInput("A search needs something to measure.", do="Wire a calibration, or let max_error be 0.")
    layers, by = Layers.of_model(model), cast("Observer", observer)
    names = (format, also) if max_error > 0 and also != NONE else (format,)
    with torch.inference_mode(False):  # weights outlive this call
        recipes = (Recipe(name, _patterns(include), _patterns(exclude)) for name in names)
        ways = (recipe.choices(layers.header, layers.prefix) for recipe in recipes)
        choices, *ladder = (list(with_inputs(one, layers, watch.inputs, by)) for one in ways)
    if calibration is not None and (left := unreached(choices, layers, watch.inputs)):
        run.tell(f"{len(left)} layers were given nothing, so their inputs have no fixed scale: {', '.join(left[:8])}")
    if max_error > 0:
        options = options_of(choices, ladder, layers)
        choices, _ = searched(model, watch.passes, choices, options, layers, least_snr=max_error, progress=run.progress)
    return quantized_model(model, choices, run.progress)


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


@quantizing_node("LimnerSaveQuantized", title="Save Quantized Checkpoint", output_node=True)
def save_quantized(
    run: Run,
    *,
    model: MODEL,
    clip: CLIP | None = None,
    vae: VAE | None = None,
    filename_prefix: Patterns = "checkpoints/quantized",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """A checkpoint of what is wired, weights in the layouts that they have.

    model: the diffusion model.
    clip: its text encoder, if the file is to hold it.
    vae: its autoencoder, if the file is to hold it.
    filename_prefix: where it is saved, below the output folder.
    """
    if not any(isinstance(entry, PackedTensor) for entry in model.source.tensors.values()):
        raise BadInput("The model is not quantized.", do="Wire Quantize Model before, or save it with Save Checkpoint.")
    target = run.store.files.next_name("output", filename_prefix, "safetensors")
    title = f"{target.stem} {target.counter}"
    saving.save_checkpoint(target.path(), model, clip, vae, carried(run, prompt, extra_pnginfo), title)
    size = target.path().stat().st_size
    return Ui({"text": (f"{target.name(0)}: {size / 1e6:,.1f} MB",)})


class Alike(NamedTuple):
    """How alike pictures are, and the pictures side by side."""

    psnr: float
    ssim: float
    gmsd: float
    side_by_side: Image


@quantizing_node("LimnerCompareImages", title="Compare Images")
def compare_images(run: Run, *, reference: Image, images: Image) -> Alike:
    """How far pictures are from others: PSNR (dB), SSIM (1 for equal ones) and GMSD (0 for equal ones), on average.

    reference: the pictures as they should be, for example in full precision.
    images: as many others of the same size.
    """
    if reference.shape != images.shape:
        raise BadInput(
            f"Pictures of {list(reference.shape)} and {list(images.shape)} cannot be compared.",
            why="They must be as many and of one size: (number, height, width, channels).",
        )
    found = [likeness(one, other) for one, other in zip(reference, images, strict=True)]
    psnr, ssim, gmsd = (sum(getattr(one, name) for one in found) / len(found) for name in ("psnr", "ssim", "gmsd"))
    run.tell(f"PSNR {psnr:.2f} dB, SSIM {ssim:.4f}, GMSD {gmsd:.4f}")
    return Alike(psnr, ssim, gmsd, torch.cat((reference, images), 2))


class Distance(NamedTuple):
    """What quantization cost a model. output_snr: dB; undefined without a calibration."""

    output_snr: float
    report: str


@quantizing_node("LimnerCompareModels", title="Compare Models")
def compare_models(run: Run, *, reference: MODEL, model: MODEL, calibration: Calibration | None = None) -> Distance:
    """How far a quantized model is from another: each weight (SQNR, dB), and the output of the network.

    reference: the model in full precision.
    model: the same quantized.
    calibration: of the reference; its passes are computed by the model again.
    """
    snr, lines = float("nan"), []
    if calibration is not None and calibration.passes:
        with model.loaded() as network:
            snr = decibels(output_noise(network, calibration.passes))
        lines.append(f"output: {snr:.2f} dB, the worst of {len(calibration.passes)} passes")
    packed = [(name, one) for name, one in model.source.tensors.items() if isinstance(one, PackedTensor)]
    for done, (name, entry) in enumerate(packed, 1):
        exact = reference.source.tensors.get(name)
        if exact is None or exact.shape != entry.shape:
            raise BadInput(f"The reference has no such weight {name}.", do="Wire the model that was quantized.")
        lines.append(f"{sqnr(as_floats(exact.read()), as_floats(entry.read())):8.2f} dB  {entry.layout:20} {name}")
        run.progress(done, len(packed))
    return Distance(snr, "\n".join(lines))
