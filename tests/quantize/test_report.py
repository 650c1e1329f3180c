"""Likeness of pictures, plots and reports by themselves."""

import json
from math import inf
from xml.etree import ElementTree

import pytest
import torch

from limner.errors import BadInput, LimnerError
from limner.quantize.pictures import likeness
from limner.quantize.plot import Point, plot
from limner.quantize.report import Compared, Report, as_html, as_json, write_report
from limner.weights.quant.convert import Outcome
from limner.weights.quant.recipe import Recipe


def picture(seed: int = 0) -> torch.Tensor:
    """Smooth colours."""
    small = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (48, 64), mode="bicubic").clamp(0.1, 0.9)[0].movedim(0, -1)


def test_equal_pictures_are_alike_in_every_measure() -> None:
    same = likeness(picture(), picture())
    assert (same.psnr, same.ssim) == (inf, pytest.approx(1.0))
    assert same.gmsd == 0


def test_a_known_error_has_a_known_ratio() -> None:
    assert likeness(picture(), picture() + 0.1).psnr == pytest.approx(20.0, abs=1e-3)


def test_noise_of_the_same_energy_is_structurally_further_away_than_a_shift() -> None:
    noise = 0.05 * torch.randn(48, 64, 3, generator=torch.Generator().manual_seed(1)).sign()
    shifted, noisy = likeness(picture(), picture() + 0.05), likeness(picture(), picture() + noise)
    assert noisy.psnr == pytest.approx(shifted.psnr, abs=0.01)
    assert noisy.ssim < shifted.ssim - 0.1
    assert noisy.gmsd > 0.01
    assert shifted.gmsd < 1e-6


@pytest.mark.parametrize("shape", [(48, 32, 3), (8, 8, 3), (3, 48, 64)])
def test_pictures_that_cannot_be_compared_are_refused(shape: tuple[int, ...]) -> None:
    other = torch.zeros(shape)
    with pytest.raises(BadInput, match="cannot be compared"):
        likeness(other if shape == (8, 8, 3) else picture(), other)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("ys", [(1.0, 2.0, inf), (5.0, 5.0, 5.0), (-3.0, 0.0, 1e4)])
def test_a_plot_is_svg_inside_its_frame(wide: bool, ys: tuple[float, ...]) -> None:
    points = [Point(10.0**place, y, f"<{place}> & more") for place, y in enumerate(ys)]
    drawn = ElementTree.fromstring(plot(points, "MB", "dB <", wide=wide).replace(" class=marked", ""))
    circles = drawn.findall("circle")
    assert [circle[0].text for circle in circles] == [point.said for point in points]
    assert all(0 <= float(circle.attrib["cx"]) <= 720 and 0 <= float(circle.attrib["cy"]) <= 300 for circle in circles)


def report() -> Report:
    outcomes = (Outcome("a<b>.weight", (4, 4), "nf4", 32, 10, 20.5), Outcome("exact.weight", (4, 4), "nf4", 32, 10, inf),
                Outcome("kept & left", (4,), "", 8, 8, None, "no <matrix>"))  # fmt: skip
    shown = Compared('"><img src=x onerror=alert(1)>', picture(), picture(1))
    return Report("in", "<out>.safetensors", Recipe("nf4"), outcomes, 100, 50, 1.0, pictures=(shown,))


def test_what_is_told_cannot_become_markup() -> None:
    page = as_html(report())
    assert "<b>" not in page
    assert "<matrix>" not in page
    assert "<img src=x" not in page
    assert "a&lt;b&gt;.weight" in page
    assert page.count("<img ") == 2


def test_infinite_ratios_are_json(tmp_path) -> None:
    write_report(tmp_path / "report.json", report())
    told = json.loads((tmp_path / "report.json").read_text())
    assert told == json.loads(json.dumps(as_json(report()), allow_nan=False))
    assert [one["sqnr"] for one in told["layers"]] == [20.5, "exact"]
    assert (told["search"], told["calibration"]) == (None, None)


def test_a_report_that_cannot_be_written_says_so(tmp_path) -> None:
    with pytest.raises(LimnerError, match="cannot be written"):
        write_report(tmp_path / "none" / "report.html", report())
