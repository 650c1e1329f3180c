"""How fast are quantized networks on a processor, how large, how near?   Random weights, 256×256 pixels, batch 2.

`python -m benchmarks.quant_speed [--quick] [layers] [sd15] [sdxl] [layouts | NAME …]`: all parts where none is
named; NAME is of a layout.
budget: int8 with dynamic activations at least 3.5 times float32's rate in a linear layer of 1024×1280×1280, and in a
whole step 2.8 times float32's and 1.3 times bfloat16's; bytes of quantized layers at most 0.55 of float16's in eight
bits, 0.32 in four; a step with weights alone in few bits at most 1.5 times float32's time.
Rivals take turns and a ratio is the median of the rounds' ratios, for these machines are busy; only SDXL is measured a
dtype after the other, each at its best, so that less than 12 GB is held. `--quick` does it all at reduced width.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter, process_time

import psutil
import torch
from torch import Tensor, nn

from benchmarks import report
from limner.memory.devices import has_native_bf16
from limner.models.unet import UNet, UNetConfig
from limner.weights.quant import REGISTRY, QuantizedTensor, quantize
from tests.models.checkpoints import real_header

Step = Callable[[], Tensor]
LEAST_WEIGHTS = 1 << 16
"""Smaller layers stay in floats: what goes in and out of the network."""
INT8 = "int8_dynamic"
LAYOUTS = ("float8_e4m3fn", "int8_rowwise", "mxfp8", "gguf_q8_0", "int4_groups", "nf4", "nvfp4", "gguf_q4_0")
EIGHT_BITS = (INT8, "float8_e4m3fn", "int8_rowwise", "mxfp8", "gguf_q8_0")


@dataclass(frozen=True)
class Network:
    """What is measured. side: of the latent; text: width of the context."""

    config: UNetConfig
    side: int = 32
    text: int = 768

    def build(self, dtype: torch.dtype, layout: str | None = None) -> UNet:
        """Random weights, the same in every dtype and layout, made layer by layer."""
        with torch.device("meta"):
            network = UNet(self.config).eval().requires_grad_(False)
        wide = torch.channels_last if dtype == torch.bfloat16 and has_native_bf16() else torch.contiguous_format
        for seed, (name, empty) in enumerate(list(network.named_parameters())):
            owner = network.get_submodule(name.rpartition(".")[0])
            value = made(tuple(empty.shape), seed, norm=name.endswith("weight")).to(dtype)
            if layout is not None and packs(layout, value):
                value = quantize(value, layout)
            elif value.ndim == 4:
                value = value.contiguous(memory_format=wide)
            setattr(owner, name.rpartition(".")[2], nn.Parameter(value, requires_grad=False))
        return network

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """x, time, context, and y where the network takes it; batch 2."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, 4, self.side, self.side, generator=generator).to(dtype)
        context = torch.randn(2, 77, self.text, generator=generator).to(dtype)
        first = (x, torch.tensor([500.0, 500.0]), context)
        width = self.config.adm_in_channels
        return first if width is None else (*first, torch.randn(2, width, generator=generator).to(dtype))

    def step(self, dtype: torch.dtype, layout: str | None = None) -> tuple[UNet, Step]:
        """A network, and one pass of it."""
        network, inputs = self.build(dtype, layout), self.inputs(dtype)
        return network, lambda: network(*inputs)


def published(header: str) -> UNetConfig:
    """The dimensions of a published file's diffusion model."""
    found, prefix = real_header(header), "model.diffusion_model."
    shapes = {name.removeprefix(prefix): found.shape(name) for name in found if name.startswith(prefix)}
    return UNetConfig.from_state(shapes, {})


SD15, SDXL = published("sd15"), published("sdxl-base")
NETWORKS = {"sd15": Network(SD15), "sdxl": Network(SDXL, text=2048)}
QUICK = {
    "sd15": Network(replace(SD15, model_channels=128), side=16),
    "sdxl": Network(replace(SDXL, model_channels=128), side=16, text=2048),
}


def made(shape: tuple[int, ...], seed: int, norm: bool) -> Tensor:
    """A parameter as torch would begin it: by its inputs, float32; norms are ones, biases zeros."""
    if len(shape) < 2:
        return torch.ones(shape) if norm else torch.zeros(shape)
    bound = torch.Size(shape[1:]).numel() ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))


def packs(layout: str, value: Tensor) -> bool:
    """Whether a weight is large enough, and of a shape that the layout holds."""
    found = REGISTRY.find(layout)
    columns = value.numel() // len(value)
    fits = not layout.startswith("gguf") or columns % found.block == 0
    return value.ndim > 1 and value.numel() >= LEAST_WEIGHTS and fits and (value.ndim == 2 or not found.matrices_only)


def seconds(step: Step) -> float:
    """Of one call; on one thread those that the processor gave to it, so that other work beside does not count."""
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    start = clock()
    step()
    return clock() - start


