"""What was quantized, how and at what cost: as JSON for programs, and as one HTML file for people."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from limner.errors import LimnerError
from limner.quantize.pictures import Likeness, likeness
from limner.quantize.plot import Point, plot
from limner.quantize.search import Found, decibels
from limner.weights.quant.convert import Outcome
from limner.weights.quant.recipe import Recipe


@dataclass(frozen=True)
class Compared:
    """One sample, drawn by both. exact, made: (height, width, 3) in 0..1, in full precision and quantized."""

    title: str
    exact: Tensor
    made: Tensor

    @property
    def likeness(self) -> Likeness:
        """How alike they are."""
        return likeness(self.exact, self.made)


@dataclass(frozen=True)
class Calibrated:
    """What scales of inputs come from. unreached: weights whose layer was given nothing."""

    source: str
    samples: int
    passes: int
    observer: str
    unreached: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """All that is told of one file quantized. before, after: bytes of the files."""

    source: str
    target: str
    recipe: Recipe
    outcomes: Sequence[Outcome]
    before: int
    after: int
    seconds: float
    calibrated: Calibrated | None = None
    found: Found | None = None
    pictures: Sequence[Compared] = field(default_factory=tuple)

    @property
    def layers(self) -> list[Outcome]:
        """Weights that were rounded."""
        return [one for one in self.outcomes if one.sqnr is not None]

    @property
    def kept(self) -> list[Outcome]:
        """All other tensors."""
        return [one for one in self.outcomes if one.sqnr is None]


def write_report(path: Path, report: Report) -> None:
    """HTML where the file's name ends so, else JSON. Raises LimnerError where it cannot be written."""
    html = path.suffix.lower() in (".html", ".htm")
    text = as_html(report) if html else json.dumps(as_json(report), indent=1) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LimnerError(f"The report {path} cannot be written.", why=f"{error.strerror or error}.") from error


# -- JSON ------------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values; what was not asked for is null, and numbers that are infinite are "exact"."""
    recipe, found = report.recipe, report.found
    return {
        "source": report.source,
        "target": report.target,
        "recipe": {
            "format": recipe.layout,
            "include": recipe.include,
            "exclude": recipe.exclude,
            "layers": dict(recipe.layers),
        },
        "bytes": {"before": report.before, "after": report.after},
        "seconds": round(report.seconds, 3),
        "calibration": None if report.calibrated is None else asdict(report.calibrated),
        "search": None if found is None else _search(found),
        "pictures": [{"title": one.title, **_finite(asdict(one.likeness))} for one in report.pictures],
        "layers": [_finite(asdict(one)) for one in report.layers],
        "kept": [asdict(one) for one in report.kept],
    }


def _search(found: Found) -> dict[str, Any]:
    return _finite(
        {
            "output_snr": decibels(found.noise),
            "bytes": found.nbytes,
            "alone": {layer: _exact(decibels(noise)) for layer, noise in found.alone.items()},
            "curve": [[nbytes, _exact(decibels(noise))] for nbytes, noise in found.curve],
        }
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _exact(value) for name, value in values.items()}


def _exact(value: Any) -> Any:
    return "exact" if isinstance(value, float) and not isfinite(value) else value


