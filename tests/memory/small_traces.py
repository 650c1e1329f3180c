"""Small traces: the shapes of recorded ones, small enough that the best order can be found by trying all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limner.memory.settings import DefaultSettings
from limner.memory.units import Unit
from tests.memory.brute_force import Step, fewest
from tests.memory.simulator import FakeBackend, FakePatches, Request, Simulation

CHUNK = 1 << 20
MANY = 20
"""Passes of a diffusion model; text encoders and autoencoders make one."""
SETTINGS = DefaultSettings(reserve_vram=0.0)


@dataclass(frozen=True)
class Small:
    """Networks of so many chunks, requests for them, and a device of so many chunks."""

    name: str
    sizes: tuple[int, ...]
    steps: tuple[Step, ...]
    capacity: int

    def fewest(self) -> int:
        """Chunks that have to cross."""
        return fewest(self.sizes, self.steps, self.capacity, buffer=1)

    def moved(self, seen: int = 0) -> int:
        """Chunks that cross with the real manager, on an empty device. seen: how often it was asked the same before."""
        simulation = Simulation(FakeBackend(self.capacity * CHUNK), SETTINGS)
        for _ in range(seen):
            self._ask(simulation)
            simulation.unload()
        before = simulation.moved.total
        self._ask(simulation)
        assert simulation.report.refused == 0
        assert before % CHUNK == simulation.moved.total % CHUNK == 0
        return (simulation.moved.total - before) // CHUNK

    def _ask(self, simulation: Simulation) -> None:
        for step in self.steps:
            units = [Unit(f"{step.network}.{i}", CHUNK, CHUNK // 2, CHUNK) for i in range(self.sizes[step.network])]
            patches = FakePatches(str(step.patches), (str(step.patches),) * len(units)) if step.patches else None
            source = simulation.source(f"network {step.network}", units, patches, making=0)
            with simulation.using(Request(source, step.working * CHUNK, passes=step.passes), step.passes):
                pass


def text(working: int = 0) -> Step:
    """The text encoder is network 0."""
    return Step(0, working)


def denoise(working: int = 1, network: int = 1, patches: int = 0) -> Step:
    """A diffusion model is network 1, unless said."""
    return Step(network, working, MANY, patches)


def decode(working: int = 2, network: int = 2) -> Step:
    """The autoencoder is network 2, unless said."""
    return Step(network, working)


PICTURE = (text(), denoise(), decode())
SEED = (denoise(), decode())


def small_traces() -> Sequence[Small]:
    """All of them."""
    refine = (denoise(1, 0), denoise(1, 1), decode(2))
    return [
        Small("one picture", (3, 6, 1), PICTURE, 12),
        Small("one picture, tight", (3, 6, 1), PICTURE, 8),
        Small("seeds", (3, 6, 1), (text(), *SEED * 5), 9),
        Small("seeds, tight", (3, 6, 1), (text(), *SEED * 5), 8),
        Small("seeds, streamed", (3, 6, 1), (text(), *SEED * 4), 5),
        Small("texts", (3, 6, 1), PICTURE * 4, 10),
        Small("texts, tight", (3, 6, 1), PICTURE * 4, 8),
        Small("texts, streamed", (4, 6, 1), PICTURE * 3, 6),
        Small("batches that grow", (2, 6, 1), (text(), denoise(1), denoise(2), denoise(3), denoise(4)), 9),
        Small("pictures that grow and shrink", (2, 5, 1), (text(), *(denoise(n) for n in (1, 3, 5, 3, 1))), 8),
        Small("two checkpoints", (5, 5, 1), refine * 3, 9),
        Small("two checkpoints, room for both", (4, 4, 1), refine * 4, 12),
        Small("three in turn", (4, 4, 4), (denoise(1, 0), denoise(1, 1), denoise(1, 2)) * 4, 9),
        Small("three in turn, tight", (4, 4, 4), (denoise(1, 0), denoise(1, 1), denoise(1, 2)) * 4, 6),
        Small("one, then another for good", (5, 5, 1), (denoise(1, 0),) * 3 + (denoise(1, 1),) * 3, 7),
        Small("patches that change", (2, 5, 1), (text(), *(denoise(1, 1, n) for n in (1, 1, 2, 2, 1))), 9),
        Small("two passes", (2, 6, 1), (text(), *(denoise(1), denoise(3), decode(3)) * 3), 10),
        Small("a control", (3, 4, 1), (denoise(0, 0), denoise(1, 1), decode(2)) * 3, 9),
        Small("two texts between", (3, 3, 6), (Step(0), Step(1), denoise(1, 2)) * 3, 9),
    ]
