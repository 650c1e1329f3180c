"""Control-LoRA: a ControlNet of Stable Diffusion XL kept as changes of the model's own weights. Stability AI 2023.

A file has the layers that a UNet has not (zero convolutions, hint) as they are, and of the others `up` and `down`:
W' = W + up · down, W being the weight of the model that is sampled. So the network is put together when a run begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.control.base import ControlBase
from limner.models.control.kind import ControlFile, ControlKind, Layout
from limner.models.control.network import ControlNet
from limner.models.control.unet import ControlUNet, ControlUNetConfig, hint_widths
from limner.models.family import has
from limner.models.source_patcher import SourcePatcher
from limner.models.unet import UNetConfig
from limner.weights import CheckpointHeader, NetworkSource
from limner.weights.lazy import LazyTensor


class ControlLora(ControlNet):
    """A control whose weights are those of the sampled model, changed.

    control_weights: the file's tensors: a header, or tensors by name.
    """

    def __init__(
        self,
        control_weights: CheckpointHeader | Mapping[str, Tensor],
        global_average_pooling: bool = False,
        model_options: Any = None,
        memory: MemoryManager | None = None,
    ) -> None:
        super().__init__(None, global_average_pooling)
        del model_options
        self.control_weights = (
            control_weights if isinstance(control_weights, CheckpointHeader) else CheckpointHeader.of(control_weights)
        )
        self.memory = memory
        self.extra_conds += ["y"] if "y" not in self.extra_conds else []

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """A run begins: the network is made of the model's weights, as they are patched now; loaded when used.

        Raises BadInput when the model is no UNet.
        """
        super().pre_run(model, percent_to_timestep_function)
        base = getattr(model, "current_patcher", model)
        config = getattr(base, "config", None)
        if not isinstance(config, UNetConfig):
            raise BadInput(
                "A Control-LoRA was applied to a model that it does not fit.",
                why="It changes the weights of a UNet (Stable Diffusion XL), and this model has none.",
                do="Use it with the model that it was made for.",
            )
        header = self.control_weights
        shapes = header.shapes()
        made = ControlUNetConfig(replace(config, transformer_depth_output=()), hint_widths(shapes))
        memory = self.memory or base.memory
        identity = f"{header.identity}+{base.source.identity}/{base.source.patches_digest}"
        source = NetworkSource(
            "Control-LoRA", partial(ControlUNet, made), combined(header, base.source, ControlUNet, made), identity
        )
        self.control_model_wrapped = SourcePatcher(
            source, memory, memory.device, lambda: memory.unet_precision(base.family.dtypes)
        )

    def copy(self) -> Any:
        """One with a hint of its own; the tensors are shared."""
        c = ControlLora(self.control_weights, self.global_average_pooling, memory=self.memory)
        self.copy_to(c)
        return c

    def cleanup(self) -> None:
        """The run has ended: the network is let go."""
        self.control_model_wrapped = None
        super().cleanup()

    def inference_memory_requirements(self, dtype: Any) -> float:
        """Bytes of the network, which is not among `get_models` before the run begins."""
        size = 2 if dtype is None else dtype.itemsize
        numbers = sum(entry.nbytes // entry.dtype.itemsize for entry in self.control_weights.tensors.values())
        return float(numbers * size) + super().inference_memory_requirements(dtype)


def combined(
    header: CheckpointHeader, base: NetworkSource, network: Callable[[Any], Any], config: Any
) -> dict[str, LazyTensor]:
    """The tensors of the network: the file's own, or the base's patched ones with the file's changes; read lazily."""
    with torch.device("meta"):
        names = list(network(config).state_dict())
    found: dict[str, LazyTensor] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        up, down = (header.tensors.get(f"{module}.{part}") for part in ("up", "down"))
        if name in header:
            found[name] = header.tensors[name]
        elif leaf == "weight" and up is not None and down is not None and name in base.tensors:
            found[name] = _changed(base, name, up, down)
        elif name in base.tensors:
            found[name] = replace(base.tensors[name], read=partial(base.kept, name), is_view=False)
    return found


def _changed(base: NetworkSource, name: str, up: LazyTensor, down: LazyTensor) -> LazyTensor:
    entry = base.tensors[name]

    def read() -> Tensor:
        change = up.read().float().flatten(1) @ down.read().float().flatten(1)
        return (base.patched(name).float() + change.reshape(entry.shape)).to(entry.dtype)

    return replace(entry, read=read, is_view=False).packed(None)


def make(kind: ControlKind, file: ControlFile) -> ControlBase:
    """The control of a file."""
    del kind
    return ControlLora(file.header, file.shuffles, memory=file.memory)


CONTROL = ControlKind(
    name="lora",
    title="Control-LoRA",
    layouts=(Layout((has("lora_controlnet"), has("input_hint_block.0.weight"), has("zero_convs.0.0.weight"))),),
    infer_config=lambda header, said: None,  # noqa: ARG005 - the model's
    network=ControlUNet,
    make=make,
)
