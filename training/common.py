"""What both trainings share: optimizers, a schedule by the clock, checkpoints that can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

HERE = Path(__file__).parent
DATA, RUNS = HERE / "data", HERE / "runs"


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end between 0.7 and 1.2.

    Quintic Newton–Schulz iteration with the coefficients of Jordan et al. 2024, "Muon". All its steps are polynomials
    in x·xᵀ, so only that small matrix is iterated (in float32) and the large one is multiplied once, at the end.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    x = (product.bfloat16() @ x.bfloat16()).to(matrix.dtype)
    return x.T if tall else x


class Team:
    """Processes that train the same parameters, one thread each, and add up what they find once a step.

    On a machine that others use too this loses less than threads do, which wait for each other in every operation.
    """

    def __init__(self, rank: int = 0, size: int = 1, meeting: Path | None = None) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)

    def sum(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sum over the team of each tensor; all members must call it with the same shapes."""
        if self.size == 1:
            return tensors
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, for weights of two or more dimensions; its steps are as large as AdamW's.

    Each member of a team orthogonalises its share. Jordan et al. 2024; the step size 0.2·√max(rows, columns) of
    Liu et al. 2025, "Muon is scalable for LLM training".
    """

    def __init__(self, params: Iterable[Tensor], lr: float, team: Team, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.01})
        self.team = team

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class has it
        """One update of every parameter; all must have gradients."""
        for group in self.param_groups:
            updates = []
            for number, p in enumerate(group["params"]):
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                if number % self.team.size == self.team.rank:
                    update = p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                    updates.append((orthogonal(update) * 0.2 * math.sqrt(max(update.shape))).view_as(p))
                else:
                    updates.append(torch.zeros_like(p))
            for p, update in zip(group["params"], self.team.sum(updates), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(update, alpha=group["lr"])


def optimizers(
    modules: Iterable[nn.Module], lr: float, muon: bool, plain: Iterable[str], team: Team | None = None
) -> list[Any]:
    """AdamW for everything, or Muon for the inner matrices and AdamW for the rest.

    plain: names of parameters (their beginnings) that stay with AdamW: inputs, outputs, tables.
    """
    inner, rest = [], []
    for module in modules:
        for name, p in module.named_parameters():
            matrix = p.dim() >= 2 and not name.startswith(tuple(plain))
            (inner if muon and matrix else rest).append(p)
    found: list[Any] = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)]
    return found + ([Muon(inner, lr, team or Team())] if inner else [])


class Clock:
    """Training time used so far, over all runs, as a fraction of a budget; sets learning rates by it."""

    def __init__(self, minutes: float, used: float = 0.0) -> None:
        self.budget, self.before, self.start = minutes * 60, used, time.monotonic()

    @property
    def used(self) -> float:
        """Seconds."""
        return self.before + time.monotonic() - self.start

    @property
    def fraction(self) -> float:
        """0 at the beginning, 1 when the budget is spent."""
        return min(self.used / self.budget, 1.0)


def learning_rate(peak: float, step: int, fraction: float, warm_up: int = 60) -> float:
    """Linear warm-up over steps, then a cosine to nearly zero over the time."""
    return peak * min(1.0, (step + 1) / warm_up) * max(0.5 * (1 + math.cos(math.pi * fraction)), 0.005)


def set_rate(found: Iterable[Any], rate: float) -> None:
    """The learning rate of all groups."""
    for optimizer in found:
        for group in optimizer.param_groups:
            group["lr"] = rate


def save(path: Path, **parts: Any) -> None:
    """Write a checkpoint so that an interrupted write leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(parts, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
