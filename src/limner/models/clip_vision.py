"""ClipVision: a vision encoder as it crosses node boundaries: pictures (B, H, W, C) in 0..1 to what it says of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from limner.memory import MemoryManager, Precision
from limner.memory.policy import batch_that_fits
from limner.memory.relief import once_more
from limner.models.source_patcher import SourcePatcher
from limner.models.vision.kind import VisionKind
from limner.models.vision.preprocess import preprocess
from limner.models.vision.transformer import Seen, VisionConfig
from limner.weights import NetworkSource

MARGIN = 1.1
"""Over what was measured by benchmarks/memory_formula.py."""


class Output:
    """What a vision encoder says of B pictures, as attributes and by name; float32, on the CPU.

    last_hidden_state: (B, L, D). image_embeds: (B, P), of SigLIP (B, L, D). penultimate_hidden_states: (B, L, D), of
    the layer before the last. all_hidden_states: (B, layers, L, D), of encoders that give them. mm_projected: patches
    as a language model reads them, or None.
    """

    last_hidden_state: Tensor
    image_embeds: Tensor
    penultimate_hidden_states: Tensor | None
    all_hidden_states: Tensor | None
    mm_projected: Tensor | None

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, item: Any) -> None:
        setattr(self, key, item)


class ClipVision:
    """A vision encoder with its weights. config: of its network. file: where it is from, for messages."""

    def __init__(
        self, kind: VisionKind, config: VisionConfig, source: NetworkSource, memory: MemoryManager, file: str
    ) -> None:
        self.kind = kind
        self.config = config
        self.source = source
        self.memory = memory
        self.file = file

    # -- as packs read it -----------------------------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Pixels of a side of the pictures it takes."""
        return self.config.image_size

    @property
    def image_mean(self) -> list[float]:
        """What pictures in 0..1 are normalised by."""
        return list(self.kind.mean)

    @property
    def image_std(self) -> list[float]:
        """What they are divided by then."""
        return list(self.kind.std)

    @property
    def return_all_hidden_states(self) -> bool:
        """Whether its output has those of all layers."""
        return self.kind.every_layer

    @cached_property
    def patcher(self) -> SourcePatcher:
        """Its weights as a model."""
        return SourcePatcher(self.source, self.memory, self.memory.device, self._precision)

    @property
    def model(self) -> nn.Module:
        """The network; loaded when it is asked for."""
        with self.memory.loaded(self.source, self._precision().storage) as network:
            return network

    @property
    def load_device(self) -> torch.device:
        """Where it computes."""
        return self.memory.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._precision().compute

    def get_sd(self) -> dict[str, Tensor]:
        """Its weights, views of the file."""
        return {name: entry.read() for name, entry in self.source.tensors.items()}

    # -- encoding -------------------------------------------------------------------------------------------------

    def encode_image(self, image: Tensor, crop: bool = True) -> Output:
        """What it says of pictures (B, H, W, C) in 0..1. crop: cut to a square about the centre, else distorted."""
        pixels = preprocess(image, self.image_size, self.kind.mean, self.kind.std, crop).float()
        wanted: int | str = "all" if self.kind.every_layer else -2
        each = self._bytes()
        precision = self._precision()
        with self.memory.loaded(
            self.source, precision.storage, working=each, passes=1, compute=precision.compute
        ) as network:

            def see(size: int) -> list[Seen]:
                parts = (self.memory.place(part.to(self.dtype)) for part in torch.split(pixels, size))
                return [network(part, intermediate_output=wanted) for part in parts]

            size = batch_that_fits(self.memory.available(), each, len(pixels))
            seen = once_more(
                lambda: see(size), lambda: self.memory.relieve(self.source, each), lambda: see(1), "looking at pictures"
            )
        found = Output()
        last, layer, embeds, projected = (_joined(parts) for parts in zip(*seen, strict=True))
        found["last_hidden_state"], found["image_embeds"], found["mm_projected"] = last, embeds, projected
        found["all_hidden_states"] = layer if self.kind.every_layer else None
        found["penultimate_hidden_states"] = layer[:, -2] if self.kind.every_layer and layer is not None else layer
        return found

    def _precision(self) -> Precision:
        return self.memory.text_precision()

    def _bytes(self) -> int:
        """Of one picture's computation: the picture, and what a feed-forward or the layers' outputs take."""
        config = self.config
        tokens = (config.image_size // config.patch_size) ** 2 + config.class_token
        inside = (3 if config.hidden_act == "quick_gelu" else 2) * config.intermediate_size
        kept = config.num_hidden_layers * config.hidden_size if self.kind.every_layer else 0
        channels = max(3 * config.hidden_size + inside + kept, 2 * kept)
        numbers = tokens * channels + config.num_channels * config.image_size**2
        return int(MARGIN * numbers * self.dtype.itemsize)


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Parts of a batch as one, where memory rests."""
    there = [part.float().cpu() for part in parts if part is not None]
    return (there[0] if len(there) == 1 else torch.cat(there)) if there else None
