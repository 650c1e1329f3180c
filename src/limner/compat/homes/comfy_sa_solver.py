"""comfy.k_diffusion.sa_solver and deis: coefficients of two samplers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limner.sampling.functions import get_tau_interval_func
from limner.sampling.solver import lagrange_integrals

__all__ = ["get_tau_interval_func"]


def compute_exponential_coeffs(s: Tensor, t: Tensor, solver_order: int, tau_t: float) -> Tensor:
    """∫ from s to t of x^k e^{(1+τ²)(x-t)} (1+τ²) for k = 0 … order - 1."""
    rate = 1 + tau_t**2
    h = t - s
    decayed = torch.exp(-rate * h)
    found = [1 - decayed]
    for power in range(1, solver_order):
        found.append(t**power - s**power * decayed - power / rate * found[-1])
    return torch.stack(found)


def compute_stochastic_adams_b_coeffs(
    sigma_next: Tensor,
    curr_lambdas: Tensor,
    lambda_s: Tensor,
    lambda_t: Tensor,
    tau_t: float,
    simple_order_2: bool = False,
    is_corrector_step: bool = False,
) -> Tensor:
    """The weights of the past predictions in a step of a stochastic Adams method."""
    order = curr_lambdas.shape[0]
    if simple_order_2 and order == 2:
        return compute_simple_stochastic_adams_b_coeffs(
            sigma_next, curr_lambdas, lambda_s, lambda_t, tau_t, is_corrector_step
        )
    powers = compute_exponential_coeffs(lambda_s, lambda_t, order, tau_t)
    vandermonde = torch.vander(curr_lambdas, order, increasing=True).T
    weights: Tensor = torch.linalg.solve(vandermonde, powers) * sigma_next * lambda_t.exp()
    return weights


def compute_simple_stochastic_adams_b_coeffs(
    sigma_next: Tensor,
    curr_lambdas: Tensor,
    lambda_s: Tensor,
    lambda_t: Tensor,
    tau_t: float,
    is_corrector_step: bool = False,
) -> Tensor:
    """The same of order two with a simpler second weight."""
    rate = 1 + tau_t**2
    h = lambda_t - lambda_s
    alpha = sigma_next * lambda_t.exp()
    if is_corrector_step:
        second = alpha * (0.5 * rate * h)
    else:
        second = alpha * (0.5 * rate * h**2) / (curr_lambdas[0] - lambda_s)
    return torch.stack([second, alpha * (-torch.expm1(-rate * h)) - second])


def edm2t(edm_steps: Tensor, epsilon_s: float = 1e-3, sigma_min: float = 0.002, sigma_max: float = 80) -> Any:
    """(times, beta_0, beta_1) of a variance-preserving process with these levels."""
    low, high = (torch.log(1 + torch.tensor(end) ** 2) for end in (sigma_min, sigma_max))
    beta_d = 2 * (low / epsilon_s - high) / (epsilon_s - 1)
    beta_min = high - 0.5 * beta_d
    levels = torch.as_tensor(edm_steps, dtype=torch.float32)
    times = (torch.sqrt(beta_min**2 + 2 * beta_d * torch.log(levels**2 + 1)) - beta_min) / beta_d
    return times, beta_min, beta_d + beta_min


def cal_poly(prev_t: Any, j: int, taus: Any) -> Any:
    """The j-th Lagrange basis polynomial over past times."""
    found = 1
    for k in range(prev_t.shape[0]):
        if k != j:
            found = found * (taus - prev_t[k]) / (prev_t[j] - prev_t[k])
    return found


LAGRANGE = lagrange_integrals
