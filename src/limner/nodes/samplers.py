"""Samplers as values: a solver with its options."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from limner.graph import Choice, Float, Int, node
from limner.nodes.kinds import MODEL, SAMPLER
from limner.sampling import samplers
from limner.sampling.samplers.er_sde import er_sde_scaler, reverse_time_scaler
from limner.sampling.samplers.euler_cfg_pp import ALTERNATIVE
from limner.sampling.samplers.lcm import lcm_upscale
from limner.sampling.samplers.sa_solver import interval_tau

Number = Annotated[float, Float(min=0.0, max=100.0, step=0.01, round=False)]
Percent = Annotated[float, Float(min=0.0, max=1.0, step=0.001)]
NoiseDevice = Annotated[str, Choice(("gpu", "cpu"))]
SOLVERS = ("ER-SDE", "Reverse-time SDE", "ODE")


def chosen(name: str) -> SAMPLER:
    """The sampler of this name, as it is now: packs may bring functions of their own."""
    found: SAMPLER = samplers.get_sampler(name)
    return found


sampler_node = partial(
    node, category="sampling/custom_sampling/samplers", python_module="comfy_extras.nodes_custom_sampler"
)


@sampler_node("KSamplerSelect", title="KSamplerSelect")
def select(sampler_name: Annotated[str, Choice(samplers.SAMPLERS)]) -> SAMPLER:
    """A sampler with its usual options."""
    return chosen(sampler_name)


@sampler_node("SamplerEulerAncestral", title="SamplerEulerAncestral")
def euler_ancestral(eta: Number = 1.0, s_noise: Number = 1.0) -> SAMPLER:
    """Euler's method with noise renewed; eta: how much of it."""
    return chosen("euler_ancestral").with_options(eta=eta, s_noise=s_noise)


@sampler_node("SamplerEulerAncestralCFGPP", title="SamplerEulerAncestralCFG++")
def euler_ancestral_cfg_pp(
    eta: Annotated[float, Float(min=0.0, max=1.0, step=0.01, round=False)] = 1.0,
    s_noise: Annotated[float, Float(min=0.0, max=10.0, step=0.01, round=False)] = 1.0,
) -> SAMPLER:
    """The same along the unconditional prediction (CFG++)."""
    return chosen("euler_ancestral_cfg_pp").with_options(eta=eta, s_noise=s_noise)


@node(
    "SamplerEulerCFGpp",
    category="_for_testing",
    title="SamplerEulerCFG++",
    python_module="comfy_extras.nodes_advanced_samplers",
    style="v3",
    experimental=True,
)
def euler_cfg_pp(version: Annotated[str, Choice(("regular", "alternative"))]) -> SAMPLER:
    """Euler's method along the unconditional prediction (CFG++).

    version: regular as published; alternative goes from the unconditional prediction past the guided one.
    """
    return chosen("euler_cfg_pp") if version == "regular" else ALTERNATIVE


@sampler_node("SamplerLMS", title="SamplerLMS")
def lms(order: Annotated[int, Int(min=1, max=100)] = 4) -> SAMPLER:
    """A linear multistep method; order: how many steps it looks back."""
    return chosen("lms").with_options(order=order)


@sampler_node("SamplerDPMPP_3M_SDE", title="SamplerDPMPP_3M_SDE")
def dpmpp_3m_sde(eta: Number = 1.0, s_noise: Number = 1.0, *, noise_device: NoiseDevice) -> SAMPLER:
    """DPM-Solver++(3M) with noise; the device that the noise is drawn on changes the picture."""
    return _on(noise_device, "dpmpp_3m_sde").with_options(eta=eta, s_noise=s_noise)


@sampler_node("SamplerDPMPP_2M_SDE", title="SamplerDPMPP_2M_SDE")
def dpmpp_2m_sde(
    solver_type: Annotated[str, Choice(("midpoint", "heun"))],
    eta: Number = 1.0,
    s_noise: Number = 1.0,
    *,
    noise_device: NoiseDevice,
) -> SAMPLER:
    """DPM-Solver++(2M) with noise."""
    return _on(noise_device, "dpmpp_2m_sde").with_options(eta=eta, s_noise=s_noise, solver_type=solver_type)


@sampler_node("SamplerDPMPP_SDE", title="SamplerDPMPP_SDE")
def dpmpp_sde(eta: Number = 1.0, s_noise: Number = 1.0, r: Number = 0.5, *, noise_device: NoiseDevice) -> SAMPLER:
    """DPM-Solver++ with noise; r: where in a step the second prediction is made."""
    return _on(noise_device, "dpmpp_sde").with_options(eta=eta, s_noise=s_noise, r=r)


