"""Samplers, schedulers, noise, conditioning and resizing, over the toy denoiser that the cases write down."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.graph import NodeFunction
from limner.nodes import samplers as nodes
from limner.sampling import (
    SAMPLERS,
    SCHEDULERS,
    BasicGuider,
    CFGGuider,
    DualCFGGuider,
    ModelSampling,
    PerpNegGuider,
    Sampler,
    calculate_sigmas,
    get_sampler,
    make_sampling,
    prepare_noise,
    steps_sigmas,
)
from limner.sampling import guidance as hooks
from limner.sampling.guidance_variants import tangential_damping
from limner.sampling.prepare import prepare_mask
from limner.sampling.resize import common_upscale
from tests.golden.case import Case, Check, difference, unsupported
from tests.golden.runners.sigma_nodes import sampling_checks, schedule_checks
from tests.sampling.make import ToyModel, conditioning

KINDS = {
    "EPS": "eps",
    "V_PREDICTION": "v",
    "EDM": "edm",
    "V_PREDICTION_EDM": "v_edm",
    "V_PREDICTION_CONTINUOUS": "v_continuous",
    "FLOW": "flow",
    "FLUX": "flux",
    "STABLE_CASCADE": "cascade",
    "FLOW_COSMOS": "cosmos_rf",
}
SAMPLINGS = {"eps_sd1": "eps", "v_sd2": "v", "edm": "edm", "flow_sd3_shift3": "flow", "flux_1.15": "flux"}
RELATIVE, ABSOLUTE = 1e-5, 1e-6  # of sigma lists


def _toy(case: Case) -> ToyModel:
    sampling = make_sampling(SAMPLINGS[case.metadata["sampling"]], **case.metadata["sampling_settings"])
    return ToyModel(sampling, case.inputs["P_c"], case.inputs["P_u"])


def _run(
    model: ToyModel,
    sampler: Sampler,
    sigmas: Tensor,
    noise: Tensor,
    latent: Tensor,
    *,
    cfg: float,
    seed: int,
    mask: Tensor | None = None,
    guider: CFGGuider | None = None,
    callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
) -> Tensor:
    if guider is None:
        guider = CFGGuider(model)
        guider.set_conds(conditioning(1.0), conditioning(0.0))
        guider.set_cfg(cfg)
    return guider.sample(noise, latent, sampler, sigmas, mask, callback, seed=seed)


def samplers(path: Path, folder: Path) -> list[Check]:
    """Every sampler from the given sigmas to the final latent."""
    case = Case(path, folder)
    given, checks = case.metadata, []
    for name, expected in case.expected.items():
        if name not in SAMPLERS:
            checks.append(unsupported(name))
            continue
        stated = given["per_sampler"][name]
        found = _run(
            _toy(case),
            get_sampler(name),
            torch.tensor(stated["sigmas"]),
            case.inputs["noise"],
            case.inputs["latent"],
            cfg=given["cfg"],
            seed=given["seed"],
        )
        checks.append(Check(name, float((found - expected).abs().max()), stated["atol"]))
    return checks


def trajectories(path: Path, folder: Path) -> list[Check]:
    """x as each step is handed it, then the final latent."""
    case = Case(path, folder)
    given, checks = case.metadata, []
    for name, expected in case.expected.items():
        model, sampler, rows = _toy(case), get_sampler(name), []
        sigmas = steps_sigmas(model.sampling, sampler, given["scheduler"], given["steps"])
        noise = case.inputs["noise"]
        final = _run(
            model,
            sampler,
            sigmas,
            noise,
            torch.zeros_like(noise),
            cfg=given["cfg"],
            seed=given["seed"],
            callback=lambda _i, _denoised, x, _total, rows=rows: rows.append(x),
        )
        found = torch.cat([*rows, final])
        if len(found) > len(expected):  # dpm_adaptive, whose reference is cut
            kept = [0, 1, 2, -1]
            checks.append(Check(name, difference(found[: len(expected)][kept], expected[kept]), case.tolerance(name)))
            checks.append(
                unsupported("dpm_adaptive rows 3-6 (last bits of the CPU math library decide its step sizes)")
            )
        else:
            checks.append(case.check(name, found))
    return checks


def sampler_nodes(path: Path, folder: Path) -> list[Check]:
    """Samplers with options, as the sampler nodes set them."""
    case = Case(path, folder)
    checks = []
    for name, expected in case.expected.items():
        stated = case.metadata["per_sampler"][name]
        sampler = _node_sampler(stated["node"])
        if sampler is None:
            checks.append(unsupported(name))
            continue
        settings = {"shift": 3.0} if stated["sampling"] == "flow_sd3_shift3" else {}
        sampling = make_sampling(SAMPLINGS[stated["sampling"]], **settings)
        generator = case.inputs
        model = ToyModel(sampling, generator["P_c"], generator["P_u"])
        noise = prepare_noise(torch.zeros_like(expected), case.metadata["seed"])
        found = _run(
            model,
            sampler,
            torch.tensor(stated["sigmas"]),
            noise,
            torch.zeros_like(noise),
            cfg=case.metadata["cfg"],
            seed=case.metadata["seed"],
        )
        checks.append(Check(name, float((found - expected).abs().max()), stated["atol"]))
    return checks


def _node_sampler(node: str) -> Sampler | None:
    """The sampler of e.g. "SamplerLMS(order=2)"; words without a name are the node's choices, in its order."""
    kind, _, arguments = node.rstrip(")").partition("(")
    function = NODES.get(kind)
    if function is None or kind == "SamplerLCMUpscale":  # the reference draws its noise from a generator of its process
        return None
    words = [word.replace("_", " ") if "=" not in word else word for word in arguments.split(",")]
    named = dict(word.split("=") for word in words if "=" in word)
    options = {name: text if name == "upscale_method" else _number(text) for name, text in named.items()}
    choices = iter(word for word in words if "=" not in word)
    for name in inspect.signature(function).parameters:
        if name in CHOICES:
            options[name] = next(choices, options.get(name))
    return function(**options)  # type: ignore[no-any-return]


