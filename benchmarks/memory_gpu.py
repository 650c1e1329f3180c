"""Does memory keep its promises on a GPU?   A Flux-shaped network in eight bits, random weights.

Pinned host memory against pageable: at least 1.5 times the bandwidth. A quarter of the weights resident, the others
streamed: at most 1.15 times the time of the resident run, from the resolution on where computing covers the copies
(every resolution is printed). Fifty streamed runs of a small picture equal the resident one bit for bit. Pinning twice
and unpinning what is not ours leave the device without an error. `--max-vram 6G` holds by the allocator's own peak.
Without a GPU nothing is measured; `--tiny` runs the same code on a CPU, to see that it works.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import report
from limner.memory import DefaultSettings, MemoryManager
from limner.memory.pinned import PinnedMemory
from limner.memory.sizes import Size
from limner.models.flux import Flux, FluxConfig
from limner.weights import LazyTensor, NetworkSource

GIB = 1024**3
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Scale:
    """How large everything is. sides: of pictures in latent cells; runs: repetitions that must be equal."""

    config: FluxConfig
    sides: tuple[int, ...]
    tokens: int
    pinned: int
    runs: int
    cap: str
    passes: int = 4


FULL = Scale(FluxConfig(), (32, 64, 96, 128, 192, 256), 512, GIB, 50, "6G")
TINY = Scale(
    FluxConfig(hidden_size=256, num_heads=2, depth=1, depth_single_blocks=2, context_in_dim=64, vec_in_dim=32),
    (8, 16), 8, 1 << 20, 3, "1G", 1,
)  # fmt: skip


def random_source(config: FluxConfig) -> NetworkSource:
    """A network whose weights wait in RAM. Weights of one shape are one tensor: only their bytes matter here."""
    generator = torch.Generator().manual_seed(0)
    by_shape: dict[tuple[int, ...], Tensor] = {}
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Flux(config).state_dict().items()}
    for shape in shapes.values():
        if shape not in by_shape:
            made = torch.randn(shape, generator=generator) * 0.02
            by_shape[shape] = made.to(FP8) if len(shape) > 1 else made.bfloat16()
    tensors = {name: LazyTensor.of(by_shape[shape]) for name, shape in shapes.items()}
    return NetworkSource("Flux", partial(Flux, config), tensors, "random")


def inputs(scale: Scale, side: int, device: torch.device) -> Callable[[nn.Module], Tensor]:
    """One pass of a network."""
    torch.manual_seed(1)
    config, kind = scale.config, torch.bfloat16
    x = torch.randn(1, config.in_channels, side, side).to(device, kind)
    text = torch.randn(1, scale.tokens, config.context_in_dim).to(device, kind)
    vector = torch.randn(1, config.vec_in_dim or 1).to(device, kind)
    time, guidance = torch.tensor([0.5], device=device), torch.tensor([3.5], device=device)
    return lambda network: network(x, time, context=text, y=vector, guidance=guidance)


def timed(device: torch.device, call: Callable[[], Any], times: int) -> float:
    """Seconds of one call, after one that warms up."""
    call()
    _wait(device)
    start = perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (perf_counter() - start) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(scale: Scale, manager: MemoryManager) -> None:
    """Copies of a weight from pinned and from pageable memory; and that pinning wrongly leaves no error behind."""
    device, runtime = manager.device, manager.backend().pinning()
    weight = nn.Parameter(torch.zeros(scale.pinned, dtype=torch.uint8), requires_grad=False)
    pageable = timed(device, lambda: weight.to(device, non_blocking=True), 5)
    memory = PinnedMemory(runtime, 4 * scale.pinned)
    locked = memory.pin(weight)
    pinned = timed(device, lambda: weight.to(device, non_blocking=True), 5)
    report(
        "pinned memory", pageable_gb_s=round(scale.pinned / pageable / 1e9, 1), locked=locked,
        pinned_gb_s=round(scale.pinned / pinned / 1e9, 1), ratio=round(pageable / pinned, 2), least=1.5,
    )  # fmt: skip
    foreign = torch.zeros(16).pin_memory() if device.type == "cuda" else torch.zeros(16)
    refused = [memory.pin(weight), memory.unpin(foreign)]
    product = (torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)).sum().item()
    _wait(device)
    memory.close()
    report("double pin and foreign unpin", refused=refused == [False, False], value=abs(product - 64**3), budget=0)


def run(scale: Scale, source: NetworkSource, settings: DefaultSettings, side: int, working: int) -> tuple[float, Any]:
    """Seconds of a pass under some settings, and the last result."""
    manager = MemoryManager(settings)
    call, found = inputs(scale, side, manager.device), []
    with torch.inference_mode(), manager.loaded(
        source, FP8, working=working, passes=scale.passes, compute=torch.bfloat16
    ) as network:  # fmt: skip
        seconds = timed(manager.device, lambda: found.append(call(network)) or found[:-1].clear(), scale.passes)
        share = 1 - manager.held()[0].streamed / max(1, source.nbytes(FP8))
    manager.unload_all()
    gc.collect()
    return seconds, (found[-1].cpu(), round(share, 2))


def main(arguments: list[str]) -> None:
    """Measure and report."""
    tiny = "--tiny" in arguments
    manager = MemoryManager(DefaultSettings())
    if not tiny and manager.device.type == "cpu":
        report("memory on a GPU", note="no accelerator here; nothing measured")
        return
    scale = TINY if tiny else FULL
    bandwidth(scale, manager)
    source = random_source(scale.config)
    whole = source.nbytes(FP8)
    for side in scale.sides:
        working = int(side * side * 0.6e6) if not tiny else 1 << 20
        quarter = DefaultSettings(max_vram=Size(whole // 4 + working + (1 << 30)), reserve_vram=0)
        resident, (expected, _) = run(scale, source, DefaultSettings(), side, working)
        streamed, (found, share) = run(scale, source, quarter, side, working)
        report(
            "a quarter resident", pixels=side * 8, resident_s=round(resident, 4), streamed_s=round(streamed, 4),
            share=share, equal=torch.equal(found, expected), value=round(streamed / resident, 3), budget=1.15,
        )  # fmt: skip
    side, same = scale.sides[0], 0
    _, (expected, _) = run(scale, source, DefaultSettings(), side, 0)
    for _ in range(scale.runs):
        same += torch.equal(run(scale, source, DefaultSettings(novram=True), side, 0)[1][0], expected)
    report("streamed runs equal to the resident one", runs=scale.runs, value=scale.runs - same, budget=0)
    cap = Size.parse(scale.cap)
    if manager.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run(
        scale, source, DefaultSettings(max_vram=cap, reserve_vram=0), scale.sides[-1] // 2, GIB if not tiny else 1 << 20
    )
    peak = torch.cuda.max_memory_allocated() if manager.device.type == "cuda" else 0
    report("peak under --max-vram", cap=scale.cap, value=peak, budget=cap.of(manager.backend().total(manager.device)))


if __name__ == "__main__":
    main(sys.argv[1:])
