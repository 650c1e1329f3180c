"""Networks of full size without their memory: fake tensors, which have a shape, a dtype and a storage's size alone.

What is counted with them is what would be alive with the same operations; tests/models/test_memory_formula.py holds it
against passes of real tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from benchmarks._live_bytes import LiveBytes
from limner.memory import DefaultSettings, MemoryManager
from limner.models.load import model_of
from limner.models.model import Model
from limner.sampling.condition_values import as_condition_value
from limner.weights import CheckpointHeader


def weightless() -> AbstractContextManager[Any]:
    """Within it every new tensor is a fake one."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def built(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """A network with weights of this dtype that hold nothing; within `weightless`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with unset_fake_temporarily(), torch.device("meta"):
            network = build().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return network


def peak_beside(weights: nn.Module, compute: Callable[[], Any], *, taken_apart: bool = False) -> int:
    """The most bytes alive at once while something is computed: its inputs made in it among them, weights not.

    taken_apart: whether what a compound operation makes inside itself counts: a norm, or attention, of a CPU is made
    of several operations where an accelerator has one kernel.
    """
    mode = torch.no_grad() if taken_apart else torch.inference_mode()
    with mode, LiveBytes([*weights.parameters(), *weights.buffers()]) as live:
        compute()
    return live.peak


def diffusion_model(header: CheckpointHeader, dtype: torch.dtype) -> Model:
    """The model of a header, computing in this dtype."""
    model = model_of(header, MemoryManager(DefaultSettings(cpu=True, bf16_unet=dtype == torch.bfloat16)))
    model.set_model_compute_dtype(dtype)
    return model


def peak_of_pass(model: Model, shape: tuple[int, ...], entries: Callable[[], dict[str, Any]], **how: Any) -> int:
    """Bytes of one pass beside the weights: latent, conditions and all that is made of them.

    shape: of the latent. entries: makes those of a condition (`cross_attn` …), as text encoders leave them.
    """
    with weightless():
        network = built(model.source.build, model.model_dtype())
        model._network = network
        try:
            return peak_beside(network, lambda: _one_pass(model, shape, entries()), **how)
        finally:
            model._network = None


def _one_pass(model: Model, shape: tuple[int, ...], entries: dict[str, Any]) -> Tensor:
    noise = torch.zeros(shape)
    size = {"width": shape[-1] * 8, "height": shape[-2] * 8, "prompt_type": "positive"}
    found = model.model.extra_conds(noise=noise, device=noise.device, **size, **entries)
    values = {name: as_condition_value(name, value, shape[2:]) for name, value in found.items()}
    told = {name: value.process_cond(batch_size=shape[0], area=None).concat([]) for name, value in values.items()}
    return model.model.apply_model(noise, torch.full((shape[0],), 0.5), **told)
