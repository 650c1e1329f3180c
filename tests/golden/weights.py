"""Seeded weights of the golden cases: a tensor is a function of (seed, key, shape, kind) and of nothing else.

A counter-based generator (numpy's Philox) is keyed by blake2b-128 of "seed:key", read as a little-endian integer; it
draws one float32 normal per element in C order, which the kind scales:

    matrix             n / √(product of the shape after the first axis)
    matrix_t           n / √(first axis)
    norm               1 + 0.1 n
    norm0              0.1 n
    bias               0.05 n
    embed              0.5 n
    normal:STD         STD n
    normal:MEAN:STD    MEAN + STD n
    const:V            V
    arange             0, 1, 2 … as int64
    uniform:LO:HI      uniform in [LO, HI) instead of normal
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def generator(seed: int, key: str) -> np.random.Generator:
    """The generator of one tensor."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def tensor(key: str, shape: Sequence[int], kind: str, seed: int) -> Array:
    """The tensor named `key`: float32, or int64 for `arange`."""
    size = tuple(int(side) for side in shape)
    name, *numbers = kind.split(":")
    values = [float(number) for number in numbers]
    if name == "const":
        return np.full(size, values[0], np.float32)
    if name == "arange":
        return np.arange(math.prod(size), dtype=np.int64).reshape(size)
    random = generator(seed, key)
    if name == "uniform":
        low, high = values
        return (np.float32(low) + np.float32(high - low) * random.random(size, np.float32)).astype(np.float32)
    scale, offset = {
        "matrix": lambda: (1 / math.sqrt(max(1, math.prod(size[1:]))), 0.0),
        "matrix_t": lambda: (1 / math.sqrt(max(1, size[0])), 0.0),
        "norm": lambda: (0.1, 1.0),
        "norm0": lambda: (0.1, 0.0),
        "bias": lambda: (0.05, 0.0),
        "embed": lambda: (0.5, 0.0),
        "normal": lambda: (values[-1], values[0] if len(values) > 1 else 0.0),
    }[name]()
    normal = np.asarray(random.standard_normal(size, np.float32), np.float32).reshape(size)
    normal *= np.float32(scale)
    if offset:
        normal += np.float32(offset)
    return normal


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest: {"tensors": [[key, shape, kind], …], "config": …, "check": …}, plain or gzipped."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    manifest: dict[str, Any] = json.loads(data)
    return manifest


def tensors(manifest: Mapping[str, Any], seed: int) -> Iterator[tuple[str, Array]]:
    """All tensors of a manifest, made one at a time."""
    for key, shape, kind in manifest["tensors"]:
        yield key, tensor(key, shape, kind, seed)


def wrong(manifest: Mapping[str, Any]) -> list[str]:
    """The keys whose tensors differ from the digests that the manifest keeps."""
    check = manifest.get("check") or {}
    entries = {key: (shape, kind) for key, shape, kind in manifest["tensors"]}
    found = []
    for key, digest in check.get("blake2b", {}).items():
        data = np.ascontiguousarray(tensor(key, *entries[key], check["seed"])).tobytes()
        if hashlib.blake2b(data, digest_size=16).hexdigest() != digest:
            found.append(key)
    return found
