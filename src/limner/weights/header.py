"""What a checkpoint file holds: names, dtypes and shapes at once, the tensors when asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput, NotFound
from limner.weights.gguf import MAGIC, read_gguf
from limner.weights.lazy import LazyTensor
from limner.weights.mapped import MappedFile
from limner.weights.pickles import read_pickle
from limner.weights.safetensors import DTYPES, read_spans


@dataclass(frozen=True)
class CheckpointHeader:
    """Names → dtype, shape and lazy tensor, the file's metadata, and where it came from.

    Views (`select`, `rename`) share the tensors of the file. `identity` names the bytes: the same file unchanged has
    the same identity, whichever view of it is taken.
    """

    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    path: Path
    identity: str

    @classmethod
    def read(cls, path: str | Path, use_mmap: bool = True) -> CheckpointHeader:
        """Read the header of a safetensors, GGUF or pickled checkpoint; the format is told by the first bytes.

        Raises NotFound when there is no such file, BadInput when it is not a checkpoint that can be trusted.
        """
        path = Path(path)
        if not path.is_file():
            raise NotFound(f"{path} is not a file.", do="Check the name and the model folders.")
        stat = path.stat()
        identity = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:32]
        with path.open("rb") as file:
            start = file.read(64)
        # A safetensors header may be any length, so its first byte tells nothing; the brace after it does.
        if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:9] != b"{"):
            return cls(read_pickle(path, use_mmap), {}, path, identity)
        if start[:4] == MAGIC:
            return cls(*read_gguf(path, use_mmap), path, identity)
        _refuse_lookalikes(path, start)
        spans, metadata = read_spans(path)
        opened = MappedFile(path, use_mmap)
        tensors = {name: opened.lazy(span.offset, span.dtype, span.shape) for name, span in spans.items()}
        return cls(tensors, metadata, path, identity)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> CheckpointHeader:
        """Tensors that are in memory, seen as a file."""
        lazy = {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}
        return cls(lazy, metadata or {}, Path("memory"), f"memory-{id(lazy):x}")

    @classmethod
    def unstripped(cls, fixture: Mapping[str, Any], name: str = "fixture") -> CheckpointHeader:
        """A header of names, dtypes and shapes alone, `{"tensors": [[name, dtype, shape], …], "metadata": {}}`.

        Its tensors cannot be read: they come out as tensors without storage.
        """
        tensors = {key: _shape_only(DTYPES[dtype], tuple(shape)) for key, dtype, shape in fixture["tensors"]}
        return cls(tensors, dict(fixture.get("metadata", {})), Path(name), f"fixture-{name}")

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that must be there."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor that must be there."""
        return self._entry(name).dtype

    def tensor(self, name: str) -> Tensor:
        """The tensor itself: a view of the file where it is mapped. Do not write to it."""
        return self._entry(name).read()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every name and its shape."""
        return {name: entry.shape for name, entry in self.tensors.items()}

    def count(self, pattern: str) -> int:
        """How many different numbers stand in for `{}`: `count("blocks.{}.attn.qkv.weight")`."""
        expression = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)", 1) + r"\Z")
        return len({match[1] for name in self.tensors if (match := expression.match(name))})

    def select(self, prefix: str) -> CheckpointHeader:
        """The tensors whose names begin with `prefix`, without it."""
        if not prefix:
            return self
        chosen = {name[len(prefix) :]: entry for name, entry in self.tensors.items() if name.startswith(prefix)}
        return replace(self, tensors=chosen)

    def rename(self, new_name: Callable[[str], str | None]) -> CheckpointHeader:
        """The same tensors under other names; None leaves one out."""
        named = ((new_name(name), entry) for name, entry in self.tensors.items())
        return replace(self, tensors={name: entry for name, entry in named if name is not None})

    def nbytes(self) -> int:
        """Bytes of all tensors in the dtypes they are stored in."""
        return sum(entry.nbytes for entry in self.tensors.values())

    def _entry(self, name: str) -> LazyTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise BadInput(
                f"{self.path.name} has no tensor {name!r}.",
                why=f"It holds {len(self)} tensors of another layout.",
                do="`limner inspect` says what the file is.",
            ) from None


def _shape_only(dtype: torch.dtype, shape: tuple[int, ...]) -> LazyTensor:
    return LazyTensor(dtype, shape, lambda: torch.empty(shape, dtype=dtype, device="meta"))


def _refuse_lookalikes(path: Path, start: bytes) -> None:
    """Files that people download by mistake, told by name."""
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(
            f"{path.name} is a Git LFS pointer, not the model.",
            why="The repository was cloned without its large files.",
            do="Run `git lfs pull` in it, or download the file itself.",
        )
    if start.lstrip()[:1] == b"<" and start[8:9] != b"{":  # 60 is also the length of a very short header
        raise BadInput(
            f"{path.name} is a web page, not a model.",
            why="The download saved a log-in or error page under the model's name.",
            do="Download it again, logged in where the site asks for it.",
        )