CHOICES = ("solver_type", "noise_device", "version")
NODES: dict[str, Any] = {node.schema.kind: node for node in vars(nodes).values() if isinstance(node, NodeFunction)}


def _number(text: str) -> float | int:
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def _sigma_error(found: Sequence[float], expected: Sequence[float | str]) -> float:
    """Largest error as a part of what is allowed; a reference value that is not a number allows any."""
    if len(found) != len(expected):
        return math.inf
    worst = 0.0
    for a, b in zip(found, map(float, expected), strict=True):
        if a != b and not math.isnan(b):
            worst = max(worst, abs(a - b) / max(RELATIVE * max(abs(a), abs(b)), ABSOLUTE))
    return worst


def schedulers(path: Path, folder: Path) -> list[Check]:
    """Tables, schedules, KSampler's sigmas, and the formulas of each kind of sampling; errors in tolerances."""
    data = Case(path, folder).data
    made = {
        name: make_sampling(KINDS[entry["model_type"]], **entry["sampling_settings"])
        for name, entry in data["samplings"].items()
    }
    checks = []
    for name, sampling in made.items():
        table = data["samplings"][name]["sigmas_every"]
        found = [float(sampling.sigmas[int(i)]) for i in table]
        checks.append(Check(f"{name} table", _sigma_error(found, list(table.values())), 1.0))
        for scheduler, by_steps in data["sigmas"][name].items():
            for steps, expected in by_steps.items():
                label = f"{name} {scheduler} {steps}"
                if scheduler not in SCHEDULERS:
                    checks.append(unsupported(label))
                    continue
                found = calculate_sigmas(sampling, scheduler, int(steps)).tolist()
                checks.append(Check(label, _sigma_error(found, expected), 1.0))
        checks.append(Check(f"{name} formulas", _formulas(sampling, data["model_sampling_functions"][name]), 1.0))
    for entry in data["ksampler"]:
        sampler = get_sampler(entry["sampler"])
        sigmas = steps_sigmas(
            made[entry["sampling"]], sampler, entry["scheduler"], entry["steps"], entry["denoise"]
        ).tolist()
        label = "ksampler {sampling} {sampler} {scheduler} {steps} {denoise}".format(**entry)
        checks.append(Check(label, _sigma_error(sigmas, entry["sigmas"]), 1.0))
    return [
        *checks,
        *schedule_checks(data["nodes"], _sigma_error),
        *sampling_checks(data["model_sampling_nodes"], _sigma_error),
    ]


