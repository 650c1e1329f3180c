"""limner quantize: a checkpoint in fewer bits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, cast

from limner.errors import BadInput
from limner.settings import Settings

if TYPE_CHECKING:
    from limner.cli.calibrating import Known
    from limner.quantize.inputs import Observer
    from limner.quantize.report import Compared
    from limner.weights.quant.convert import Outcome
    from limner.weights.quant.recipe import Recipe


def quantize(
    source: Path,
    target: Path,
    /,
    *,
    settings: Settings,
    format: str = "",  # noqa: A002 - the name of the flag
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    recipe: Path | None = None,
    calibrate: Path | None = None,
    samples: int = 0,
    steps: int = 0,
    observer: str = "amax",
    max_error: float | None = None,
    max_size: float | None = None,
    also: tuple[str, ...] = (),
    pictures: int = 4,
    report: Path | None = None,
    save_recipe: Path | None = None,
    overwrite: bool = False,
) -> Iterator[str]:
    """Quantize a checkpoint, and say what each layer lost by it and what was saved.

    source: a safetensors, GGUF or pickled checkpoint.
    target: the safetensors file to write.
    format: the layout, for example int8_rowwise, float8_e4m3fn, nf4, int4_groups or nvfp4.
    include: a pattern of layers to quantize, in place of the blocks of the diffusion model; may be repeated.
    exclude: a pattern of layers to keep; may be repeated.
    recipe: a JSON file of format, include, exclude, and layers: pattern → format or keep.
    calibrate: a file of prompts, one a line, or a workflow (JSON) that loads the source; the model draws them, and
        inputs of layers get fixed scales by what was seen.
    samples: how many prompts, or runs of the workflow; all prompts, or 4 runs, if left out.
    steps: how many steps each takes, in place of its own.
    observer: how a scale follows from inputs: amax (nothing is clipped), percentile, or mse (least squared error).
    max_error: keep those layers in more bits that cost most, until the network's output has this ratio of signal to
        noise at least, in dB; needs --calibrate.
    max_size: the same until the layers take so many MB, with the least noise.
    also: a layout between --format and none that layers may have then; may be repeated.
    pictures: how many samples the report shows, drawn by both.
    report: a file to write with all that is said, .html or .json.
    save_recipe: a JSON file for --recipe, with what a search chose.
    overwrite: replace the file if it is there.
    """
    from limner.cli.calibrating import Known, Limits, learn, work_of
    from limner.models.detect import diffusion_prefix
    from limner.quantize.choosing import as_recipe
    from limner.weights.header import CheckpointHeader
    from limner.weights.quant.convert import convert, planned
    from limner.weights.quant.files import quantized
    from limner.weights.quant.recipe import write_recipe

    chosen = _recipe(format, include, exclude, recipe)
    _check_asked(calibrate, observer, max_error, max_size, also)
    header = quantized(CheckpointHeader.read(source))
    _check_target(source, target, overwrite)
    started = time.monotonic()
    choices = chosen.choices(header, diffusion_prefix(header))
    planned(header, choices)  # what cannot be done is refused before anything is measured
    known = Known(choices)
    if calibrate is not None:
        work = work_of(source, calibrate, settings, samples, steps)
        limits = Limits(max_error, None if max_size is None else int(max_size * 1e6))
        known = learn(work, header, chosen, also, cast("Observer", observer), limits)
        yield from _learnt(known)
    outcomes: list[Outcome] = []
    for outcome in convert(header, target, planned(header, known.choices)):
        outcomes.append(outcome)
        if outcome.sqnr is not None:
            yield f"{outcome.layout:22} {_decibels(outcome.sqnr)}  {_ratio(outcome)}  {outcome.name}"
    yield from _summary(outcomes, source, target)
    if save_recipe is not None:
        write_recipe(save_recipe, as_recipe(known.choices, chosen.layout))
        yield f"recipe:     {save_recipe}"
    if report is not None:
        yield from _reported(report, source, target, chosen, outcomes, known, pictures, started)


def _reported(
    report: Path,
    source: Path,
    target: Path,
    recipe: Recipe,
    outcomes: Sequence[Outcome],
    known: Known,
    pictures: int,
    started: float,
) -> Iterator[str]:
    """Write the report. started: when all began, on the monotonic clock."""
    from limner.cli.calibrating import compared
    from limner.quantize.report import Report, write_report

    drawn = compared(known.work, source, target, pictures) if known.work is not None and pictures > 0 else []
    yield from (_alike(one) for one in drawn)
    sizes, seconds = (source.stat().st_size, target.stat().st_size), time.monotonic() - started
    told = Report(str(source), str(target), recipe, outcomes, *sizes, seconds, known.calibrated, known.found, drawn)
    write_report(report, told)
    yield f"report:     {report}"


def _recipe(layout: str, include: tuple[str, ...], exclude: tuple[str, ...], file: Path | None) -> Recipe:
    from limner.weights.quant.recipe import Recipe, read_recipe

    found = Recipe(layout, include, exclude) if file is None else read_recipe(file, layout, include, exclude)
    if not found.layout:
        raise BadInput(
            "It is not said what to quantize to.", do="Name a layout, for example --format int8_rowwise, or a recipe."
        )
    return found


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    if target.suffix.lower() not in (".safetensors", ".sft"):
        raise BadInput(f"{target.name} would be no safetensors file.", do="Let its name end with .safetensors.")
    if not target.parent.is_dir():
        raise BadInput(f"There is no folder {target.parent}.", do="Make it first, or choose another.")
    if target.exists() and target.samefile(source):
        raise BadInput("The file would be written over itself.", do="Choose another name for what is written.")
    if target.exists() and not overwrite:
        raise BadInput(f"{target} is there already.", do="Choose another name, or say --overwrite.")


def _decibels(sqnr: float) -> str:
    return f"{sqnr:6.2f} dB" if isfinite(sqnr) else "  exact  "


def _ratio(outcome: Outcome) -> str:
    return f"{outcome.after / outcome.before:5.3f}"


def _summary(outcomes: Sequence[Outcome], source: Path, target: Path) -> Iterator[str]:
    layers = [one for one in outcomes if one.sqnr is not None]
    before, after = sum(one.before for one in layers), sum(one.after for one in layers)
    yield ""
    yield f"quantized: {len(layers)} layers, {before / 1e6:,.1f} → {after / 1e6:,.1f} MB ({after / before:.3f})"
    finite = [one for one in layers if one.sqnr is not None and isfinite(one.sqnr)]
    if finite:
        worst = min(finite, key=lambda one: one.sqnr or 0.0)
        yield f"least SQNR: {worst.sqnr:.2f} dB, {worst.name}"
    kept_for: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if one.sqnr is None:
            kept_for.setdefault("by search" if one.why.startswith("by search") else one.why, []).append(one)
    for why, kept in sorted(kept_for.items()):
        yield f"kept:       {len(kept)} tensors, {sum(one.before for one in kept) / 1e6:,.1f} MB: {why}"
    old, new = source.stat().st_size, target.stat().st_size
    yield f"file:       {old / 1e6:,.1f} → {new / 1e6:,.1f} MB ({new / old:.3f}): {target}"


def _check_asked(
    calibrate: Path | None, observer: str, max_error: float | None, max_size: float | None, also: tuple[str, ...]
) -> None:
    from limner.quantize.inputs import OBSERVERS

    if observer not in OBSERVERS:
        raise BadInput(f"--observer {observer} is not known.", do=f"Choose one of {', '.join(OBSERVERS)}.")
    if max_error is not None and max_size is not None:
        raise BadInput("--max-error and --max-size cannot both hold.", do="Name one of them.")
    searching = max_error is not None or max_size is not None
    if searching and calibrate is None:
        raise BadInput(
            "A search needs something to measure.",
            why="What a layer costs shows in what the network says of real inputs.",
            do="Name a file of prompts or a workflow with --calibrate.",
        )
    if also and not searching:
        raise BadInput("--also names what a search may choose.", do="Say --max-error or --max-size too.")
    for limit in (max_error, max_size):
        if limit is not None and not (isfinite(limit) and limit > 0):
            raise BadInput(f"A limit of {limit} is none.", do="Name a number above zero.")


def _learnt(known: Known) -> Iterator[str]:
    from limner.quantize.search import decibels

    if (one := known.calibrated) is not None:
        yield f"calibrated: {one.samples} samples, {one.passes} passes, scales of inputs by {one.observer}"
        yield from (f"not reached, so its inputs have no fixed scale: {name}" for name in one.unreached)
    if (found := known.found) is not None:
        yield f"search:     {found.nbytes / 1e6:,.1f} MB of layers, output SNR {decibels(found.noise):.1f} dB"
    yield ""


def _alike(one: Compared) -> str:
    alike = one.likeness
    return f"picture:    PSNR {alike.psnr:.1f} dB, SSIM {alike.ssim:.3f}, GMSD {alike.gmsd:.3f}: {one.title}"
