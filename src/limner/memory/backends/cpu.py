"""The CPU: memory is what the computer has or a control group allows, in use is what is private to this process."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter

import psutil
import torch

from limner.errors import LimnerError
from limner.memory import cgroups
from limner.memory.backends.peak import Peaks
from limner.memory.backends.protocol import Capabilities, Stream

FASTER = 1.25
"""How much faster than float32 a dtype must be on the CPU to be worth its lost digits."""
STATUS = Path("/proc/self/status")


class CpuBackend:
    """One device, the computer's own."""

    kind = "cpu"

    def __init__(self) -> None:
        self._peaks = Peaks(self.used)
        self._given_back = 0

    def count(self) -> int:
        """There is always one."""
        return 1

    def name(self, device: torch.device) -> str:
        """The processor's, where the system tells."""
        del device
        return cpu_fields().get("model name") or platform.processor() or platform.machine() or "CPU"

    def capabilities(self, device: torch.device) -> Capabilities:
        """float32, and bfloat16 where it is measured to be faster."""
        del device
        return Capabilities("cpu", bf16=has_native_bf16(), fp16=False)

    def is_unified(self, device: torch.device) -> bool:
        """Always."""
        del device
        return True

    def total(self, device: torch.device) -> int:
        """Bytes of memory that the computer has, or that the smallest limit of a control group allows."""
        del device
        total = int(psutil.virtual_memory().total)
        limit = cgroups.limit()
        return total if limit is None else min(total, limit)

    def free(self, device: torch.device) -> int:
        """Bytes that can still be allocated. File pages that can be dropped count, what malloc holds does not.

        malloc still counts as its own what `trim` gave back, so that adding it would promise memory twice.
        """
        del device
        available = int(psutil.virtual_memory().available)
        limit = cgroups.available()
        return available if limit is None else min(available, limit)

    def used(self, device: torch.device) -> int:
        """Private resident bytes of this process: mapped files, which can be read again, do not count."""
        del device
        return private_bytes()

    def held(self, device: torch.device) -> int:
        """Bytes that malloc keeps for later; 0 where the C library does not tell.

        malloc counts what `trim` gave back as kept. So only what it keeps beyond that is told, or beyond the least that
        was seen since: what it handed out again is there again.
        """
        del device
        kept = _kept_by_malloc()
        self._given_back = min(self._given_back, kept)
        return kept - self._given_back

    def trim(self, device: torch.device) -> None:
        """Give back what malloc keeps, where the C library can."""
        del device
        function = _c_function("malloc_trim")
        if function is not None:
            function(ctypes.c_size_t(0))
            self._given_back = _kept_by_malloc()

    def cap(self, device: torch.device, nbytes: int) -> None:
        """Nothing: malloc knows no limit short of one that would count mapped files too."""
        del device, nbytes

    def start_peak(self, device: torch.device) -> None:
        """Measure the peak of `used` from here on, by looking at it every 10 ms."""
        self._peaks.start(device)

    def peak(self, device: torch.device) -> int:
        """The highest `used` since `start_peak`; the measurement ends."""
        return self._peaks.peak(device)

    def synchronize(self, device: torch.device) -> None:
        """Nothing: what the CPU was given is done when the call returns."""
        del device

    def stream(self, device: torch.device) -> Stream | None:
        """None: copies and computation are one queue."""
        del device
        return None

    def current(self, device: torch.device) -> Stream:
        """Raises LimnerError: `stream` gives none."""
        raise LimnerError(f"{device} has no streams.", why="Its work is done in order.")

    def pinning(self) -> None:
        """None: no copy crosses a bus."""


BACKEND = CpuBackend()


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, malloc.h. fordblks: bytes in free blocks of all arenas."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def _kept_by_malloc() -> int:
    function = _c_function("mallinfo2")
    if function is None:
        return 0
    function.restype = _MallInfo
    return int(function().fordblks)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h: from how many free bytes at its end on a heap shrinks, and from which size on memory is mapped."""
MAPPED_FROM, MAPPED_ONLY_FROM, SHRINKS_FROM = 1 << 18, 1 << 25, 1 << 26
"""While weights are made, and otherwise: what glibc comes to by itself after the first large block was freed."""


@contextmanager
def pages_of_their_own() -> Iterator[None]:
    """Large blocks that are allocated inside the block have pages of their own, and give them back when they are freed.

    Weights stay and what they are made from goes. In a heap both lie side by side, and the gaps are too small for the
    next weight: 2.2 GB of them after SDXL was loaded in float32 with a LoRA. Activations come and go in order, and are
    better off in the heap, whose pages need not be cleared anew each time.
    """
    function = _c_function("mallopt")
    if function is None:
        yield
        return
    function(M_MMAP_THRESHOLD, MAPPED_FROM)
    try:
        yield
    finally:
        function(M_MMAP_THRESHOLD, MAPPED_ONLY_FROM)
        function(M_TRIM_THRESHOLD, SHRINKS_FROM)


@cache
def _c_function(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library that the process runs with; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def private_bytes(status: Path = STATUS) -> int:
    """Resident bytes of this process that belong to no file.

    Linux tells them in some 50 µs. Elsewhere the private bytes of Windows, or all that is resident.
    """
    try:
        lines = status.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "private", memory.rss))


@cache
def has_native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, and that is faster than float32.

    The instruction alone says too little: AMX and AMD's AVX512-BF16 do twice to ten times float32's work, Intel's
    AVX512-BF16 where AMX is switched off (as some hypervisors do) about half of it. So a CPU that has the instruction
    is measured once a process, for some 40 ms. The two kinds lie so far apart that a busy machine does not blur them.
    """
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}) and matmul_ratio(torch.bfloat16) > FASTER


def matmul_ratio(dtype: torch.dtype, side: int = 512, rounds: int = 10) -> float:
    """How many times as fast as float32 this CPU multiplies square matrices of `dtype`; the best of several rounds."""
    best = dict.fromkeys((torch.float32, dtype), float("inf"))
    with torch.inference_mode():
        matrices = {one: torch.ones(side, side, dtype=one) for one in best}
        for _ in range(rounds):
            for one, matrix in matrices.items():
                start = perf_counter()
                torch.mm(matrix, matrix)
                best[one] = min(best[one], perf_counter() - start)
    return best[torch.float32] / best[dtype]


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of this CPU as Linux names them; empty where it is not known.

    Apple's CPUs have bfloat16 too, but torch has no kernels of it for them: nothing is known of them here.
    """
    fields = cpu_fields()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


@cache
def cpu_fields() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    fields: dict[str, str] = {}
    for line in file.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields
