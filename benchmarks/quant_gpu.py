"""How fast is float8 on a GPU?   `python -m benchmarks.quant_gpu [--tiny]`

A linear layer of 4096×4096×4096, and a Flux-shaped transformer (19 and 38 blocks) at 1024×1024 pixels, bfloat16 against
float8 weights with inputs rounded as they come; torchao's float8 on the same weights in the same run where it is
installed. budget: the layer at least 1.5 times bfloat16's rate with inputs that are float8 already, cosine similarity
at least 0.999; the transformer at least 1.3 times, eager against eager and compiled against compiled.
Without a GPU nothing is measured; `--tiny` runs the same code on a CPU, which is made to believe that it has float8.
"""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import report
from limner.models.flux import Flux, FluxConfig
from limner.weights.quant import computing, quantize
from limner.weights.quant.matmul import multiplies_fp8

LAYOUTS = ("float8_e4m3fn", "float8_e4m3fn_rowwise")
KEPT = ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer", "mod")
"""Layers that stay in bfloat16: what goes in and out, and what every block is steered by."""
BF16 = torch.bfloat16


@dataclass(frozen=True)
class Size:
    """side: of the layer. config: of the transformer; latent: its picture's side; tokens: of its text.
    backend: what compiles it."""

    side: int = 4096
    config: FluxConfig = field(default_factory=FluxConfig)
    latent: int = 128
    tokens: int = 512
    rounds: int = 10
    backend: str = "inductor"


TINY = Size(
    64,
    FluxConfig(
        in_channels=4, vec_in_dim=16, context_in_dim=32, hidden_size=64, num_heads=2, depth=1, depth_single_blocks=1,
        axes_dim=(8, 12, 12),
    ),
    8, 4, 1, "eager",
)  # fmt: skip


def seconds(step: Callable[[], Any], rounds: int) -> float:
    """The median of some calls, after two that warm up."""
    times = []
    with torch.no_grad():
        for count in range(rounds + 2):
            start = perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if count > 1:
                times.append(perf_counter() - start)
    return median(times)


def similarity(one: Tensor, other: Tensor) -> float:
    """Cosine."""
    return round(float(F.cosine_similarity(one.float().flatten(), other.float().flatten(), 0)), 5)


def linear(size: Size, device: torch.device, name: str) -> None:
    """A layer alone: inputs rounded as they come, and inputs that are float8 already."""
    generator = torch.Generator(device).manual_seed(0)
    x, weight = (torch.randn(size.side, size.side, generator=generator, device=device).to(BF16) for _ in range(2))
    exact = F.linear(x, weight)
    plain = seconds(lambda: F.linear(x, weight), size.rounds)
    for layout in LAYOUTS:
        packed, rounded = quantize(weight, layout, activations="dynamic"), quantize(x, layout)
        report(
            "float8 layer, inputs in float8", layout=layout, device=name, side=size.side, least=1.5,
            ratio=round(plain / seconds(lambda p=packed, r=rounded: F.linear(r, p), size.rounds), 2),  # type: ignore[misc]
            cosine=similarity(exact, F.linear(rounded, packed)),
        )  # fmt: skip
        report(
            "float8 layer, inputs rounded as they come", layout=layout, device=name, side=size.side,
            times_bf16=round(plain / seconds(lambda p=packed: F.linear(x, p), size.rounds), 2),  # type: ignore[misc]
            cosine=similarity(exact, F.linear(x, packed)),
        )  # fmt: skip


def chosen(network: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The layers that become float8."""
    return [
        (name, one)
        for name, one in network.named_modules()
        if isinstance(one, nn.Linear) and not any(part in name for part in KEPT)
    ]


def packed(network: nn.Module, layout: str) -> nn.Module:
    """The network with its layers in a layout."""
    made = copy.deepcopy(network)
    for _, layer in chosen(made):
        layer.weight = nn.Parameter(quantize(layer.weight, layout, activations="dynamic"), requires_grad=False)
    return made


def of_torchao(network: nn.Module) -> nn.Module | None:
    """The same layers in torchao's float8 with dynamic inputs, scales by row; None where it is not installed."""
    if find_spec("torchao") is None:
        return None
    quantization = import_module("torchao.quantization")
    made, names = copy.deepcopy(network), {name for name, _ in chosen(network)}
    config = quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    quantization.quantize_(made, config, filter_fn=lambda _, name: name in names)
    return made


def random_flux(config: FluxConfig, device: torch.device) -> Flux:
    """bfloat16, matrices by their inputs, so that what flows through keeps its size."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(BF16)
    try:
        with device:
            network = Flux(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    for name, one in network.named_parameters():
        if one.ndim > 1:
            one.normal_(std=one.shape[1] ** -0.5)
        else:
            one.fill_(0.0 if name.endswith("bias") else 1.0)
    return network


def transformer(size: Size, device: torch.device, name: str) -> None:
    """Flux's shape: bfloat16, ours in each layout, torchao's; eager, then compiled."""
    network = random_flux(size.config, device)
    config = size.config
    x = torch.randn(1, config.in_channels, size.latent, size.latent, device=device, dtype=BF16)
    context = torch.randn(1, size.tokens, config.context_in_dim, device=device, dtype=BF16)
    told = torch.randn(1, config.vec_in_dim or 1, device=device, dtype=BF16)
    time, guidance = torch.full((1,), 0.5, device=device), torch.full((1,), 3.5, device=device)

    def call(one: nn.Module) -> Any:
        return one(x, time, context=context, y=told, guidance=guidance)

    with torch.no_grad():
        exact = call(network)

    def both(one: nn.Module) -> dict[str, float]:
        quick = torch.compile(one, backend=size.backend)
        return {
            "eager": seconds(lambda: call(one), size.rounds),
            "compiled": seconds(lambda: call(quick), size.rounds),
        }

    plain = both(network)
    makers: dict[str, Callable[[], nn.Module | None]] = {
        layout: lambda layout=layout: packed(network, layout)  # type: ignore[misc]
        for layout in LAYOUTS
    }
    for kind, make in {**makers, "torchao": lambda: of_torchao(network)}.items():
        made = make()
        if made is None:
            report("float8 transformer", layout=kind, note="torchao is not installed")
            continue
        with torch.no_grad():
            near = similarity(exact, call(made))
        for mode, taken in both(made).items():
            report(
                "float8 transformer", layout=kind, mode=mode, device=name, bfloat16=round(plain[mode], 4),
                seconds=round(taken, 4), ratio=round(plain[mode] / taken, 2), least=1.3, cosine=near,
            )  # fmt: skip
        del made
        gc.collect()


def main(arguments: list[str]) -> None:
    """Measure and report."""
    tiny = "--tiny" in arguments
    if not tiny and not torch.cuda.is_available():
        report("float8 on a GPU", note="no CUDA device here; nothing measured")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not tiny and not multiplies_fp8(device):
        report("float8 on a GPU", note="the device has no float8; nothing measured")
        return
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    size = TINY if tiny else Size()
    believing: AbstractContextManager[Any] = nullcontext() if torch.cuda.is_available() else computing(fp8=True)
    with believing:
        linear(size, device, name)
        transformer(size, device, name)


if __name__ == "__main__":
    main(sys.argv[1:])
