"""Latent formats: autoencoder space to model space and back, by the names of the formats."""

from __future__ import annotations

from pathlib import Path

from limner.sampling.latent_formats import FORMATS
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported


def process(path: Path, folder: Path) -> list[Check]:
    """Both ways of every format that has an input."""
    case = Case(path, folder)
    if "formats" not in case.metadata:
        raise UnsupportedCaseError("No latent formats.")
    checks = []
    for name in case.expected:
        form, _, way = name.rpartition(".")
        if form not in FORMATS or way not in ("in", "out"):
            checks.append(unsupported(name))
            continue
        own = FORMATS[form]
        function = own.process_in if way == "in" else own.process_out
        checks.append(case.check(name, function(case.inputs[form])))
        said = case.metadata["formats"].get(form, {})
        same = (own.channels, own.dims) == (said.get("latent_channels"), said.get("latent_dimensions"))
        checks.append(Check(f"{form} channels and axes", 0.0 if same else 1.0))
    return checks


RUNNERS = {"latent-formats/*": process}
