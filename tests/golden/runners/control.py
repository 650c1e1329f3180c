"""Controls by themselves and in a run, whatever their kind: found by their keys, called with the case's inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.memory import DefaultSettings, MemoryManager
from limner.models.control.load import control_of, detect
from limner.models.load import model_of
from limner.nodes.control import apply_control_net, apply_control_net_advanced
from limner.sampling.run import sample, steps_sigmas
from limner.sampling.samplers import get_sampler
from limner.weights import CheckpointHeader
from tests.golden.case import Case, Check, UnsupportedCaseError, difference
from tests.golden.runners.networks import network as plain_network

BASES = {"unet", "seed"}  # the names of what is controlled, among a case's weights


def header(case: Case) -> CheckpointHeader:
    """The control's tensors, with the case's config of them."""
    names = case.metadata.get("weights", {}).keys() - BASES
    if len(names) != 1:
        raise UnsupportedCaseError("The case names no control's weights.")
    name = next(iter(names))
    config = case.config.get(name, {}) if case.config.keys() & BASES else case.config
    return CheckpointHeader.of(case.state_dict(name), {"config": json.dumps(config)})


def network(case: Case) -> nn.Module:
    """The network of the control."""
    found = header(case)
    try:
        kind, layout = detect(found)
    except BadInput as error:
        raise UnsupportedCaseError(str(error)) from error
    converted = layout.convert(found)
    said = json.loads(found.metadata["config"])
    with torch.device("meta"):
        made = kind.network(kind.infer_config(converted, said))
    made.load_state_dict({name: converted.tensor(name) for name in made.state_dict()}, assign=True)
    return made.eval()


@torch.inference_mode()
def forward(path: Path, folder: Path) -> list[Check]:
    """Residuals for the inputs of the case: distinct ones in order, or by their place."""
    case = Case(path, folder)
    if "sampler" in case.metadata or not {"hint", "x"} <= case.inputs.keys():
        raise UnsupportedCaseError("No bare pass of a control.")
    arguments: dict[str, Any] = {**case.metadata.get("kwargs", {}), **case.inputs}
    arguments["timesteps"] = arguments.pop("timestep", arguments.get("timesteps"))
    found = network(case)(**arguments)
    checks = [case.check(name, value) for name, value in named(found, case.expected).items()]
    for part, number in case.metadata.get("counts", {}).items():
        checks.append(Check(f"count of {part}", float(abs(len(found[part]) - number))))
    if "unet_plain" in case.expected:
        checks += over_unet(case, found)
    return checks


def named(found: Mapping[str, list[Tensor | None]], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The residuals by the names under which a case expects them."""
    named: dict[str, Tensor] = {}
    for part, residuals in found.items():
        distinct = list({id(one): one for one in residuals if one is not None}.values())
        by_name = {f"{part}{number}": one for number, one in enumerate(residuals) if one is not None}
        by_name |= {f"{part}_distinct{number}": one for number, one in enumerate(distinct)}
        by_name |= {f"res{number}": one for number, one in enumerate(distinct)} if part == "input" else {}
        by_name |= {part: distinct[0]} if len(distinct) == 1 else {}
        named |= {name: one for name, one in by_name.items() if name in expected}
    outputs = {name for name in expected if re.match(r"(input|output|middle|res)", name)}
    if missing := outputs - named.keys():
        raise AssertionError(f"The control gives no {sorted(missing)}.")
    return named


def over_unet(case: Case, control: Mapping[str, list[Tensor | None]]) -> list[Check]:
    """The UNet alone, and with the residuals at 0.8."""
    unet = plain_network(case, "unet", case.config["unet"])
    inputs = (case.inputs["x"], case.inputs["timesteps"], case.inputs["context"])
    weaker = {part: [None if one is None else one * 0.8 for one in several] for part, several in control.items()}
    return [
        case.check("unet_plain", unet(*inputs)),
        case.check("unet_with_control_0.8", unet(*inputs, control=weaker)),
    ]


@torch.inference_mode()
def sampling(path: Path, folder: Path) -> list[Check]:
    """Runs with a control from its nodes; an adapter's features too, where the case has them."""
    case = Case(path, folder)
    if "image" not in case.inputs or "unet" not in case.metadata.get("weights", {}):
        raise UnsupportedCaseError("No run with a control.")
    memory = MemoryManager(DefaultSettings(force_fp32=True, cpu=True))
    base = CheckpointHeader.of(case.state_dict("unet"), {"config": json.dumps(case.config["unet"])})
    try:
        model, control = model_of(base, memory), control_of(header(case), memory)
    except BadInput as error:
        raise UnsupportedCaseError(str(error)) from error
    checks = []
    for name in case.expected:
        if re.match(r"(advanced|sampled|apply|plain|two_chained)", name):
            made, exact = (run(case, name, one, control) for one in (model, in_double_precision(model)))
            # the results are hundreds wide, so that the stated tolerance is less than rounding in float32 makes
            rounding = difference(made, exact)
            allowed = max(case.tolerance(name), 3 * rounding)
            checks.append(Check(name, difference(made, case.expected[name]), allowed))
    if "hint" in case.inputs:
        found = named(network(case)(case.inputs["hint"]), case.expected)
        checks += [case.check(name, value) for name, value in found.items()]
    return checks


def run(case: Case, name: str, model: Any, control: Any) -> Tensor:
    """The final latent of one output."""
    positive, negative = controlled(name, case, control)
    sampler, noise = get_sampler("euler"), case.inputs["noise"]
    sigmas = steps_sigmas(model.sampling, sampler, "normal", 5, 1.0)
    return sample(model, noise, positive, negative, 6.0, sampler, sigmas, torch.zeros_like(noise), None, seed=42)


def in_double_precision(model: Any) -> Any:
    """The same model, computing in float64."""
    other = model.clone()
    other.set_model_compute_dtype(torch.float64)
    return other


def controlled(name: str, case: Case, control: Any) -> tuple[Any, Any]:
    """The conditionings of one output: strength, start and end stand in its name."""
    positive, negative = [[case.inputs["pos"], {}]], [[case.inputs["neg"], {}]]
    image = case.inputs["image"]
    numbers = [float(number) for number in name.split("_")[1:] if re.fullmatch(r"[\d.]+", number)]
    if name.startswith("apply"):
        return apply_control_net(positive, control, image, numbers[0]), negative
    if name == "two_chained":
        first = apply_control_net_advanced(positive, negative, control, image, 0.6, 0.0, 1.0)
        return apply_control_net_advanced(*first, control, image.flip(2), 0.4, 0.0, 0.5)
    if name == "plain":
        return positive, negative
    strength, start, end = (*numbers, 0.0, 1.0) if len(numbers) == 1 else numbers
    return apply_control_net_advanced(positive, negative, control, image, strength, start, end)


def judged(path: Path, folder: Path) -> list[Check]:
    """A control's bare pass, or runs with it."""
    case = Case(path, folder)
    return sampling(path, folder) if "image" in case.inputs else forward(path, folder)


RUNNERS = {"*/*.safetensors": judged}
