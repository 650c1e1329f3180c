"""What models have in common whose weights stay in a file: how much of them is on the device, more and less of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from limner.models.patcher import ModelPatcher

if TYPE_CHECKING:
    from limner.memory import MemoryManager
    from limner.weights import NetworkSource


class Streamable(ModelPatcher):
    """A model of which a part may be on its device; the others are streamed when they are used.

    source: where its weights are, and their patches. memory: decides what is on the device.
    """

    source: NetworkSource
    memory: MemoryManager

    def loaded_size(self) -> int:
        """Bytes of its weights that are in memory now."""
        held = self.memory.holding(self.source)
        return 0 if held is None else max(0, self.size - held.streamed)

    def lowvram_patch_counter(self) -> int:
        """How many weights are patched each time they are used."""
        held = self.memory.holding(self.source)
        return 0 if held is None else held.patched

    def current_loaded_device(self) -> torch.device:
        """Where its weights are now."""
        return self.load_device if self.memory.holds(self.source) else self.offload_device

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        """Load it now; it stays while there is room."""
        del full_load
        self.patch_model(device_to, lowvram_model_memory, True, force_patch_weights)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """Nothing: the network that others get is unpatched when they ask for it."""

    def partially_load(self, device_to: Any, extra_memory: int = 0, force_patch_weights: bool = False) -> int:
        """Load as much of it as there is room for. Returns the bytes that were loaded; fewer than 0 were unloaded.

        extra_memory: bytes of it to load more; where negative, so many are unloaded, once its patches are right.
        """
        before = self.loaded_size()
        self.patch_model(device_to, force_patch_weights=force_patch_weights)
        if extra_memory < 0:
            self.memory.shrink(self.source, -int(extra_memory))
        return self.loaded_size() - before

    def partially_unload(self, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False) -> int:
        """Take so many bytes of it off its device; they are streamed when it is used. Returns the bytes that were.

        memory_to_free: 0 for all of it, unless it is in use.
        """
        del device_to, force_patch_weights
        before = self.loaded_size()
        if memory_to_free:
            self.memory.shrink(self.source, int(memory_to_free))
        else:
            self.memory.unload(self.source)
        return before - self.loaded_size()

    def pin_weight_to_device(self, key: str) -> None:
        """Nothing: weights that are streamed wait in pinned memory by themselves."""
