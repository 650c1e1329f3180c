"""Several text encoders as one network: what is loaded, patched and freed together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from limner.models.text.kinds import EncoderKind, TextNetwork


class Holder(nn.Module):
    """One encoder, under the name that checkpoints and patches give it: `transformer`."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer


class TextNetworks(nn.Module):
    """Text encoders by name; their tensors are called `clip_l.transformer.text_model…`."""

    def __init__(self, parts: Mapping[str, tuple[EncoderKind, Any]]) -> None:
        """Build every encoder of its kind and config, by name."""
        super().__init__()
        for name, (kind, config) in parts.items():
            self.add_module(name, Holder(kind.network(config)))


def transformer(networks: nn.Module, name: str) -> TextNetwork:
    """The network of one encoder."""
    return cast(TextNetwork, networks.get_submodule(f"{name}.transformer"))
