"""Recorded traces, and their replay on a device of numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from limner.memory.settings import MemorySettings
from tests.memory.full_size import Sized, sized
from tests.memory.simulator import DEVICE, FakeBackend, FakePatches, FakeSource, Request, Simulation, Use

TRACES = Path(__file__).parent / "traces"


@dataclass(frozen=True)
class Trace:
    """What the engine asked in a session. networks: name → dtype. patches: number → pattern → word."""

    name: str
    networks: Mapping[str, str]
    patches: Mapping[str, Mapping[str, str]]
    events: Sequence[Any]

    def __iter__(self) -> Iterator[list[Any]]:
        """The events, cycles unrolled."""
        return unrolled(self.events)


def unrolled(events: Sequence[Any]) -> Iterator[list[Any]]:
    """Events with those of cycles again and again."""
    for event in events:
        if event[0] == "repeat":
            for _ in range(event[1]):
                yield from unrolled(event[2])
        else:
            yield event


def names() -> list[str]:
    """All recorded traces."""
    return sorted(file.stem for file in TRACES.glob("*.json"))


@cache
def trace(name: str) -> Trace:
    """A recorded trace."""
    found = json.loads((TRACES / f"{name}.json").read_text())
    return Trace(name, found["networks"], found["patches"], found["events"])


@cache
def patches_of(name: str, number: str, network: str) -> FakePatches:
    """The patches of a trace on a network at its size in life: those of the weights whose names match."""
    of, recorded = sized(network, trace(name).networks[network]), trace(name).patches[number]
    return FakePatches(f"{number}", tuple("".join(_words(recorded, weights)) for weights in of.weights))


def _words(recorded: Mapping[str, str], weights: Sequence[str]) -> list[str]:
    return [recorded[found] for one in weights if (found := re.sub(r"\d+", "*", one)) in recorded]


@dataclass
class Replay:
    """A trace on a device."""

    trace: Trace
    simulation: Simulation
    open: dict[str, list[Use]] = field(default_factory=dict)
    sources: dict[tuple[str, str], FakeSource] = field(default_factory=dict)

    def run(self) -> Simulation:
        """All events."""
        for event in self.trace:
            getattr(self, f"_{event[0]}")(*event[1:])
        assert not self.simulation.uses
        return self.simulation

    def _source(self, network: str, number: str) -> FakeSource:
        if (network, number) not in self.sources:
            of: Sized = sized(network, self.trace.networks[network])
            patches = patches_of(self.trace.name, number, network) if number else FakePatches()
            self.sources[network, number] = self.simulation.source(network, of.units, patches)
        return self.sources[network, number]

    def _enter(self, network: str, asked: Mapping[str, Any]) -> None:
        source, working = self._source(network, asked.get("patches", "")), asked.get("working", 0)
        manager = self.simulation.manager
        if "tiled" in asked and working > manager.available(DEVICE) - source.nbytes(None):
            working = asked["tiled"]  # what an autoencoder does where a whole picture is too much
        request = Request(source, working, asked.get("least"), asked.get("passes"))
        self.open.setdefault(network, []).append(self.simulation.enter(request))

    def _use(self, network: str, children: Sequence[str] | None = None) -> None:
        self.simulation.run(self.open[network][-1], None if children is None else frozenset(children))

    def _exit(self, network: str) -> None:
        self.simulation.leave(self.open[network].pop())

    def _others(self, nbytes: int) -> None:
        self.simulation.backend.let_others(nbytes)

    def _unload(self) -> None:
        self.simulation.unload()


def replayed(
    name: str, size: int, settings: MemorySettings, *, strict: bool = True, streams: bool = True
) -> Simulation:
    """A recorded trace on a device of so many bytes."""
    simulation = Simulation(FakeBackend(size, streams=streams), settings, strict=strict)
    return Replay(trace(name), simulation).run()