def _formulas(sampling: ModelSampling, stated: dict[str, Any]) -> float:
    """The worst error of times, percentages, input, denoised and noise scaling."""

    def row(*values: float) -> Tensor:
        return torch.tensor(values).view(1, 1, 1, -1)

    x, output, noise = row(0.7, -1.3), row(0.2, 0.5), row(1.1, -0.4)
    pairs: list[tuple[list[float], list[float]]] = []
    for sigma, time in stated["timestep"].items():
        pairs.append(([float(sampling.timestep(torch.tensor(float(sigma))))], [time]))
    for time, sigma in stated["sigma_of_timestep"].items():
        pairs.append(([float(sampling.sigma(torch.tensor(float(time))))], [sigma]))
    for percent, sigma in stated["percent_to_sigma"].items():
        pairs.append(([sampling.percent_to_sigma(float(percent))], [sigma]))
    for key, expected in stated["noise_scaling"].items():
        level = torch.tensor([float(key)])
        for name, full in (("max_denoise_false", False), ("max_denoise_true", True)):
            pairs.append((sampling.noise_scaling(level, noise, x, full).flatten().tolist(), expected[name]))
        pairs.append((sampling.inverse_noise_scaling(level, x).flatten().tolist(), expected["inverse"]))
    for key, expected in stated["calculate_input"].items():
        pairs.append((sampling.calculate_input(torch.tensor([float(key)]), x).flatten().tolist(), expected))
    for key, expected in stated["calculate_denoised"].items():
        found = sampling.calculate_denoised(torch.tensor([float(key)]), output, x)
        pairs.append((found.flatten().tolist(), expected))
    return max(_sigma_error(found, expected) for found, expected in pairs)


def noise(path: Path, folder: Path) -> list[Check]:
    """The initial noise bit by bit, and noise masks."""
    case = Case(path, folder)
    checks = []
    for entry in case.metadata["cases"]:
        found = prepare_noise(torch.zeros(entry["shape"]), int(entry["seed"]), entry["noise_inds"])
        checks.append(case.check(entry["name"], found))
    for name in ("mask_to_8x8_b2", "mask_3d_video"):
        expected = case.expected[name]
        error = float((prepare_mask(case.inputs["mask"], expected.shape) - expected).abs().max())
        checks.append(Check(name, error, 1e-6))
    return checks


def upscale(path: Path, folder: Path) -> list[Check]:
    """Every resizing method."""
    case = Case(path, folder)
    checks = []
    for name, expected in case.expected.items():
        method, size, crop = name.split("_")
        x = case.inputs["x"]
        if method == "lanczos":
            x = x[:, :3].clamp(0, 1)
        found = common_upscale(x, *map(int, size.split("x")), method, crop)
        error = float((found - expected).abs().max()) if found.shape == expected.shape else math.inf
        checks.append(Check(name, error, 2 / 255 if method == "lanczos" else 1e-5))
    return checks


def combinations(path: Path, folder: Path) -> list[Check]:
    """Conditionings put together, inpainting and guidance; the order of rows in the model's calls too."""
    case = Case(path, folder)
    checks = []
    for name in case.expected:
        run = COMBINATIONS.get(name)
        if run is None:
            checks.append(unsupported(name))
            continue
        model = _toy(case)
        found = run(Combination(case, model))
        stated = case.metadata["per_case"][name]
        checks.append(case.check(name, found))
        checks.append(Check(f"{name} calls", 0.0 if _same_calls(model, stated) else math.inf))
    return checks


def _same_calls(model: ToyModel, stated: dict[str, Any]) -> bool:
    if len(model.calls) != stated["n_calls"]:
        return False
    for (shape, _, contexts), expected in zip(model.calls, stated["calls"], strict=False):
        if list(shape) != expected["shape"] or any(
            abs(a - b) > 1e-5 for a, b in zip(contexts, expected["ctx"], strict=True)
        ):
            return False
    return True


class Combination:
    """One case of the combinations: its model, inputs, and defaults (euler, normal, six steps, cfg 3)."""

    def __init__(self, case: Case, model: ToyModel) -> None:
        self.case, self.model = case, model

    def __call__(
        self,
        positive: list[list[Any]] | None = None,
        negative: list[list[Any]] | None = None,
        *,
        cfg: float = 3.0,
        sampler: str = "euler",
        scheduler: str = "normal",
        denoise: float = 1.0,
        noise: str = "noise",
        latent: bool = False,
        mask: Tensor | None = None,
        guider: CFGGuider | None = None,
        **options: Any,
    ) -> Tensor:
        given = self.case.metadata
        self.model.options.update(options)
        if guider is None:
            guider = CFGGuider(self.model)
            guider.set_conds(positive or conditioning(1.0), negative or conditioning(0.0))
            guider.set_cfg(cfg)
        chosen = get_sampler(sampler)
        sigmas = steps_sigmas(self.model.sampling, chosen, scheduler, given["steps"], denoise)
        start = self.case.inputs[noise]
        image = self.case.inputs["latent"] if latent else torch.zeros_like(start)
        return _run(self.model, chosen, sigmas, start, image, cfg=cfg, seed=given["seed"], mask=mask, guider=guider)

    @property
    def mask(self) -> Tensor:
        return self.case.inputs["mask"]


