"""Weights: checkpoint headers and readers, patches, and the operations that networks are built from."""

from limner.weights.header import CheckpointHeader
from limner.weights.lazy import LazyTensor
from limner.weights.patches import Patch, Patches, as_adapter, make_patches, read_adapters
from limner.weights.save import save
from limner.weights.source import NetworkSource

__all__ = [
    "CheckpointHeader",
    "LazyTensor",
    "NetworkSource",
    "Patch",
    "Patches",
    "as_adapter",
    "make_patches",
    "read_adapters",
    "save",
]
