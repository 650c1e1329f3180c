"""A network watched while it samples: what its layers are given, and some of its passes kept to be computed again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limner.models.model import Model
from limner.quantize.inputs import Inputs
from limner.sampling.wrappers import WrappersMP

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
KEY = "limner.quantize"


@dataclass(frozen=True)
class Pass:
    """One computation of the network: what it was given, and what came out."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor


class Watch:
    """inputs: of each layer by its name in the network. passes: up to `keep` of all that were seen, each as likely."""

    def __init__(self, keep: int = 0, seed: int = 0) -> None:
        self.inputs: dict[str, Inputs] = {}
        self.passes: list[Pass] = []
        self.seen = 0
        self._keep = keep
        self._random = random.Random(seed)

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Within the block, every pass of the network is watched."""
        with ExitStack() as stack:
            for name, module in network.named_modules():
                if isinstance(module, LAYERS):
                    found = self.inputs.setdefault(name, Inputs(len(self.inputs)))
                    stack.callback(module.register_forward_pre_hook(partial(_note, found)).remove)
            stack.enter_context(self._keeping(network))
            yield

    @contextmanager
    def _keeping(self, network: nn.Module) -> Iterator[None]:
        given: list[tuple[int, Any, Any]] = []

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            self.seen += 1
            full = len(self.passes) >= self._keep
            place = self._random.randrange(self.seen) if full else len(self.passes)
            if place < self._keep:  # copied now: networks write over what they are given
                given.append((place, *_copied((args, kwargs))))

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            del args, kwargs
            if given and isinstance(output, Tensor):
                place, *known = given.pop()
                self.passes[place : place + 1] = [Pass(known[0], known[1], output.clone())]

        first = network.register_forward_pre_hook(before, with_kwargs=True)
        last = network.register_forward_hook(after, with_kwargs=True)
        try:
            yield
        finally:
            first.remove()
            last.remove()

    @property
    def unreached(self) -> list[str]:
        """Layers that were given nothing, or zeros alone."""
        return [name for name, one in self.inputs.items() if not one.reached]


def _note(inputs: Inputs, layer: Layer, args: tuple[Any, ...]) -> None:
    x = args[0]
    if isinstance(x, Tensor) and x.ndim > 1:
        inputs.add(x, -1 if isinstance(layer, nn.Linear) else x.ndim - len(layer.kernel_size) - 1)


def _copied(values: Any) -> Any:
    return tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, values)


def watched(model: Model, watch: Watch) -> Model:
    """A clone whose network is watched whenever it samples, by whatever node."""

    def around(executor: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        base: Any = executor.class_obj  # type: ignore[attr-defined]
        with base.current_patcher.loaded() as network, watch.on(network):
            return executor(*args, **kwargs)

    seen = model.clone()
    seen.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, around)
    return seen


@torch.inference_mode()
def repeated(network: nn.Module, one: Pass) -> Tensor:
    """What the network makes of a pass's inputs now."""
    args, kwargs = _copied((one.args, dict(one.kwargs)))
    found: Tensor = network(*args, **kwargs)
    return found
