"""Where the memory of this process is: by device, in rows that add up to what the process has there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from limner.memory import backends
from limner.memory.backends.protocol import Backend
from limner.memory.holdings import Held, RunMemory

MIB = 1024**2
LIBRARIES = 256 * MIB
"""RAM that modules, vocabularies and threads are granted which came after the baseline was taken; nobody counts it."""
DRIVER = 1024 * MIB
"""RAM that an accelerator's driver and libraries are granted beside that."""
WORKSPACES = 64 * MIB
"""Memory of an accelerator that libraries such as cuBLAS are granted for themselves."""


class Books(Protocol):
    """What is asked of a memory manager."""

    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def baseline(self) -> int: ...  # noqa: D102
    def backend(self, device: torch.device) -> Backend: ...  # noqa: D102
    def cap(self, device: torch.device) -> int | None: ...  # noqa: D102
    def held(self) -> Sequence[Held]: ...  # noqa: D102
    def buffers(self, device: torch.device) -> int: ...  # noqa: D102
    def last_runs(self) -> Sequence[RunMemory]: ...  # noqa: D102


@dataclass(frozen=True)
class Row:
    """Bytes of one kind on a device; a network's are those of its weights that are there.

    network: what the manager says of it, for a network.
    """

    kind: str
    bytes: int
    network: Held | None = None

    def to_json(self) -> dict[str, Any]:
        """As the route tells it."""
        if self.network is None:
            return {"kind": self.kind, "bytes": self.bytes}
        more = {key: value for key, value in asdict(self.network).items() if key not in ("device", "resident")}
        return {"kind": self.kind, "bytes": self.bytes, **more}


def describe(manager: Books, results: Mapping[str, int], running: bool) -> dict[str, Any]:
    """What is where, as JSON. Bytes throughout.

    results: bytes of kept results by device. running: whether a prompt runs. Of each device: `process` is what this
    process has of its memory, and `rows` add up to that. One row, `unaccounted`, is what no other explains; it is
    negative where they explain more than there is.
    """
    held = manager.held()
    names = dict.fromkeys(["cpu", str(manager.device), *(one.device for one in held), *results])
    devices = [_device(manager, torch.device(name), held, results.get(name, 0), running) for name in names]
    return {"ready": True, "devices": devices, "runs": [asdict(run) for run in reversed(manager.last_runs())]}


def _device(manager: Books, device: torch.device, held: Sequence[Held], results: int, running: bool) -> dict[str, Any]:
    backend = manager.backend(device)
    is_cpu = device.type == "cpu"
    process = backend.used(device) + (0 if is_cpu else backend.held(device))
    rows = [Row("network", one.resident, one) for one in held if one.device == str(device)]
    rows += [Row("buffers", manager.buffers(device)), Row("results", results)]
    if is_cpu:
        rows += [Row("pinned", sum(one.pinned for one in held)), Row("baseline", manager.baseline)]
        granted = LIBRARIES + (DRIVER if backends.accelerators() else 0)
    else:
        granted = WORKSPACES
    left = process - sum(row.bytes for row in rows)
    working = running or any(one.in_use for one in held)
    rows += _rest(left, backend.held(device), granted, working)
    return {
        "device": str(device),
        "name": backend.name(device),
        "unified": backend.is_unified(device),
        "total": backend.total(device),
        "free": backend.free(device),
        "cap": manager.cap(device),
        "process": process,
        "rows": [row.to_json() for row in rows],
    }


def _rest(left: int, allocator: int, granted: int, working: bool) -> Iterator[Row]:
    """What is left once the things that are counted are: first what the allocator holds unused, as far as it is there.

    Then what libraries may have taken. What still remains is a computation's, or nobody's where none runs.
    """
    for kind, most in (("allocator", allocator), ("libraries", granted), ("working", left if working else 0)):
        taken = min(max(0, left), max(0, most))
        yield Row(kind, taken)
        left -= taken
    yield Row("unaccounted", left)
