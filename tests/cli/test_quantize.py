"""limner quantize, asked as a person would: what is said, what is written, what it takes, and the picture after it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from limner.cli import main
from limner.models.load import load_checkpoint
from limner.sampling.run import ksample
from limner.weights import CheckpointHeader, save
from limner.weights.lazy import PackedTensor
from limner.weights.ops import Linear
from limner.weights.quant.files import quantized
from tests.models.checkpoints import checkpoint, memory, tensors
from tests.weights.quant.checker import Checked
from tests.weights.quant.hollow import hollow, peak

GIGABYTE = 1 << 30


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def blocks(path: Path) -> Path:
    """A network of two blocks, in half precision."""
    torch.manual_seed(0)
    names = [f"model.diffusion_model.blocks.{i}.{leaf}.weight" for i in (0, 1) for leaf in ("qkv", "mlp.0")]
    contents = {name: torch.randn(64, 64).half() for name in names}
    save(
        path / "in.safetensors",
        contents | {"model.diffusion_model.final.weight": torch.randn(16, 64).half()},
        {"note": "kept"},
    )
    return path / "in.safetensors"


def test_it_says_what_each_layer_lost_and_writes_the_same_as_json(tmp_path, capsys) -> None:
    source, target, report = blocks(tmp_path), tmp_path / "out.safetensors", tmp_path / "report.json"
    status, out, err = asked(capsys, "quantize", source, target, "--format", "int8_rowwise", "--report", report)
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("int8_rowwise ")]
    assert [line.split()[-1] for line in lines] == [
        f"model.diffusion_model.blocks.{i}.{leaf}.weight" for i in (0, 1) for leaf in ("mlp.0", "qkv")
    ]
    assert "quantized: 4 layers" in out
    assert "least SQNR" in out
    told = json.loads(report.read_text())
    assert told["recipe"]["format"] == "int8_rowwise"
    assert [round(one["sqnr"], 2) for one in told["layers"]] == [float(line.split()[1]) for line in lines]
    assert all(one["sqnr"] > 40 and one["after"] == 64 * 64 + 64 * 4 for one in told["layers"])
    assert [one["name"] for one in told["kept"]] == ["model.diffusion_model.final.weight"]
    assert told["bytes"] == {"before": source.stat().st_size, "after": target.stat().st_size}
    checked = Checked(target)
    assert checked.wrong == []
    assert checked.metadata["note"] == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in.safetensors", "out.safetensors"), "It is not said what to quantize to"),
        (("none.safetensors", "out.safetensors", "--format", "nf4"), "is not a file"),
        (("in.safetensors", "out.safetensors", "--format", "nf5"), "no quantization layout 'nf5'"),
        (("in.safetensors", "in.safetensors", "--format", "nf4"), "over itself"),
        (("in.safetensors", "there.safetensors", "--format", "nf4"), "is there already"),
        (("in.safetensors", "out.gguf", "--format", "nf4"), "would be no safetensors file"),
        (("in.safetensors", "nowhere/out.safetensors", "--format", "nf4"), "no folder"),
        (("in.safetensors", "out.safetensors", "--format", "nf4", "--include", "x*"), "fits 'x*'"),
        (("in.safetensors", "out.safetensors", "--recipe", "none.json"), "no recipe"),
        (("bad.safetensors", "out.safetensors", "--format", "nf4"), "not a usable safetensors file"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(tmp_path, capsys, monkeypatch, arguments, message) -> None:
    blocks(tmp_path)
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    (tmp_path / "bad.safetensors").write_bytes(bytes(7))
    monkeypatch.chdir(tmp_path)
    status, out, err = asked(capsys, "quantize", *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert not (tmp_path / "out.safetensors").exists()
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_a_file_may_be_replaced_where_that_is_said(tmp_path, capsys) -> None:
    (tmp_path / "out.safetensors").write_bytes(b"old")
    arguments = ("quantize", blocks(tmp_path), tmp_path / "out.safetensors", "--format", "nf4", "--overwrite")
    assert asked(capsys, *arguments)[0] == 0
    assert Checked(tmp_path / "out.safetensors").wrong == []


# -- What it takes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_gigabyte_takes_less_than_two_of_memory(tmp_path) -> None:
    """benchmarks/quant_memory.py asks the same of four gigabytes and of other layouts."""
    source, target = hollow(tmp_path / "in.safetensors", GIGABYTE), tmp_path / "out.safetensors"
    most = peak(source, target, "int8_rowwise", {**os.environ, "OMP_NUM_THREADS": "1"})
    assert most < 1.25 * GIGABYTE  # of which torch takes a third; two are promised for any size
    assert target.stat().st_size == pytest.approx(GIGABYTE / 2, rel=0.01)


# -- Pictures --------------------------------------------------------------------------------------------------------


def picture(path: Path) -> torch.Tensor:
    """(H, W, 3) in 0…1: sampled and decoded by the ordinary loader's parts."""
    model, clip, vae = load_checkpoint(path, memory())
    assert clip is not None
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in ("a cat", ""))
    blank = {"samples": torch.zeros(1, 4, 16, 16)}
    made = ksample(model, 3, 4, 4.0, "euler", "normal", positive, negative, blank)
    return vae.decode(made["samples"])[0]


def psnr(exact: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * (exact - other).square().mean().log10())


@pytest.mark.parametrize(
    ("name", "least"), [("int8_rowwise", 47), ("float8_e4m3fn", 38), ("int4_groups", 25), ("nf4", 25)]
)
def test_a_quantized_checkpoint_loads_and_makes_a_picture_close_to_the_original(
    tmp_path, capsys, name: str, least: float
) -> None:
    source, target = checkpoint(tmp_path, tensors(model_channels=16, context_dim=8)), tmp_path / "out.safetensors"
    status, _, _ = asked(
        capsys, "quantize", source, target, "--format", name, "--include", "model.diffusion_model.*",
        "--include", "cond_stage_model.transformer.text_model.encoder.*", "--include", "first_stage_model.*",
    )  # fmt: skip
    assert status == 0
    header = quantized(CheckpointHeader.read(target))
    packed = [key for key, entry in header.tensors.items() if isinstance(entry, PackedTensor)]
    assert {key.split(".")[0] for key in packed} == {"model", "cond_stage_model", "first_stage_model"}
    assert Checked(target).wrong == []
    assert psnr(picture(source), picture(target)) > least


def test_inspect_runs_a_checkpoint_and_says_what_dequantized(tmp_path, capsys, monkeypatch) -> None:
    source, target = checkpoint(tmp_path, tensors(model_channels=16, context_dim=8)), tmp_path / "out.safetensors"
    asked(capsys, "quantize", source, target, "--format", "int8_rowwise", "--include", "model.diffusion_model.*")

    status, out, _ = asked(capsys, "inspect", target, "--run")
    assert status == 0
    assert "one step, decoded: 32×32 pixels, finite" in out
    assert "no operation had to dequantize" in out

    monkeypatch.setattr(Linear, "forward", lambda self, x: x @ (self.weight * 1.0).t().to(x.dtype))
    status, out, _ = asked(capsys, "inspect", target, "--run")
    assert "aten.mul.Tensor dequantized int8_rowwise" in out
