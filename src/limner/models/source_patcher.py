"""A network from a file as a model: what `vae.patcher` is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from limner.memory import MemoryManager, Precision
from limner.models.streamable import Streamable
from limner.weights import NetworkSource
from limner.weights.quant import counting_fallbacks


class SourcePatcher(Streamable):
    """source: its weights. precision: in which dtype they are kept."""

    def __init__(
        self, source: NetworkSource, memory: MemoryManager, device: torch.device, precision: Callable[[], Precision]
    ) -> None:
        self.source = source
        self.memory = memory
        self._precision = precision
        super().__init__(None, device, torch.device("cpu"))

    @property
    def model(self) -> nn.Module:
        """The network; loaded when it is asked for."""
        with self.loaded() as network:
            return network

    @model.setter
    def model(self, value: Any) -> None:
        """It is what the file holds."""

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return self.source.nbytes(self._precision().storage)

    @size.setter
    def size(self, value: int) -> None:
        self._size = value

    def model_dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._precision().compute

    def clone(self) -> SourcePatcher:
        """One with changes of its own; the weights are shared."""
        other = SourcePatcher(self.source, self.memory, self.load_device, self._precision)
        self.copy_changes_to(other)
        return other

    @contextmanager
    def loaded(self, working: int = 0, least: int | None = None) -> Iterator[nn.Module]:
        """The network, on its device, for as long as the block lasts. working, least: bytes needed besides."""
        precision = self._precision()
        loaded = self.memory.loaded(
            self.source, precision.storage, self.load_device, working, least, compute=precision.compute
        )
        with counting_fallbacks(), loaded as network:
            yield network

    def patch_model(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        load_weights: bool = True,
        force_patch_weights: bool = False,
    ) -> Any:
        """Load it now; it stays while there is room."""
        del device_to, lowvram_model_memory, load_weights, force_patch_weights
        return self.model

    def detach(self, unpatch_all: bool = True) -> Any:
        """Take its weights out of memory, unless they are in use."""
        del unpatch_all
        self.memory.unload(self.source)
        return None