# -- HTML ------------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a90d9; --mark: #d9534a }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.number, th.number { text-align: right; white-space: nowrap }
td.name { font-family: ui-monospace, monospace; font-size: .85em; overflow-wrap: anywhere }
meter { width: 6rem } svg { width: 100%; height: auto } svg text { font-size: 12px; fill: currentColor }
.grid { stroke: var(--line); fill: none } polyline { fill: none; stroke: var(--bar); stroke-width: 2 }
circle { fill: var(--bar); fill-opacity: .6 } circle.marked { fill: var(--mark); fill-opacity: 1 }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 1rem }
figure { margin: 0 } figure div { display: flex; gap: 2px } figure img { width: 50%; image-rendering: auto }
figcaption { font-size: .85em }
"""


def as_html(report: Report) -> str:
    """One page that needs nothing else: pictures and plots are inside. Everything that is told is escaped."""
    title = escape(f"{Path(report.target).name}: quantized to {report.recipe.layout}")
    parts = "".join((*_summary(report), *_plots(report), *_pictures(report), *_tables(report)))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1>{parts}</body></html>\n"
    )


def _summary(report: Report) -> Iterator[str]:
    layers = report.layers
    before, after = (sum(getattr(one, when) for one in layers) for when in ("before", "after"))
    finite = [one.sqnr for one in layers if one.sqnr is not None and isfinite(one.sqnr)]
    rows = [
        ("from", report.source),
        ("file", f"{_mb(report.before)} → {_mb(report.after)} MB ({report.after / report.before:.3f})"),
        ("quantized", f"{len(layers)} layers, {_mb(before)} → {_mb(after)} MB ({after / max(before, 1):.3f})"),
        ("kept", f"{len(report.kept)} tensors, {_mb(sum(one.before for one in report.kept))} MB"),
    ]
    if finite:
        rows.append(("SQNR of the weights", f"{min(finite):.1f} to {max(finite):.1f} dB"))
    if (one := report.calibrated) is not None:
        told = f"{one.samples} samples of {one.source}, {one.passes} passes of the network, scales by {one.observer}"
        rows.append(("inputs", told + (f"; {len(one.unreached)} layers were given nothing" if one.unreached else "")))
    if report.found is not None:
        rows.append(("SNR of the output", f"{decibels(report.found.noise):.1f} dB, the worst of the passes kept"))
    if report.pictures:
        alike = [one.likeness for one in report.pictures]
        psnr = sum(min(one.psnr, 100.0) for one in alike) / len(alike)
        ssim, gmsd = (sum(getattr(one, name) for one in alike) / len(alike) for name in ("ssim", "gmsd"))
        rows.append(("pictures", f"{len(alike)}: PSNR {psnr:.1f} dB, SSIM {ssim:.3f}, GMSD {gmsd:.3f} on average"))
    rows.append(("took", f"{report.seconds:,.1f} s"))
    yield "<table>" + "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in rows) + "</table>"


def _plots(report: Report) -> Iterator[str]:
    if report.found is not None and len(report.found.curve) > 1:
        curve, chosen = report.found.curve, report.found
        finite = [point for point in curve if point[1] > 0]
        points = [Point(nbytes / 1e6, decibels(noise)) for nbytes, noise in finite]
        points.append(Point(chosen.nbytes / 1e6, decibels(chosen.noise), "chosen, as measured", marked=True))
        yield "<h2>What bytes buy</h2><p>The best output for each size by the sum of what layers cost alone; "
        yield "the dot is what was chosen, measured with all layers rounded.</p>"
        yield plot(points, "MB of the layers", "SNR of the output, dB", line=True)
    yield "<h2>Error and size of each layer</h2>"
    yield plot(
        [Point(one.after / 1e6, one.sqnr or 0.0, f"{one.name}: {one.layout}") for one in report.layers],
        "MB", "SQNR of the weight, dB", wide=True,
    )  # fmt: skip


def _pictures(report: Report) -> Iterator[str]:
    if not report.pictures:
        return
    yield "<h2>Pictures</h2><p>Left in full precision, right quantized: same words, same seed.</p><div class=pairs>"
    for one in report.pictures:
        alike = one.likeness
        told = f"PSNR {alike.psnr:.1f} dB, SSIM {alike.ssim:.3f}, GMSD {alike.gmsd:.3f}"
        images = "".join(f'<img alt="" src="{_data_uri(picture)}">' for picture in (one.exact, one.made))
        yield f"<figure><div>{images}</div><figcaption>{escape(one.title)}<br>{told}</figcaption></figure>"
    yield "</div>"


def _tables(report: Report) -> Iterator[str]:
    yield "<h2>Quantized layers</h2><table><tr><th>layer</th><th>format</th><th class=number>MB</th>"
    yield "<th class=number>of</th><th class=number>SQNR, dB</th><th></th><th>why</th></tr>"
    for one in sorted(report.layers, key=lambda one: one.sqnr or 0.0):
        sqnr = one.sqnr or 0.0
        shown = f"{sqnr:.1f}" if isfinite(sqnr) else "exact"
        yield (
            f"<tr><td class=name>{escape(one.name)}</td><td>{escape(one.layout)}</td>"
            f"<td class=number>{one.after / 1e6:.3f}</td><td class=number>{one.after / max(one.before, 1):.3f}</td>"
            f"<td class=number>{shown}</td><td><meter min=0 max=60 value={min(sqnr, 60.0):.1f}></meter></td>"
            f"<td>{escape(one.why)}</td></tr>"
        )
    yield "</table><h2>Kept</h2><table><tr><th>tensor</th><th>shape</th><th class=number>MB</th><th>why</th></tr>"
    for one in sorted(report.kept, key=lambda one: -one.before):
        yield (
            f"<tr><td class=name>{escape(one.name)}</td><td>{'×'.join(map(str, one.shape))}</td>"
            f"<td class=number>{one.before / 1e6:.3f}</td><td>{escape(one.why)}</td></tr>"
        )
    yield "</table>"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f}"


def _data_uri(picture: Tensor) -> str:
    pixels = (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
