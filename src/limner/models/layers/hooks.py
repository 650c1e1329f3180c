"""Hooks of one forward pass: what `transformer_options` lets others see and change inside a network.

`transformer_options["patches"]` maps a point's name to functions that are called there in order with the values and
the options, and return the values. `transformer_options["patches_replace"]` maps a point's name to functions keyed by
the place in the network, each of which takes over for that place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Replacement = Callable[..., Tensor]


class Hooks(dict[str, Any]):
    """The hooks of one forward pass, and the facts about the place it has reached.

    It is a copy of the caller's transformer_options with those facts added: what a hook is called with, and what the
    layers hand on to each other.
    """

    def __init__(self, transformer_options: Mapping[str, Any] | None) -> None:
        super().__init__({"attn_precision": None, **(transformer_options or {})})
        self.setdefault("transformer_index", 0)
        self._patches: Mapping[str, list[Callable[..., Any]]] = self.get("patches") or {}
        self._replace: Mapping[str, Mapping[Any, Replacement]] = self.get("patches_replace") or {}

    @classmethod
    def of(cls, transformer_options: Mapping[str, Any] | None) -> Hooks:
        """The hooks of a pass that is under way, or new ones where a layer is called by itself."""
        return transformer_options if isinstance(transformer_options, Hooks) else cls(transformer_options)

    @property
    def options(self) -> dict[str, Any]:
        """What a hook is called with."""
        return self

    def note(self, **facts: object) -> None:
        """State facts about the place that the pass has reached."""
        self.update(facts)

    def enter(self, block: str, number: int) -> None:
        """The pass has reached block `number` of the part of the network called `block`."""
        self["block"] = (block, number)

    def next_transformer(self) -> None:
        """One more transformer is done; they are counted through the whole network."""
        self["transformer_index"] += 1

    def at(self, point: str) -> list[Callable[..., Any]]:
        """The hooks of a point."""
        return self._patches.get(point) or []

    def one(self, point: str, value: Tensor, *extra: object) -> Tensor:
        """The value as the point's hooks, called with (value, …extra, options), leave it."""
        for hook in self._patches.get(point, ()):
            value = hook(value, *extra, self)
        return value

    def many(self, point: str, *values: Tensor) -> tuple[Tensor, ...]:
        """The values as the point's hooks, called with (…values, options), leave them."""
        for hook in self._patches.get(point, ()):
            values = tuple(hook(*values, self))
        return values

    def replacement(self, point: str, index: int) -> Replacement | None:
        """What takes over at transformer `index` of the block reached, or at all transformers of that block."""
        found = self._replace.get(point)
        block = self.get("block")
        if not found or block is None:
            return None
        return found.get((*block, index), found.get(block))

    def block_replacement(self, kind: str, number: int) -> Callable[..., Mapping[str, Any]] | None:
        """What takes over for a whole block of a transformer: kind is "double_block" or "single_block".

        It is called with the block's arguments and {"original_block": a function of such arguments}, and answers with
        the streams by name.
        """
        return (self._replace.get("dit") or {}).get((kind, number))  # type: ignore[return-value]