def in_turn(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in each round, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    with torch.inference_mode():
        for count in range(rounds + 1):
            for name, step in steps.items():
                taken = seconds(step)
                if count:
                    times[name].append(taken)
    return times


def faster(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times: the median of the rounds' ratios."""
    return round(median(one / other for one, other in zip(times[slow], times[fast], strict=True)), 2)


def snr(exact: Tensor, near: Tensor) -> float:
    """dB of the signal over what differs."""
    return round(float(10 * torch.log10(exact.square().sum() / (exact - near.float()).square().sum())), 1)


def size(network: nn.Module) -> float:
    """Bytes of quantized layers as a part of what they are in float16."""
    packed = [one for one in network.parameters() if isinstance(one.data, QuantizedTensor)]
    return round(sum(one.data.nbytes for one in packed) / sum(2 * one.numel() for one in packed), 3)


def layers(quick: bool) -> None:
    """A linear layer and convolutions alone."""
    cases: list[tuple[str, nn.Module, Tensor]] = []
    for tokens, columns, rows in ((1024, 1280, 1280), (2048, 320, 320), (128, 1280, 1280), (2048, 320, 2560)):
        cases.append((f"linear {tokens}×{columns}×{rows}", nn.Linear(columns, rows), torch.randn(tokens, columns)))
    for channels, side in ((320, 32), (640, 16), (1280, 8)):
        kernel = nn.Conv2d(channels, channels, 3, padding=1)
        cases.append((f"convolution {channels}×{side}×{side}", kernel, torch.randn(2, channels, side, side)))
    for name, exact, x in cases[:1] if quick else cases:
        exact.requires_grad_(False)
        packed = type(exact)(*_arguments(exact)).requires_grad_(False)
        packed.weight = nn.Parameter(quantize(exact.weight, INT8), requires_grad=False)  # type: ignore[arg-type]
        packed.bias = exact.bias
        times = in_turn({"float32": lambda e=exact, x=x: e(x), INT8: lambda p=packed, x=x: p(x)}, 30)  # type: ignore[misc]
        least = {"least": 3.5} if name == "linear 1024×1280×1280" else {}
        figures = {key: round(median(one) * 1e3, 2) for key, one in times.items()}
        report(f"int8 {name}", ratio=faster(times, "float32", INT8), ms=figures, snr=snr(exact(x), packed(x)), **least)


def _arguments(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (layer.in_features, layer.out_features)
    assert isinstance(layer, nn.Conv2d)
    return (layer.in_channels, layer.out_channels, 3, 1, 1)


def together(name: str, network: Network, rounds: int) -> None:
    """float32, bfloat16 and int8 in turn."""
    kinds = {"float32": (torch.float32, None), "bfloat16": (torch.bfloat16, None), INT8: (torch.float32, INT8)}
    built = {kind: network.step(dtype, layout) for kind, (dtype, layout) in kinds.items()}
    times = in_turn({kind: step for kind, (_, step) in built.items()}, rounds)
    with torch.inference_mode():
        near = snr(built["float32"][1](), built[INT8][1]())
    _told(name, times, near, size(built[INT8][0]), faster(times, "float32", INT8), faster(times, "bfloat16", INT8))


def apart(name: str, network: Network, rounds: int) -> None:
    """One after the other, so that only one is held."""
    best: dict[str, list[float]] = {}
    exact, near, bytes_ = torch.empty(0), 0.0, 0.0
    for kind, dtype, layout in (
        ("float32", torch.float32, None), (INT8, torch.float32, INT8), ("bfloat16", torch.bfloat16, None),
    ):  # fmt: skip
        built, step = network.step(dtype, layout)
        best[kind] = [min(in_turn({kind: step}, rounds)[kind])]
        with torch.inference_mode():
            if kind == "float32":
                exact = step()
            elif kind == INT8:
                near, bytes_ = snr(exact, step()), size(built)
        del built, step
        gc.collect()
    _told(name, best, near, bytes_, faster(best, "float32", INT8), faster(best, "bfloat16", INT8))


def _told(name: str, times: Mapping[str, list[float]], near: float, part: float, ratio: float, bf16: float) -> None:
    figures = {kind: round(median(one), 2) for kind, one in times.items()}
    peak = round(psutil.Process().memory_info().rss / 1e9, 2)
    report(f"int8 step of {name}", ratio=ratio, least=2.8, seconds=figures, snr=near, resident_gb=peak)
    report(f"int8 step of {name} against bfloat16", ratio=bf16, least=1.3, native_bf16=has_native_bf16())
    report(f"int8 bytes of {name}", value=part, budget=0.55)


def layouts(network: Network, rounds: int, names: Sequence[str]) -> None:
    """Weights alone in few bits, each in turn with float32."""
    _, plain = network.step(torch.float32)
    with torch.inference_mode():
        exact = plain()
    for layout in names:
        built, step = network.step(torch.float32, layout)
        times = in_turn({"float32": plain, layout: step}, rounds)
        with torch.inference_mode():
            near = snr(exact, step())
        figures = {kind: round(median(one), 2) for kind, one in times.items()}
        slower = round(1 / faster(times, "float32", layout), 2)
        report("weights alone in few bits", layout=layout, value=slower, budget=1.5, seconds=figures, snr=near)
        most = 0.55 if layout in EIGHT_BITS else 0.32
        report("bytes of few bits", layout=layout, value=size(built), budget=most)
        del built, step
        gc.collect()


def main(arguments: list[str]) -> None:
    """Measure and report."""
    quick = "--quick" in arguments
    parts = [one for one in arguments if not one.startswith("-")] or ["layers", "sd15", "sdxl", "layouts"]
    networks, rounds = (QUICK, 1) if quick else (NETWORKS, 3)
    report("threads", threads=torch.get_num_threads())
    if "layers" in parts:
        layers(quick)
    if "sd15" in parts:
        together("SD1.5", networks["sd15"], rounds)
    if "sdxl" in parts:
        apart("SDXL", networks["sdxl"], min(rounds, 2))
    named = LAYOUTS if "layouts" in parts else [one for one in parts if one in LAYOUTS]
    if named:
        layouts(networks["sd15"], min(rounds, 2), named)


if __name__ == "__main__":
    main(sys.argv[1:])
