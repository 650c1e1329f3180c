"""The vectors of sizes and scores that SDXL, its refiner and video models are told."""

from __future__ import annotations

from pathlib import Path

from limner.models.adm import refiner_vector, sdxl_vector, video_vector
from tests.golden.case import Case, Check, unsupported


def vectors(path: Path, folder: Path) -> list[Check]:
    """Every output, made of the arguments that the metadata names."""
    case = Case(path, folder)
    pooled = case.inputs["pooled"]
    arguments = case.metadata["args"]
    checks = []
    for name, said in arguments.items():
        kind = name.partition("_")[0]
        if kind == "svd":
            checks.append(case.check(name, video_vector(**said)))
        elif kind in ("sdxl", "refiner"):
            checks.append(case.check(name, {"sdxl": sdxl_vector, "refiner": refiner_vector}[kind](pooled, **said)))
        else:
            checks.append(unsupported(name))
    return checks


RUNNERS = {"conditioning/adm_vectors*": vectors}
