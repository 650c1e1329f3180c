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


class Hooks:
    """The hooks of one forward pass, and the facts about the place it has reached.

    `options` is a copy of the caller's transformer_options with those facts added: it is what a hook is called with.
    """

    def __init__(self, transformer_options: Mapping[str, Any] | None) -> None:
        self.options: dict[str, Any] = {"attn_precision": None, **(transformer_options or {})}
        self.options["transformer_index"] = 0
        self._patches: Mapping[str, list[Callable[..., Any]]] = self.options.get("patches") or {}
        self._replace: Mapping[str, Mapping[Any, Replacement]] = self.options.get("patches_replace") or {}

    def note(self, **facts: object) -> None:
        """State facts about the place that the pass has reached."""
        self.options.update(facts)

    def enter(self, block: str, number: int) -> None:
        """The pass has reached block `number` of the part of the network called `block`."""
        self.options["block"] = (block, number)

    def next_transformer(self) -> None:
        """One more transformer is done; they are counted through the whole network."""
        self.options["transformer_index"] += 1

    def one(self, point: str, value: Tensor, *extra: object) -> Tensor:
        """The value as the point's hooks, called with (value, …extra, options), leave it."""
        for hook in self._patches.get(point, ()):
            value = hook(value, *extra, self.options)
        return value

    def many(self, point: str, *values: Tensor) -> tuple[Tensor, ...]:
        """The values as the point's hooks, called with (…values, options), leave them."""
        for hook in self._patches.get(point, ()):
            values = tuple(hook(*values, self.options))
        return values

    def replacement(self, point: str, index: int) -> Replacement | None:
        """What takes over at transformer `index` of the block reached, or at all transformers of that block."""
        found = self._replace.get(point)
        if not found:
            return None
        block = self.options["block"]
        return found.get((*block, index), found.get(block))
