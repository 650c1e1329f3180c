"""How long is one UNet step at full Stable Diffusion 1.5 size?   256×256 pixels, batch 2, random weights.

budget: bfloat16 at least 2.0 times as fast as float32 where the CPU is fast in bfloat16; no slower than diffusers'
UNet2DConditionModel on the same weights in each dtype, where diffusers is installed (`make setup`).
Runs alternate between the rivals and each is given its best time, because these figures are taken on busy machines.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from benchmarks import report
from limner.memory.devices import has_native_bf16
from limner.models.unet import UNet, UNetConfig

ROUNDS = 5
LAYOUT = torch.channels_last if has_native_bf16() else torch.contiguous_format  # as the memory manager chooses
Step = Callable[[], Tensor]


def ours(dtype: torch.dtype) -> UNet:
    """Our network as the memory manager lays it out: random weights, its layout."""
    torch.manual_seed(0)
    return UNet(UNetConfig()).eval().requires_grad_(False).to(dtype).to(memory_format=LAYOUT)


def theirs(network: UNet, dtype: torch.dtype) -> torch.nn.Module | None:
    """diffusers' network with the same weights, or None where it is not installed."""
    try:
        from diffusers import UNet2DConditionModel
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
    except ImportError:
        return None
    config = {
        "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64, "layers_per_block": 2,
    }  # fmt: skip
    model = UNet2DConditionModel(**config)
    prefixed = {f"model.diffusion_model.{key}": value for key, value in network.state_dict().items()}
    model.load_state_dict(convert_ldm_unet_checkpoint(prefixed, dict(model.config)))
    return model.eval().requires_grad_(False).to(dtype)


def best(steps: dict[str, Step]) -> dict[str, float]:
    """The best time of each in seconds, measured in turn."""
    times = dict.fromkeys(steps, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, step in steps.items():
                start = perf_counter()
                step()
                times[name] = min(times[name], perf_counter() - start)
    return times


def main() -> None:
    """Measure and report."""
    x, time, context = torch.randn(2, 4, 32, 32), torch.tensor([500.0, 500.0]), torch.randn(2, 77, 768)
    steps: dict[str, Step] = {}
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        network = ours(dtype)
        inputs = (x.to(dtype).to(memory_format=LAYOUT), time, context.to(dtype))
        steps[name] = lambda network=network, inputs=inputs: network(*inputs)  # type: ignore[misc]
        rival = theirs(network, dtype)
        if rival is not None:
            arguments = (x.to(dtype), time, context.to(dtype))
            steps[f"diffusers {name}"] = lambda rival=rival, a=arguments: rival(*a, return_dict=False)[0]  # type: ignore[misc]
            difference = (steps[name]() - steps[f"diffusers {name}"]()).abs().max().item()
            report("unet equality", dtype=name, max_difference=difference)
    times = best(steps)
    native = {"least": 2.0} if has_native_bf16() else {}
    report("unet bfloat16 against float32", ratio=round(times["float32"] / times["bfloat16"], 2), **native)
    for name in ("float32", "bfloat16"):
        rival_time = times.get(f"diffusers {name}")
        figures = {"seconds": round(times[name], 2)}
        if rival_time is None:
            report("unet step", dtype=name, note="diffusers is not installed", **figures)
        else:
            report("unet against diffusers", dtype=name, **figures, ratio=round(rival_time / times[name], 2), least=1.0)


if __name__ == "__main__":
    main()
