"""A golden case as a value: its file, metadata, tensors, seeded weights; and what a runner answers."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tests.golden import weights


class UnsupportedCaseError(Exception):
    """This runner does not know this case; another one may."""


@dataclass(frozen=True)
class Check:
    """One output held against what is expected; `error` None for an output that is not supported."""

    name: str
    error: float | None
    tolerance: float = 0.0

    @property
    def passed(self) -> bool:
        # a NaN error is no pass
        return self.error is None or self.error <= self.tolerance

    @property
    def severity(self) -> float:
        """How much of its tolerance the error takes up: what the worst of several checks is chosen by."""
        if self.error is None:
            return -1.0
        if math.isnan(self.error):
            return math.inf
        return self.error / self.tolerance if self.tolerance else (math.inf if self.error else 0.0)


def unsupported(name: str) -> Check:
    return Check(name, None)


@lru_cache(maxsize=1)
def seeded(manifest_path: Path, seed: int) -> dict[str, Tensor]:
    """The weights of a manifest; refuses one whose digests differ, as then nothing can be judged."""
    manifest = weights.read_manifest(manifest_path)
    if differing := weights.wrong(manifest):
        raise ValueError(f"The weights' rule gives other tensors than the manifest says: {differing}")
    return {key: torch.from_numpy(array) for key, array in weights.tensors(manifest, seed)}


@dataclass(frozen=True)
class Case:
    """One case file of a family's folder."""

    path: Path
    folder: Path

    @cached_property
    def data(self) -> dict[str, Any]:
        """The contents of a JSON case."""
        raw = gzip.decompress(self.path.read_bytes()) if self.path.suffix == ".gz" else self.path.read_bytes()
        return json.loads(raw)  # type: ignore[no-any-return]

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The metadata of a safetensors case; what is JSON is parsed."""
        with safe_open(self.path, "pt") as file:
            return {name: _parsed(value) for name, value in (file.metadata() or {}).items()}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Everything under `in.`, and the inputs that are made by the weights' rule."""
        made = {
            name: torch.from_numpy(weights.tensor(rule["key"], rule["shape"], rule["kind"], rule["seed"]))
            for name, rule in self.metadata.get("inputs_by_rule", {}).items()
        }
        return {name[3:]: tensor for name, tensor in self.tensors.items() if name.startswith("in.")} | made

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """Everything under `out.`."""
        return {name[4:]: tensor for name, tensor in self.tensors.items() if name.startswith("out.")}

    @property
    def config(self) -> dict[str, Any]:
        return self.metadata.get("config", {})  # type: ignore[no-any-return]

    def manifest(self, name: str = "manifest") -> dict[str, Any]:
        """One of the manifests that the case's weights are made from."""
        file = self.metadata.get("weights", {}).get(name)
        if file is None:
            raise UnsupportedCaseError(f"The case names no weights {name!r}.")
        return weights.read_manifest(self.folder / file)

    def shapes(self, name: str = "manifest") -> dict[str, tuple[int, ...]]:
        return {key: tuple(size) for key, size, _ in self.manifest(name)["tensors"]}

    def state_dict(self, name: str = "manifest") -> dict[str, Tensor]:
        """The seeded weights, shared by cases of the same manifest: not to be written to."""
        self.manifest(name)  # refuses a name that the case does not have
        made_from = self.metadata["weights"]
        return seeded(self.folder / made_from[name], made_from.get("seed", 1))

    def tolerance(self, name: str) -> float:
        """The allowed error of an output; 0 where none is stated."""
        allowed = self.metadata.get("atol", {})
        if not isinstance(allowed, Mapping):
            return float(allowed)
        return float(allowed.get(name, allowed.get("*", 0.0)))

    def check(self, name: str, found: Tensor) -> Check:
        """An output held against the case's."""
        return Check(name, difference(found, self.expected[name]), self.tolerance(name))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    return float((found.double() - expected.double()).abs().max())


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
