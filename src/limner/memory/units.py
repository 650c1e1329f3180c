"""What is brought to a device and dropped from it: networks as lists of units, as policy and manager see them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from limner.memory.pinned import PinnedMemory
from limner.memory.streaming import Streamer

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Unit:
    """A module whose own weights are on a device together or not at all.

    resident: bytes that it takes on the device while it stays there; 0 for views of a file on the CPU. streamed: bytes
    of a buffer that it needs while it is used without staying (raw weights, and what they are cast and patched into).
    making: bytes that putting it there or into a buffer takes for a moment besides. moved: bytes that cross to the
    device when it is brought, or each time that it is used without staying. fixed: it cannot be streamed. packed: bytes
    of copies that computing with it takes, wherever it is: a convolution's on the CPU, a quantized weight's in floats.
    """

    name: str
    resident: int
    streamed: int
    moved: int
    fixed: bool = False
    making: int = 0
    packed: int = 0


class Units(tuple[Unit, ...]):
    """A network's units. What policy asks of thousands of them at once are arrays, made once."""

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each while it stays."""
        return np.array([unit.resident for unit in self], np.int64)

    @cached_property
    def fixed(self) -> NDArray[np.bool_]:
        """Which cannot be streamed."""
        return np.array([unit.fixed for unit in self], bool)

    @cached_property
    def streamed(self) -> NDArray[np.int64]:
        """Bytes of a buffer for each."""
        return np.array([unit.streamed for unit in self], np.int64)

    @cached_property
    def making(self) -> NDArray[np.int64]:
        """Bytes that making each takes for a moment."""
        return np.array([unit.making for unit in self], np.int64)

    def in_passing(self, buffers: int) -> NDArray[np.int64]:
        """Bytes that using each takes that do not stay; none where there are no buffers, as nothing is used."""
        return buffers * self.streamed + self.making if buffers else np.zeros(len(self), np.int64)


@dataclass(frozen=True)
class Target:
    """Where and how a network is wanted.

    dtype: of the weights, None for as in the file. compute: of the activations, None where it is not known.
    channels_last: of convolutions. streamer: brings weights that do not stay.
    """

    device: torch.device
    dtype: torch.dtype | None
    compute: torch.dtype | None
    channels_last: bool
    streamer: Streamer


class Placement(Protocol[P_contra]):
    """A network, and which of its units are on the device."""

    @property
    def network(self) -> nn.Module:
        """The network; units that are not resident are brought when they are used."""

    @property
    def units(self) -> Sequence[Unit]:
        """Its units, in the order in which they are probably used."""

    @property
    def resident(self) -> Collection[int]:
        """The units that are on the device, by place in `units`."""

    @property
    def patched(self) -> int:
        """How many units that are not resident are patched each time they are used."""

    @property
    def pinned(self) -> int:
        """Bytes of page-locked host memory that its units wait in."""

    def bring(self, indexes: Collection[int]) -> None:
        """Put units on the device, patched. An error leaves those that came before it resident."""

    def drop(self, indexes: Collection[int]) -> None:
        """Take units off the device; they are streamed from then on. Fixed ones may not be named."""

    def repatch(self, patches: P_contra) -> int:
        """Let it be a network with these patches: units of which they differ are taken off, fixed ones are made anew.

        What `units` says of them may change. Returns how many units that were.
        """

    def pin(self, memory: PinnedMemory) -> None:
        """Let units that are streamed wait in page-locked memory, as far as that reaches."""

    def close(self) -> None:
        """Give back everything. The network is not used any more."""


class Loadable(Protocol[P]):
    """What can be loaded: `limner.weights.NetworkSource` is one; P is the type of its patches."""

    @property
    def name(self) -> str:
        """For messages and to tell the networks of one file apart."""

    @property
    def identity(self) -> str:
        """Equal for equal unpatched weights."""

    @property
    def patches(self) -> P:
        """What changes the weights."""

    @property
    def patches_digest(self) -> str:
        """Equal for equal patches."""

    def nbytes(self, dtype: torch.dtype | None) -> int:
        """Bytes of the weights in a dtype."""

    def place(self, target: Target) -> Placement[P]:
        """The network with nothing but its fixed units' places known: nothing is resident before `bring`."""
