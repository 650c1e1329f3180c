"""A plot as SVG text: points, a line through some of them, two axes with round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 12, 44


@dataclass(frozen=True)
class Point:
    """said: shown when the pointer is on it. marked: drawn large."""

    x: float
    y: float
    said: str = ""
    marked: bool = False


def plot(points: Sequence[Point], across: str, up: str, line: bool = False, wide: bool = False) -> str:
    """across, up: what the axes show. wide: x by powers of ten. line: through the points that are not marked, in order.

    Points that are infinitely high are drawn at the top.
    """
    if not points:
        return ""
    xs = [log10(max(point.x, 1e-12)) if wide else point.x for point in points]
    finite = [point.y for point in points if isfinite(point.y)] or [0.0]
    ys = [point.y if isfinite(point.y) else max(finite) for point in points]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        part_x = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        part_y = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + part_x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - part_y * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for x in x_ticks:
        where = place(x, y_ticks[0])[0]
        drawn.append(f'<path class="grid" d="M{where:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        shown = _number(10**x if wide else x)
        drawn.append(f'<text x="{where:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{shown}</text>')
    for y in y_ticks:
        where = place(x_ticks[0], y)[1]
        drawn.append(f'<path class="grid" d="M{LEFT} {where:.1f}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{where + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    if line:
        path = " ".join(
            "{:.1f},{:.1f}".format(*place(x, y)) for point, x, y in zip(points, xs, ys, strict=True) if not point.marked
        )
        drawn.append(f'<polyline points="{path}"/>')
    for point, x, y in zip(points, xs, ys, strict=True):
        if line and not point.marked:
            continue
        where_x, where_y = place(x, y)
        drawn.append(
            f'<circle cx="{where_x:.1f}" cy="{where_y:.1f}" r="{6 if point.marked else 3}"'
            f"{' class=marked' if point.marked else ''}><title>{escape(point.said)}</title></circle>"
        )
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    drawn.append(f'<text x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>')
    turned = f'transform="translate(14 {middle_y}) rotate(-90)"'
    drawn.append(f'<text {turned} text-anchor="middle">{escape(up)}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>'


def _ticks(least: float, most: float) -> list[float]:
    """Round numbers from below the least to above the most, some five of them."""
    span = max(most - least, 1e-9 * max(abs(most), 1.0)) or 1.0
    step = 10 ** floor(log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = floor(least / step), ceil(most / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
