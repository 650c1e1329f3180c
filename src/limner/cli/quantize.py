"""limner quantize: a checkpoint in fewer bits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.errors import BadInput, LimnerError

if TYPE_CHECKING:
    from limner.weights.quant.convert import Outcome
    from limner.weights.quant.recipe import Recipe


def quantize(
    source: Path,
    target: Path,
    /,
    *,
    format: str = "",  # noqa: A002 - the name of the flag
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    recipe: Path | None = None,
    report: Path | None = None,
    overwrite: bool = False,
) -> Iterator[str]:
    """Quantize a checkpoint, and say what each layer lost by it and what was saved.

    source: a safetensors, GGUF or pickled checkpoint.
    target: the safetensors file to write.
    format: the layout, for example int8_rowwise, float8_e4m3fn, nf4, int4_groups or nvfp4.
    include: a pattern of layers to quantize, in place of the blocks of the diffusion model; may be repeated.
    exclude: a pattern of layers to keep; may be repeated.
    recipe: a JSON file of format, include, exclude, and layers: pattern → format or keep.
    report: a JSON file to write with all that is said.
    overwrite: replace the file if it is there.
    """
    from limner.models.detect import diffusion_prefix
    from limner.weights.header import CheckpointHeader
    from limner.weights.quant.convert import convert, plan
    from limner.weights.quant.files import quantized

    chosen = _recipe(format, include, exclude, recipe)
    header = quantized(CheckpointHeader.read(source))
    _check_target(source, target, overwrite)
    started = time.monotonic()
    made = plan(header, chosen, diffusion_prefix(header))
    outcomes: list[Outcome] = []
    for outcome in convert(header, target, made):
        outcomes.append(outcome)
        if outcome.sqnr is not None:
            yield f"{outcome.layout:22} {_decibels(outcome.sqnr)}  {_ratio(outcome)}  {outcome.name}"
    yield from _summary(outcomes, source, target)
    if report is not None:
        _write_report(report, source, target, chosen, outcomes, time.monotonic() - started)
        yield f"report: {report}"


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
    for why in sorted({one.why for one in outcomes if one.why}):
        kept = [one for one in outcomes if one.why == why]
        yield f"kept:       {len(kept)} tensors, {sum(one.before for one in kept) / 1e6:,.1f} MB: {why}"
    old, new = source.stat().st_size, target.stat().st_size
    yield f"file:       {old / 1e6:,.1f} → {new / 1e6:,.1f} MB ({new / old:.3f}): {target}"


def _write_report(
    path: Path, source: Path, target: Path, recipe: Recipe, outcomes: Sequence[Outcome], seconds: float
) -> None:
    def told(one: Outcome) -> dict[str, Any]:
        found = asdict(one)
        if one.sqnr is not None and not isfinite(one.sqnr):
            found["sqnr"] = "exact"
        return found

    found = {
        "source": str(source),
        "target": str(target),
        "recipe": {
            "format": recipe.layout,
            "include": recipe.include,
            "exclude": recipe.exclude,
            "layers": dict(recipe.layers),
        },
        "bytes": {"before": source.stat().st_size, "after": target.stat().st_size},
        "seconds": round(seconds, 3),
        "layers": [told(one) for one in outcomes if one.sqnr is not None],
        "kept": [told(one) for one in outcomes if one.sqnr is None],
    }
    try:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise LimnerError(f"The report {path} cannot be written.", why=f"{error.strerror or error}.") from error
