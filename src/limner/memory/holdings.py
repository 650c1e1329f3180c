"""Networks on devices, as the manager keeps them and as it shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from limner.memory.units import Placement, Unit

P = TypeVar("P")
MIB = 1024 * 1024


AS_STORED = "as stored"
"""What is told of a network's dtype where each tensor has its file's."""


@dataclass(frozen=True)
class Key:
    """Which network, in which form, where."""

    name: str
    identity: str
    device: str
    dtype: str
    channels_last: bool


@dataclass(frozen=True)
class Held:
    """What is loaded of a network. Bytes: `resident` on the device, `streamed` of weights that are not, `pinned` of
    RAM that those wait in. patched: how many of these are patched each time they are used."""

    name: str
    device: str
    dtype: str
    resident: int
    streamed: int
    patched: int
    pinned: int
    in_use: bool


@dataclass(frozen=True)
class RunMemory:
    """What one use of a network took beside its weights. Bytes that were estimated and measured; seconds."""

    name: str
    device: str
    estimated: int
    measured: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"The {self.name} took {self.measured // MIB} MB beside its weights on {self.device}, "
            f"{self.estimated // MIB} MB had been estimated; {self.seconds:.1f} s."
        )


@dataclass(eq=False)
class Holding(Generic[P]):
    """A network on a device. digest: of the patches it has. users: how many compute with it now.

    promised: bytes that it may compute with while it is in use. least: that it needs for that.
    """

    key: Key
    placement: Placement[P]
    digest: str
    last_used: int = 0
    users: int = 0
    promised: int = 0
    least: int = 0

    @property
    def resident(self) -> int:
        """Bytes of its weights on the device."""
        units = self.placement.units
        return sum(units[i].resident for i in self.placement.resident)

    @property
    def movable(self) -> int:
        """Bytes that unloading it frees."""
        return self.resident

    def making(self, units: Sequence[Unit]) -> int:
        """Bytes that making its missing weights takes in passing."""
        here = self.placement.resident
        return max((unit.making for i, unit in enumerate(units) if i not in here), default=0)

    def shown(self) -> Held:
        """As others see it."""
        placement: Any = self.placement
        resident = self.resident
        whole = sum(unit.resident for unit in placement.units)
        return Held(
            self.key.name,
            self.key.device,
            AS_STORED if self.key.dtype == "None" else self.key.dtype.removeprefix("torch."),
            resident,
            whole - resident,
            placement.patched,
            placement.pinned,
            self.users > 0,
        )

    def sentence(self, what: str, nbytes: int) -> str:
        """What happened to it, for the log: bytes moved, bytes there now, and weights patched at each use."""
        shown = self.shown()
        rest = f", {shown.streamed // MIB} MB streamed" if shown.streamed and what != "Unloaded" else ""
        patched = f", {shown.patched} patched when used" if shown.patched and what != "Unloaded" else ""
        there = "" if what == "Unloaded" else f": {shown.resident / MIB:.0f} MB on {shown.device}{rest}{patched}"
        return f"{what} {nbytes / MIB:.0f} MB of the {shown.name}{there}."
