"""Makers: the toy model of the golden cases, whose denoiser is a formula."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from limner.sampling import LatentFormat, ModelSampling, make_sampling


class ToyModel:
    """A diffusion model whose prediction is written down: `P_c` for context 1, `P_u` for context 0, mixed between.

    calls: (shape, sigmas, contexts by row) of every call.
    """

    def __init__(self, sampling: ModelSampling, p_c: Tensor, p_u: Tensor, memory: float = 1e12) -> None:
        self.sampling = sampling
        self.options: dict[str, Any] = {}
        self.latent_format = LatentFormat()
        self.p_c, self.p_u, self.memory = p_c, p_u, memory
        self.calls: list[tuple[tuple[int, ...], list[float], list[float]]] = []

    def extra_conds(self, **values: Any) -> Mapping[str, Any]:
        return {"c_crossattn": values["cross_attn"]}

    def apply_model(self, x: Tensor, sigma: Tensor, c_crossattn: Tensor, **_: Any) -> Tensor:
        context = c_crossattn[:, 0, 0].view(-1, 1, 1, 1)
        self.calls.append((tuple(x.shape), sigma.tolist(), [round(v, 6) for v in context.flatten().tolist()]))
        h, w = x.shape[-2:]
        p = context * self.p_c[..., :h, :w] + (1 - context) * self.p_u[..., :h, :w]
        s = sigma.view(-1, 1, 1, 1)
        if self.sampling.is_flow:
            return p + (1 - s) / ((1 - s) ** 2 + s**2) * (x - (1 - s) * p) + 0.1 * torch.tanh(x) * s
        return (x + s**2 * p) / (1 + s**2) + 0.1 * torch.tanh(x / torch.sqrt(1 + s**2)) * s / (1 + s)

    def memory_required(self, shape: tuple[int, ...]) -> float:
        return float(torch.Size(shape).numel())

    def free_memory(self) -> float:
        return self.memory

    @contextmanager
    def loaded(self, working: int = 0, least: int | None = None, passes: int | None = None) -> Iterator[None]:
        yield

    def place(self, tensor: Tensor) -> Tensor:
        return tensor


def toy(kind: str = "eps", size: int = 8, memory: float = 1e12, **settings: float) -> ToyModel:
    generator = torch.Generator().manual_seed(7)
    p_c, p_u = torch.randn(2, 1, 4, size, size, generator=generator)
    return ToyModel(make_sampling(kind, **settings), p_c, p_u, memory)


def conditioning(value: float, length: int = 1, **values: Any) -> list[list[Any]]:
    return [[torch.full((1, length, 1), value), values]]