def _dual(c: Combination, nested: bool) -> Tensor:
    guider = DualCFGGuider(c.model)
    guider.set_dual_conds(conditioning(1.0), conditioning(0.6), conditioning(0.0))
    guider.set_dual_cfg(3.0, 2.0, nested)
    return c(guider=guider)


def _perp_neg(c: Combination) -> Tensor:
    guider = PerpNegGuider(c.model)
    guider.set_perp_conds(conditioning(1.0), conditioning(0.0), conditioning(0.4))
    guider.set_perp_cfg(4.0, 1.2)
    return c(guider=guider)


def _basic(c: Combination) -> Tensor:
    guider = BasicGuider(c.model)
    guider.set_cond(conditioning(1.0))
    return c(guider=guider)


def _differential(c: Combination) -> Tensor:
    size = c.mask.shape[-1]
    mask = torch.linspace(0, 1, size).view(1, size, 1).expand(1, size, size)
    return c(latent=True, mask=mask, denoise_mask_function=hooks.differential_diffusion(c.model))


COMBINATIONS: dict[str, Callable[[Combination], Tensor]] = {
    "plain": lambda c: c(),
    "cfg1": lambda c: c(cfg=1.0),
    "combine": lambda c: c(conditioning(1.0) + conditioning(0.5)),
    "combine_strength": lambda c: c(conditioning(1.0) + conditioning(0.5, strength=0.3)),
    "area": lambda c: c(conditioning(1.0) + conditioning(0.6, area=(6, 8, 4, 2), strength=1.0)),
    "area_strength_two": lambda c: c(
        conditioning(0.6, area=(8, 8, 0, 0), strength=0.7) + conditioning(0.9, area=(8, 10, 2, 4), strength=1.4)
    ),
    "area_percentage": lambda c: c(
        conditioning(1.0) + conditioning(0.4, area=("percentage", 0.75, 0.5, 0.25, 0.25), strength=1.0)
    ),
    "mask_default": lambda c: c(
        conditioning(1.0) + conditioning(0.5, mask=c.mask, mask_strength=1.0, set_area_to_bounds=False)
    ),
    "mask_bounds": lambda c: c(
        conditioning(1.0) + conditioning(0.5, mask=c.mask, mask_strength=0.8, set_area_to_bounds=True)
    ),
    "timestep_range": lambda c: c(
        conditioning(1.0, start_percent=0.0, end_percent=0.4) + conditioning(0.3, start_percent=0.4, end_percent=1.0)
    ),
    "timestep_range_neg": lambda c: c(negative=conditioning(0.0, start_percent=0.0, end_percent=0.5)),
    "average": lambda c: c(conditioning(0.76)),
    "concat_zero_out": lambda c: c(negative=conditioning(0.0)),
    "batch3": lambda c: c(noise="noise_batch3"),
    "noise_mask": lambda c: c(latent=True, mask=c.mask),
    "noise_mask_denoise06": lambda c: c(latent=True, mask=c.mask, denoise=0.6),
    "noise_mask_ddim": lambda c: c(latent=True, mask=c.mask, sampler="ddim"),
    "noise_mask_dpmpp2m": lambda c: c(latent=True, mask=c.mask, sampler="dpmpp_2m", scheduler="karras"),
    "img2img_0.5": lambda c: c(latent=True, denoise=0.5),
    "differential_diffusion": _differential,
    "rescale_cfg_0.7": lambda c: c(cfg=6.0, sampler_cfg_function=hooks.rescale_cfg(0.7)),
    "perp_neg": _perp_neg,
    "dual_cfg": lambda c: _dual(c, nested=False),
    "dual_cfg_nested": lambda c: _dual(c, nested=True),
    "basic_guider": _basic,
    "apg": lambda c: c(cfg=5.0, sampler_pre_cfg_function=[hooks.AdaptiveProjection(1.0, 5.0, 0.0)]),
    "cfg_zero_star": lambda c: c(cfg=4.0, sampler_post_cfg_function=[hooks.cfg_zero_star()]),
    "cfg_norm": lambda c: c(cfg=4.0, sampler_post_cfg_function=[hooks.cfg_norm(0.8)]),
    "tcfg": lambda c: c(cfg=4.0, sampler_pre_cfg_function=[tangential_damping()]),
    "mahiro": lambda c: c(cfg=4.0, sampler_post_cfg_function=[hooks.mahiro()]),
}


RUNNERS = {
    "samplers/sampler_nodes*": sampler_nodes,
    "samplers/trajectory_*": trajectories,
    "samplers/*": samplers,
    "schedulers/sigmas*": schedulers,
    "noise/prepare_noise*": noise,
    "conditioning/common_upscale*": upscale,
    "conditioning/combinations*": combinations,
}
