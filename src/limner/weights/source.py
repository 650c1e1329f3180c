"""A network whose weights are still in files: how to build it, where its tensors are, and what patches change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.memory import backends
from limner.memory.streaming import Streamer
from limner.memory.units import Target
from limner.weights.adapters import Adapter
from limner.weights.lazy import LazyTensor, PackedTensor
from limner.weights.patches import Patches
from limner.weights.placed import FLOATS_OF_A_BYTE, PlacedNetwork, weights_of
from limner.weights.quant.tensor import as_floats


@dataclass(frozen=True, eq=False)
class NetworkSource:
    """Builds and fills a network. Nothing is in memory until `load`, and the files are never written to.

    build: makes the network; it is called where tensors have no storage. tensors: by the network's own names.
    prefix: what patch keys have before these names. identity: equal for equal tensors. said: what the file says of it
    beside its tensors (`config` by component, `tokenizer_json`), to be written with it again. as_they_are: weights are
    kept in their own dtypes, whatever is wanted.
    """

    name: str
    build: Callable[[], nn.Module]
    tensors: Mapping[str, LazyTensor]
    identity: str
    prefix: str = ""
    patches: Patches = field(default_factory=Patches)
    said: Mapping[str, Any] = field(default_factory=dict)
    as_they_are: bool = False

    def with_patches(self, patches: Patches) -> NetworkSource:
        """The same network with other patches."""
        return replace(self, patches=patches)

    @property
    def patches_digest(self) -> str:
        """Of all its patches."""
        return self.patches.digest

    def nbytes(self, dtype: torch.dtype | None) -> int:
        """Bytes of all its tensors kept in `dtype`; None: as they are in the file. Quantized ones stay as they are."""
        return sum(self._bytes_of(entry, dtype) for entry in self.tensors.values())

    def _bytes_of(self, entry: LazyTensor, dtype: torch.dtype | None) -> int:
        kept = self.storage(dtype)
        if kept is None or isinstance(entry, PackedTensor):
            return entry.nbytes
        return prod(entry.shape) * kept.itemsize

    def storage(self, dtype: torch.dtype | None) -> torch.dtype | None:
        """In which dtype weights are kept that are wanted in `dtype`: as in the file (None) for floats of eight bits
        where the file is quantized, for it says of each layer how precise it must be.
        """
        return None if self.as_they_are or (dtype in FLOATS_OF_A_BYTE and self._is_quantized) else dtype

    @cached_property
    def _is_quantized(self) -> bool:
        return any(isinstance(entry, PackedTensor) for entry in self.tensors.values())

    def place(self, target: Target) -> PlacedNetwork:
        """The network for a device and a dtype, for inference; nothing is on the device before its units are brought.

        Raises BadInput naming the tensors that the file lacks or has in another shape.
        """
        with torch.device("meta"):
            network = self.build()
        network.eval().requires_grad_(False)
        saved = weights_of(network)
        self._check(saved)
        for name, buffer in network.named_buffers():
            if buffer.is_meta and name not in saved:
                raise BadInput(f"{self.name}: the buffer {name} has no value.", why="It is not part of the file.")
        return PlacedNetwork(self, network, target)

    def load(self, device: torch.device, dtype: torch.dtype | None, channels_last: bool = False) -> nn.Module:
        """The whole network on a device in `dtype` (None: as in the file), with its patches.

        Tensors are converted one at a time and the file's pages are given back after each, so that no more than the
        result and one tensor are in memory. A tensor that needs no change stays a view of the file.

        Raises BadInput as `place` does.
        """
        placed = self.place(Target(device, dtype, None, channels_last, Streamer(backends.of(device), device)))
        placed.bring(range(len(placed.units)))
        return placed.network

    def patched(self, name: str) -> Tensor:
        """One weight with its patches, in float32 when it has any, else as it is in the file; never quantized."""
        return as_floats(self.patches.apply(self.prefix + name, self.tensors[name].read()))

    def kept(self, name: str) -> Tensor:
        """One weight with its patches as a file keeps it: in its own dtype, quantized as it was."""
        entry = self.tensors[name]
        return self.patches.apply_kept(self.prefix + name, entry.read()).to(entry.dtype)

    def as_patches(self) -> dict[str, Adapter]:
        """Its patched weights as patches of another network, by patch key: what merging of models is made of."""
        return {
            self.prefix + name: OtherWeight(
                f"{self.identity}/{name}/{self.patches.key_digest(self.prefix + name)}", self, name
            )
            for name in self.tensors
        }

    def _check(self, weights: Mapping[str, Tensor]) -> None:
        wanted = {name: tuple(entry.shape) for name, entry in weights.items()}
        missing = [name for name in wanted if name not in self.tensors]
        if missing:
            raise BadInput(
                f"The {self.name} lacks {len(missing)} of {len(wanted)} tensors: {', '.join(missing[:4])}"
                f"{' …' if len(missing) > 4 else ''}.",
                why="The file is incomplete or of another layout.",
                do="`limner inspect` says what the file holds; get a complete one.",
            )
        for name, shape in wanted.items():
            found = self.tensors[name].shape
            if found != shape:
                raise BadInput(
                    f"The {self.name} has {name} in the shape {list(found)} instead of {list(shape)}.",
                    why="The file contradicts itself, or its `config` metadata is wrong.",
                    do="`limner inspect` says what the file holds.",
                )


@dataclass(frozen=True, eq=False)
class OtherWeight(Adapter):
    """Another network's patched weight, added."""

    identity: str
    source: NetworkSource
    name: str

    def patched(self, weight: Tensor, strength: float) -> Tensor:
        """weight + strength · the other's."""
        return weight + strength * self.source.patched(self.name).to(weight.device, torch.float32)
