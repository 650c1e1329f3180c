"""A model in one form or another, and the picture that it gives: what the tests of forms share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limner.memory import DefaultSettings, MemoryManager
from limner.memory.backends.cpu import CpuBackend
from limner.memory.units import Unit
from limner.models.load import load_diffusion_model
from limner.models.model import Model
from limner.models.qwen_image import QwenImageTransformer2DModel
from limner.models.unet import UNet
from limner.sampling.hooks import HookGroup, WeightHook
from limner.weights.adapters.lora import LoRA
from limner.weights.adapters.plain import Difference
from tests.families.networks import QWEN_IMAGE, UNET_SAYS, Part, flux
from tests.memory.double import FakeAccelerator, Pages
from tests.models.make import TINY_UNET

CPU = torch.device("cpu")
WORKING = 32 << 20
"""Bytes promised to the computation; these networks take a few MB."""
PATCHES = ("plain", "one LoRA", "two LoRAs", "hooks")


@dataclass(frozen=True)
class Family:
    """A network at reduced width; the shape of its latents and of what it is told; noise levels of two steps."""

    part: Part
    latent: tuple[int, ...]
    text: int
    sigmas: tuple[float, float, float]


def _sd1() -> nn.Module:
    one = {"channel_mult": (1,), "num_res_blocks": (1,), "transformer_depth": (0,), "transformer_depth_output": (0, 0)}
    return UNet(replace(TINY_UNET, **one))


FAMILIES = {
    "sd1": Family(Part(_sd1, UNET_SAYS), (1, 4, 8, 8), 6, (5.0, 2.0, 0.0)),
    "flux": Family(flux(depth=1, depth_single_blocks=1), (1, 16, 8, 8), 32, (0.9, 0.5, 0.0)),
    "qwen_image": Family(
        Part(lambda: QwenImageTransformer2DModel(replace(QWEN_IMAGE, num_layers=1)), {"axes_dims_rope": (4, 6, 6)}),
        (1, 16, 1, 8, 8), 16, (0.9, 0.5, 0.0),
    ),
}  # fmt: skip


class Host(CpuBackend):
    """A CPU of which networks get so many bytes, and whose pages are locked by a driver that is none."""

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.memory, self.pages = memory, Pages(FakeAccelerator())
        self.manager: MemoryManager | None = None

    def free(self, device: torch.device) -> int:
        assert self.manager is not None
        return self.memory - sum(nbytes for _, nbytes in self.manager.resident())

    def pinning(self) -> Any:
        return self.pages

    def is_unified(self, device: torch.device) -> bool:
        return False


class FromNumbers(TorchFunctionMode):
    """Tensors of numbers on the device that is none, which torch would make there without asking it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if (
            func in (torch.tensor, torch.as_tensor)
            and named.get("device") is not None
            and torch.device(named["device"]).type != "cpu"
        ):
            return func(*args, **{**named, "device": None}).to(named["device"])
        return func(*args, **named)


@contextmanager
def device(double: bool, memory: int, **settings: Any) -> Iterator[MemoryManager]:
    """A manager of the CPU, or of the accelerator that is none, with so many bytes."""
    chosen = DefaultSettings(force_fp32=True, reserve_vram=0, **settings)
    with torch.no_grad():
        if not double:
            host = Host(memory)
            host.manager = MemoryManager(chosen, CPU, host)
            yield host.manager
            return
        with FakeAccelerator(memory=memory) as fake, FromNumbers():
            yield MemoryManager(chosen, fake.device, fake)
            assert not fake.races


def loras(model: Model, number: int) -> dict[str, Any]:
    """Of every fifth tensor that is a matrix, and changes of some that are not; another number changes others too."""
    torch.manual_seed(number)
    found: dict[str, Any] = {}
    for place, (name, entry) in enumerate(sorted(model.source.tensors.items())):
        key, shape = model.source.prefix + name, entry.shape
        if len(shape) == 2 and (place + number) % 5 == 0:
            found[key] = LoRA(f"{number} {key}", torch.randn(shape[0], 2) / 4, torch.randn(2, shape[1]) / 4)
        elif len(shape) in (1, 4) and place % 11 in (0, 3 + number):
            found[key] = Difference(f"{number} {key}", torch.randn(shape) / 8)
    return found


def picture(model: Model, family: Family, patches: str) -> Tensor:
    """A latent of a step of Euler's method. patches: of the weights; hooks hold for the first of two steps."""
    generator = torch.Generator().manual_seed(4)
    x, text, pooled = (torch.randn(s, generator=generator) for s in (family.latent, (1, 5, family.text), (1, 8)))
    model = model.clone()
    for number in range({"one LoRA": 1, "two LoRAs": 2}.get(patches, 0)):
        model.add_patches(loras(model, number), 0.8 - 0.3 * number)
    hook, group = WeightHook(0.7), HookGroup()
    group.add(hook)
    model.add_hook_patches(hook, loras(model, 0), 0.7)
    with model.loaded(WORKING):
        x, text = model.place(x) * family.sigmas[0], model.place(text)
        said = {"cross_attn": text, "pooled_output": model.place(pooled), "guidance": 3.5, "noise": x}
        conds = {name: getattr(value, "cond", value) for name, value in model.extra_conds(**said).items()}
        conds = {name: model.place(value) if isinstance(value, Tensor) else value for name, value in conds.items()}
        steps = list(pairwise(family.sigmas))
        for sigma, after in steps if patches == "hooks" else steps[:1]:
            if patches == "hooks":
                model.patch_hooks(group if after else None)
            denoised = model.apply_model(x, model.place(torch.tensor([sigma])), **conds)
            x = denoised + (x - denoised) * (after / sigma)
    return x.cpu()


Kinds = Sequence[str]


def pictures(
    manager: MemoryManager, file: Path, family: str, storage: torch.dtype | None = None, kinds: Kinds = PATCHES
) -> tuple[dict[str, Tensor], Model]:
    """That of each kind of patches, one after the other with one manager. storage: None for as the file has it."""
    model = load_diffusion_model(file, manager)
    model.weight_dtype = storage
    return {patches: picture(model, FAMILIES[family], patches) for patches in kinds}, model


class AtRest(NamedTuple):
    """Pictures of a network all of whose weights are on the device, and their bytes there."""

    pictures: dict[str, Tensor]
    nbytes: int


@cache
def at_rest(
    file: Path, family: str, storage: torch.dtype | None = None, double: bool = False, kinds: Kinds = PATCHES
) -> AtRest:
    """The same with all weights on the device."""
    with device(double, 1 << 40) as manager:
        found, model = pictures(manager, file, family, storage, kinds)
        held = manager.holding(model.source)
    assert held is not None
    assert (held.streamed, held.pinned) == (0, 0)
    return AtRest(found, held.resident)


def every_second(units: Sequence[Unit], resident: Collection[int], budget: int, buffers: int) -> list[int]:
    """A policy that lets every second unit stay, so that each module's neighbours are streamed."""
    del budget, buffers
    return [place for place, unit in enumerate(units) if place not in resident and (unit.fixed or place % 2)]
