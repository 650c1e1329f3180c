"""limner quantize with the starter model at work: what is written, what is reported, what is refused."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from limner.cli import main
from limner.cli.generate import text_to_image
from limner.weights import CheckpointHeader
from limner.weights.quant.files import packed_entries, quantized
from tests.quantize.make import STARTER
from tests.weights.quant.checker import Checked

BLOCK = ("--include", "input_blocks.3.0.*", "--include", "input_blocks.3.1.*.ff.*")
PROMPTS = '<script>alert(1)</script> | seed=3\na fox | negative="dark & blurry" cfg=2\n'


def asked(folder: Path, *arguments: object) -> int:
    target = folder / "out.safetensors"
    return main(["quantize", str(STARTER), str(target), "--cpu", *BLOCK, *map(str, arguments)])


def prompts(folder: Path) -> Path:
    small = "".join(f"{line} {'' if '|' in line else '|'} size=64 steps=2\n" for line in PROMPTS.splitlines())
    (folder / "prompts.txt").write_text(small)
    return folder / "prompts.txt"


class Page(HTMLParser):
    """Which tags there are, and every address that is not inside the page itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.elsewhere: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.elsewhere += [value or "" for name, value in attrs if name in ("src", "href")
                           and not (value or "").startswith("data:image/png;base64,")]  # fmt: skip


def test_calibrated_scales_are_in_the_file_and_pictures_in_the_report(tmp_path, capsys) -> None:
    report = tmp_path / "report.html"
    arguments = ("--format", "float8_e4m3fn", "--calibrate", prompts(tmp_path), "--observer", "percentile")
    assert asked(tmp_path, *arguments, "--report", report) == 0
    out = capsys.readouterr().out
    assert "calibrated: 2 samples, 4 passes, scales of inputs by percentile" in out
    assert [float(one) > 30 for one in re.findall(r"PSNR ([\d.]+) dB", out)] == [True, True]
    header = quantized(CheckpointHeader.read(tmp_path / "out.safetensors"))
    scales = [entry.like.parts.tensors.get("input_scale") for _, entry in packed_entries(header)]
    read = [name for name in CheckpointHeader.read(tmp_path / "out.safetensors") if name.endswith("input_scale")]
    assert len(scales) == len(read) == 6
    assert None not in scales
    assert Checked(tmp_path / "out.safetensors").wrong == []

    text = report.read_text()
    page = Page(text)
    assert page.tags.count("img") == 4
    assert page.tags.count("svg") == 1
    assert "script" not in page.tags
    assert page.elsewhere == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (seed 3)" in text


def test_a_search_is_reported_and_its_recipe_makes_the_same_file(tmp_path, capsys) -> None:
    report, recipe = tmp_path / "report.json", tmp_path / "recipe.json"
    arguments = ("--format", "int4_groups", "--also", "int8_rowwise", "--max-error", 50, "--samples", 1)
    asking = (*arguments, "--calibrate", prompts(tmp_path), "--pictures", 0)
    assert asked(tmp_path, *asking, "--report", report, "--save-recipe", recipe) == 0
    told = json.loads(report.read_text())
    assert told["search"]["output_snr"] >= 50
    assert told["search"]["curve"][0][1] < 50
    assert {one["layout"] for one in told["layers"]} <= {"int4_groups", "int8_rowwise"}
    assert any(one["why"].startswith("by search: alone in int4_groups") for one in told["layers"] + told["kept"])
    assert "output SNR" in capsys.readouterr().out
    formats = Checked(tmp_path / "out.safetensors").metadata["_quantization_metadata"]

    again = ["quantize", str(STARTER), str(tmp_path / "again.safetensors"), "--recipe", str(recipe)]
    assert main(again) == 0
    assert Checked(tmp_path / "again.safetensors").metadata["_quantization_metadata"] == formats


def test_a_workflow_that_loads_the_file_is_run_by_the_engine(tmp_path, capsys) -> None:
    chosen = {"prompt": "a fox", "negative": "", "width": 64, "height": 64, "seed": 1, "steps": 9, "cfg": 3.0,
              "sampler": "euler", "scheduler": "karras"}  # fmt: skip
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(text_to_image(STARTER.name, chosen, 1)))
    arguments = ("--calibrate", workflow, "--samples", 2, "--steps", 2, "--base-directory", tmp_path)
    assert asked(tmp_path, "--format", "int8_smooth", *arguments, "--report", tmp_path / "report.json") == 0
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["calibration"]["samples"], told["calibration"]["passes"]) == (2, 4)
    assert [one["psnr"] > 30 for one in told["pictures"]] == [True, True]
    assert told["pictures"][0]["psnr"] != told["pictures"][1]["psnr"]  # other seeds
    header = quantized(CheckpointHeader.read(tmp_path / "out.safetensors"))
    smooth = [entry.read().parts.tensors["pre_quant_scale"] for _, entry in packed_entries(header)]
    assert [bool((one != 1).any()) for one in smooth].count(True) == 3  # the other three are convolutions
    assert all(bool((one.isfinite() & (one > 0)).all()) for one in smooth)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-error", 20), "needs something to measure"),
        (("--max-error", 20, "--max-size", 3, "--calibrate", "p.txt"), "cannot both hold"),
        (("--also", "int8_rowwise"), "--also names what a search may choose"),
        (("--max-error", "nan", "--calibrate", "p.txt"), "A limit of nan is none"),
        (("--observer", "mean"), "--observer mean is not known"),
        (("--calibrate", "none.txt"), "no file of prompts none.txt"),
        (("--calibrate", "empty.txt"), "empty.txt holds no prompts"),
        (("--calibrate", "p.txt"), "p.txt, line 2: 'steps=0' is no steps. There are 1 to 10000 steps"),
        (("--calibrate", "bytes.txt"), "bytes.txt is no text in UTF-8"),
        (("--calibrate", "other.json", "--base-directory", "."), "other.json does not load limner-starter.safetensors"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(tmp_path, capsys, monkeypatch, arguments, message) -> None:
    (tmp_path / "p.txt").write_text("# remark\na fox | steps=0\n")
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    picture = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}}
    show = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    (tmp_path / "other.json").write_text(json.dumps({"1": picture, "2": show}))
    monkeypatch.chdir(tmp_path)
    assert asked(tmp_path, "--format", "float8_e4m3fn", *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
