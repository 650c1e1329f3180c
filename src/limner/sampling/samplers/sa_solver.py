"""SA-Solver: stochastic Adams predictor and corrector in λ = ln(α/σ).  Xue et al. 2023, Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from limner.sampling.model_sampling import ModelSampling
from limner.sampling.sampler import Sampler
from limner.sampling.step import Denoise, Noise, Step, Steps

Tau = Callable[[float], float]


def interval_tau(start: float, end: float, eta: float = 1.0) -> Tau:
    """tau(sigma): eta for start >= sigma >= end, else 0 (no noise)."""
    return lambda sigma: eta if start >= sigma >= end else 0.0


def sa_solver(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    noise: Noise,
    *,
    tau_func: Tau | None = None,
    s_noise: float = 1.0,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> Steps:
    """One prediction a step, two with use_pece (predict again after correcting).

    tau_func: how stochastic it is at a level; None is 1 between 20 % and 80 % of the way, else 0.
    """
    if len(sigmas) <= 1:
        return x
    sampling = denoise.sampling
    tau_of = tau_func or interval_tau(sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.8))
    sigmas = sampling.finite_snr(sigmas)
    lambdas = [sampling.half_log_snr(sigma) if sigma > 0 else math.inf for sigma in sigmas]
    to_zero = sigmas[-1] == 0
    last = len(sigmas) - 2
    past: list[Tensor] = []  # predictions, newest last
    predicted, tau, drawn = x, 0.0, None
    for i in range(last + 1):
        sigma, after = sigmas[i], sigmas[i + 1]
        denoised = denoise(predicted, sigma)
        yield Step(predicted, sigma, denoised)
        past = [*past, denoised][-max(predictor_order, corrector_order) :]
        ahead, behind = min(predictor_order, len(past)), min(corrector_order, len(past))
        if to_zero:
            ahead, behind = min(ahead, last - i), min(behind, last + 1 - i)
        if i == 0 or (after == 0 and not use_pece):
            x = predicted
        else:
            nodes = lambdas[i - behind + 1 : i + 1]
            weights = adams_weights(nodes, lambdas[i - 1], lambdas[i], tau, simple_order_2, corrector=True)
            x = _advance(sampling, x, past[-behind:], weights, sigmas[i - 1], sigma, tau)
            x = x if drawn is None else x + drawn
            if use_pece:
                past[-1] = denoised = denoise(x, sigma)
        if after == 0:
            return denoised
        tau = tau_of(after)
        nodes = lambdas[i - ahead + 1 : i + 1]
        weights = adams_weights(nodes, lambdas[i], lambdas[i + 1], tau, simple_order_2, corrector=False)
        predicted = _advance(sampling, x, past[-ahead:], weights, sigma, after, tau)
        drawn = None
        if tau > 0 and s_noise > 0:
            spread = math.sqrt(-math.expm1(-2 * tau**2 * (lambdas[i + 1] - lambdas[i])))
            drawn = noise(sigma, after) * (after * s_noise * spread)
            predicted = predicted + drawn
    return predicted


def _advance(
    sampling: ModelSampling,
    x: Tensor,
    predictions: Sequence[Tensor],
    weights: Sequence[float],
    sigma: float,
    after: float,
    tau: float,
) -> Tensor:
    """x carried from sigma to after, drawn towards the predictions."""
    step = sampling.half_log_snr(after) - sampling.half_log_snr(sigma)
    x = x * (after / sigma * math.exp(-(tau**2) * step))
    for weight, prediction in zip(weights, predictions, strict=True):
        x = x + prediction * (sampling.alpha(after) * weight)
    return x


def adams_weights(
    nodes: Sequence[float], start: float, end: float, tau: float, simple_order_2: bool, corrector: bool
) -> list[float]:
    """∫ of (1+τ²) e^((1+τ²)(λ-end)) times each Lagrange polynomial over `nodes`, from start to end.  Eqs. 14 and 17."""
    rate = 1 + tau**2
    if simple_order_2 and len(nodes) == 2:
        step = end - start
        whole = -math.expm1(-rate * step)
        second = step / 2 if corrector else step**2 / (2 * (nodes[1] - nodes[0]))
        bend = rate * second
        return [bend, whole - bend] if corrector else [-bend, whole + bend]
    points, gauss = np.polynomial.legendre.leggauss(48)
    grid = start + (end - start) * (points + 1) / 2
    density = rate * np.exp(rate * (grid - end)) * gauss * (end - start) / 2
    weights = []
    for j, node in enumerate(nodes):
        basis = np.ones_like(grid)
        for k, other in enumerate(nodes):
            if k != j:
                basis *= (grid - other) / (node - other)
        weights.append(float((density * basis).sum()))
    return weights


VARIANTS = (
    Sampler("sa_solver", sa_solver, noise="gaussian"),
    Sampler("sa_solver_pece", sa_solver, noise="gaussian", options={"use_pece": True}),
)
