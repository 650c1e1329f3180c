"""The runner of golden cases itself."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.golden import weights
from tests.golden.case import Check, difference
from tests.golden.run import Verdict, case_name, cases_in

RUN = Path(__file__).parent / "run.py"
SD_VAE = Path(__file__).parent / "cases" / "vae-taesd"


def test_the_weights_rule_gives_the_tensors_whose_digests_a_manifest_keeps():
    assert weights.wrong(weights.read_manifest(SD_VAE / "manifest.json")) == []


def test_manifests_pictures_and_parts_of_workflows_are_no_cases(tmp_path):
    family = tmp_path / "workflow-x"
    family.mkdir()
    for name in ("manifest.json", "unet.manifest.json", "a.workflow.json", "a.meta.json", "a.final.png",
                 "a.final.latent.safetensors", "b.safetensors", "c.json.gz"):  # fmt: skip
        (family / name).touch()
    assert [case_name(path) for path in cases_in(tmp_path)] == ["workflow-x/a", "workflow-x/b", "workflow-x/c"]


def test_a_line_names_the_worst_output_and_what_is_unsupported():
    line = Verdict("FAIL", "f/c", (Check("a", 1e-6, 1e-5), Check("b", 3e-5, 1e-5), Check("c", None))).line()
    assert line == "FAIL f/c 3e-05 1e-05 failed: b unsupported: c"


def test_a_nan_fails_and_so_does_another_shape():
    assert not Check("x", difference(torch.tensor([torch.nan]), torch.zeros(1)), 1.0).passed
    assert not Check("x", difference(torch.zeros(2), torch.zeros(1)), 1.0).passed


def test_an_unknown_family_is_unsupported_and_a_wrong_expectation_fails(tmp_path):
    for name in ("vae-mine", "never-heard-of"):
        (tmp_path / name).mkdir()
    (tmp_path / "vae-mine" / "manifest.json").write_bytes((SD_VAE / "manifest.json").read_bytes())
    metadata = {"weights": json.dumps({"manifest": "manifest.json", "seed": 7}), "cls": "TAESD", "config": "{}",
                "atol": json.dumps({"*": 1e-5})}  # fmt: skip
    tensors = {"in.pixels": torch.zeros(1, 3, 8, 8), "in.latent": torch.zeros(1, 4, 1, 1),
               "out.encode": torch.ones(1, 4, 1, 1), "out.decode": torch.ones(1, 3, 8, 8)}  # fmt: skip
    save_file(tensors, tmp_path / "vae-mine" / "case.safetensors", metadata)
    save_file(tensors, tmp_path / "never-heard-of" / "case.safetensors", {})

    done = subprocess.run([sys.executable, RUN, tmp_path], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    unknown, wrong, totals = done.stdout.splitlines()
    assert unknown.startswith("UNSUPPORTED never-heard-of/case - -")
    assert wrong.startswith("FAIL vae-mine/case ")
    assert totals == "0 passed, 1 failed, 1 unsupported"
