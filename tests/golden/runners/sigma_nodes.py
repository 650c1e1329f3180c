"""The scheduler and model sampling nodes that `schedulers/sigmas.json` has values of. (No case of its own.)"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch

from limner.nodes import model_sampling, sigmas
from limner.sampling import calculate_sigmas, make_sampling
from tests.golden.case import Check, unsupported

RUNNERS: dict[str, Any] = {}
FUNCTIONS = {
    "KarrasScheduler": sigmas.karras,
    "ExponentialScheduler": sigmas.exponential,
    "PolyexponentialScheduler": sigmas.polyexponential,
    "LaplaceScheduler": sigmas.laplace,
    "VPScheduler": sigmas.variance_preserving,
    "AlignYourStepsScheduler": sigmas.align_your_steps,
    "OptimalStepsScheduler": sigmas.optimal_steps,
    "SDTurboScheduler[eps_sd1]": lambda *args: sigmas.turbo(_sd1(), *args),
    "BetaSamplingScheduler[eps_sd1]": lambda *args: sigmas.beta_sampling(_sd1(), *args),
    "LTXVScheduler": lambda *args: sigmas.ltxv(
        *args[:3], stretch=args[3], terminal=args[4], latent=_latent(str(args[5]))
    ),
    "SplitSigmas": lambda *args: sigmas.split(_given(), *args),
    "SplitSigmasDenoise": lambda *args: sigmas.split_denoise(_given(), *args),
    "FlipSigmas": lambda: sigmas.flip(_given()),
    "SetFirstSigma": lambda *args: sigmas.set_first(_given(), *args),
}


def _sd1() -> Any:
    return SimpleNamespace(sampling=make_sampling("eps"))


def _given() -> torch.Tensor:
    return torch.tensor([14.6, 7.0, 3.0, 1.0, 0.3, 0.0])


def _latent(text: str) -> dict[str, torch.Tensor] | None:
    sizes = [int(number) for number in re.findall(r"\d+", text)]
    return {"samples": torch.zeros(sizes)} if sizes else None


def schedule_checks(entries: list[dict[str, Any]], error: Any) -> list[Check]:
    """The worst of each node's schedules, in tolerances; `error(found, expected)` measures."""
    checks = []
    for entry in entries:
        label = f"{entry['node']}{tuple(entry['args'])}"
        if entry["node"] not in FUNCTIONS:
            checks.append(unsupported(label))
            continue
        found = FUNCTIONS[entry["node"]](*entry["args"])
        parts = [found] if isinstance(found, torch.Tensor) else list(found)
        worst = max(error(part.tolist(), wanted) for part, wanted in zip(parts, entry["sigmas"], strict=True))
        checks.append(Check(label, worst, 1.0))
    return checks


class Patched:
    """A model that only takes object patches."""

    def __init__(self) -> None:
        self.patches: dict[str, Any] = {}
        self.sampling = make_sampling("eps")

    def clone(self) -> Patched:
        return Patched()

    def add_object_patch(self, name: str, obj: Any) -> None:
        self.patches[name] = obj


def sampling_checks(entries: list[dict[str, Any]], error: Any) -> list[Check]:
    """The schedules that a model has after a model sampling node."""
    checks = []
    for entry in entries:
        kind, _, text = entry["node"].rstrip(")").partition("(")
        words = [_word(word.partition("=")[2] or word) for word in text.split(",")]
        function = getattr(model_sampling, FAMILIES[kind])
        sampling = function(Patched(), *words).patches["model_sampling"]
        found = [
            sampling.sigma_min,
            sampling.sigma_max,
            *calculate_sigmas(sampling, "simple", 6).tolist(),
            *calculate_sigmas(sampling, "normal", 5).tolist(),
        ]
        wanted = [entry["sigma_min"], entry["sigma_max"], *entry["simple_6"], *entry["normal_5"]]
        checks.append(Check(entry["node"], error(found, wanted), 1.0))
    return checks


FAMILIES = {
    "ModelSamplingDiscrete": "discrete",
    "ModelSamplingContinuousEDM": "continuous_edm",
    "ModelSamplingContinuousV": "continuous_v",
    "ModelSamplingStableCascade": "stable_cascade",
    "ModelSamplingSD3": "sd3",
    "ModelSamplingAuraFlow": "aura_flow",
    "ModelSamplingFlux": "flux",
}


def _word(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    return int(text) if text.isdecimal() else float(text) if re.fullmatch(r"[\d.]+", text) else text