@sampler_node("SamplerDPMPP_2S_Ancestral", title="SamplerDPMPP_2S_Ancestral")
def dpmpp_2s_ancestral(eta: Number = 1.0, s_noise: Number = 1.0) -> SAMPLER:
    """DPM-Solver++(2S) with noise renewed."""
    return chosen("dpmpp_2s_ancestral").with_options(eta=eta, s_noise=s_noise)


@sampler_node("SamplerDPMAdaptative", title="SamplerDPMAdaptative")
def dpm_adaptive(
    order: Annotated[int, Int(min=2, max=3)] = 3,
    rtol: Number = 0.05,
    atol: Number = 0.0078,
    h_init: Number = 0.05,
    pcoeff: Number = 0.0,
    icoeff: Number = 1.0,
    dcoeff: Number = 0.0,
    accept_safety: Number = 0.81,
    eta: Number = 0.0,
    s_noise: Number = 1.0,
) -> SAMPLER:
    """DPM-Solver whose steps are as long as its error allows; the three coefficients are its controller's."""
    return chosen("dpm_adaptive").with_options(
        order=order, rtol=rtol, atol=atol, h_init=h_init, pcoeff=pcoeff, icoeff=icoeff, dcoeff=dcoeff,
        accept_safety=accept_safety, eta=eta, s_noise=s_noise,
    )  # fmt: skip


@sampler_node("SamplerER_SDE", title="SamplerER_SDE")
def er_sde(
    solver_type: Annotated[str, Choice(SOLVERS, extra={"options": list(SOLVERS)})],
    max_stage: Annotated[int, Int(min=1, max=3)] = 3,
    eta: Number = 1.0,
    s_noise: Number = 1.0,
) -> SAMPLER:
    """Solvers of the reverse-time equation.

    eta: how stochastic the reverse-time SDE is.
    """
    options = {"s_noise": s_noise, "max_stage": max_stage, "noise_scaler": er_sde_scaler}
    if solver_type != "ER-SDE":
        eta = 0.0 if solver_type == "ODE" else eta
        options |= {"noise_scaler": reverse_time_scaler(eta), "s_noise": s_noise if eta else 0.0}
    return chosen("er_sde").with_options(**options)


@sampler_node("SamplerSASolver", title="SamplerSASolver")
def sa_solver(
    model: MODEL,
    eta: Annotated[float, Float(min=0.0, max=10.0, step=0.01, round=False)] = 1.0,
    sde_start_percent: Percent = 0.2,
    sde_end_percent: Percent = 0.8,
    s_noise: Number = 1.0,
    predictor_order: Annotated[int, Int(min=1, max=6)] = 3,
    corrector_order: Annotated[int, Int(min=0, max=6)] = 4,
    *,
    use_pece: bool,
    simple_order_2: bool,
) -> SAMPLER:
    """A stochastic Adams method.

    model: whose noise levels the percentages mean.
    use_pece: predict once more after correcting.
    simple_order_2: the simpler second-order formula.
    """
    start, end = map(model.sampling.percent_to_sigma, (sde_start_percent, sde_end_percent))
    return chosen("sa_solver").with_options(
        tau_func=interval_tau(start, end, eta),
        s_noise=s_noise,
        predictor_order=predictor_order,
        corrector_order=corrector_order,
        use_pece=use_pece,
        simple_order_2=simple_order_2,
    )


@node(
    "SamplerLCMUpscale",
    category="sampling/custom_sampling/samplers",
    title="",
    python_module="comfy_extras.nodes_advanced_samplers",
    style="v3",
)
def lcm_with_upscaling(
    scale_ratio: Annotated[float, Float(min=0.1, max=20.0, step=0.01)] = 1.0,
    scale_steps: Annotated[int, Int(min=-1, max=1000, step=1)] = -1,
    *,
    upscale_method: Annotated[str, Choice(("bislerp", "nearest-exact", "bilinear", "area", "bicubic"))],
) -> SAMPLER:
    """Consistency sampling that makes the latent larger on its way.

    scale_ratio: how much larger it is in the end.
    scale_steps: over how many steps it grows; -1 is half of them.
    upscale_method: how it is resized.
    """
    return lcm_upscale(scale_ratio, None if scale_steps < 0 else scale_steps, upscale_method)


def _on(device: str, name: str) -> SAMPLER:
    return chosen(f"{name}_gpu" if device == "gpu" else name)
