"""Checkpoints pickled by torch.save (.ckpt .pt .pth .bin), read without running anything they contain.

A pickle is a program that may call any function it can name. Here it can name a dozen inert stand-ins and nothing
else: tensors come out as descriptions of where their numbers lie in the file, and any other name refuses the file.
Both formats are read: the zip archive of torch ≥ 1.6 and the plain sequence of pickles before it.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.lazy import LazyTensor
from limner.weights.mapped import MappedFile

MAX_PICKLE = 64 * 1024 * 1024
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_CONVERT = (
    "Convert it to safetensors on a machine where you trust the file, or find a safetensors version of the model; "
    "a pickle with other objects in it could run code."
)


@dataclass(frozen=True)
class _Storage:
    """A block of numbers named by the pickle; `view` is an (offset, size) slice of it in elements."""

    key: str
    dtype: torch.dtype
    size: int
    start: int = 0


@dataclass(frozen=True)
class _Pickled:
    """A tensor as the pickle describes it."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Ignored:
    """Stands for a value that no model needs: a number of numpy's, a device. Takes what it is given and forgets it."""

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def read_pickle(path: Path, use_mmap: bool = True) -> dict[str, LazyTensor]:
    """The tensors of a pickled checkpoint, by name; a nested `state_dict` is taken for the whole.

    Raises BadInput when the pickle names anything but tensors and plain containers, or is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path, use_mmap)
        return _read_legacy(path, use_mmap)
    except BadInput:
        raise
    except (pickle.UnpicklingError, ValueError, EOFError, TypeError, AttributeError, IndexError) as error:
        raise _bad(path, f"{type(error).__name__}: {error}.") from error
    except (KeyError, OverflowError, MemoryError, RecursionError, zipfile.BadZipFile) as error:
        raise _bad(path, f"{type(error).__name__}: {error}.") from error


def _bad(path: Path, why: str, do: str = "The file is damaged or is not a torch checkpoint; get it again.") -> BadInput:
    return BadInput(f"{path.name} cannot be read as a pickled checkpoint.", why=why, do=do)


class _Restricted(pickle.Unpickler):
    """Knows tensors and plain containers. Each name gives a fresh stand-in, so that a pickle that sets attributes on
    what it was given changes nothing that outlives the reading."""

    def __init__(self, path: Path, data: io.BytesIO) -> None:
        super().__init__(data, encoding="latin1")
        self._path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return partial(_storage_type, _STORAGES[name])
        made = _stand_in(f"{module}.{name}")
        if made is None:
            raise _refused(self._path, f"{module}.{name}")
        return made

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], partial):
            raise pickle.UnpicklingError(f"unknown reference {str(pid)[:80]!r}")
        dtype, key, size = pid[1].args[0], str(pid[2]), pid[4]
        if type(size) is not int or size < 0:
            raise pickle.UnpicklingError(f"a storage of {size!r} elements")
        root = self.storages.setdefault(key, _Storage(key, dtype, size))
        if len(pid) > 5 and pid[5] is not None:  # the legacy format's view of another storage
            _, start, length = pid[5]
            return _Storage(key, dtype, int(length), int(start))
        return root


def _refused(path: Path, name: str) -> BadInput:
    return BadInput(
        f"{path.name} was refused: its pickle names {name}.",
        why="Only tensors and plain containers are read from a pickle.",
        do=_CONVERT,
    )


def _storage_type(dtype: torch.dtype, *_: Any) -> NoReturn:
    raise pickle.UnpicklingError(f"a bare {dtype} storage outside a tensor")


def _stand_in(name: str) -> Callable[..., Any] | None:
    """The inert function that stands for a global of the pickle; None for one that is not allowed."""
    if name == "collections.OrderedDict":
        return OrderedDict
    if name in ("collections.defaultdict", "builtins.dict", "__builtin__.dict"):
        return partial(_plain_dict)
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return partial(_tensor)
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return partial(_first)
    if name.startswith("torch.") and isinstance(getattr(torch, name[6:], None), torch.dtype):
        return partial(_ignored)
    if name in _HARMLESS:
        return partial(_ignored)
    return None


# Values of training scripts that hold no tensors; nothing of them is built.
_HARMLESS = frozenset(
    {
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "_codecs.encode",
        "builtins.set",
        "__builtin__.set",
        "torch.Size",
        "torch.device",
    }
)


def _ignored(*_: Any, **__: Any) -> _Ignored:
    return _Ignored()


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _first(data: Any, *_: Any) -> Any:
    return data


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Pickled:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError(f"a tensor of shape {shape!r} and stride {stride!r}")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if prod(shape) and last >= storage.size:
        raise pickle.UnpicklingError(f"a tensor of shape {shape!r} reaches past its storage of {storage.size}")
    return _Pickled(storage, storage.dtype, offset, tuple(shape), tuple(stride))


def _load(path: Path, data: io.BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """One pickle from where `data` stands; checked opcode by opcode before it is run."""
    start, limit = data.tell(), data.getbuffer().nbytes
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("INST", "EXT1", "EXT2", "EXT4"):
            raise _refused(path, str(argument))
        # A memo index is an allocation of that many pointers.
        if opcode.name in ("LONG_BINPUT", "PUT") and int(argument or 0) > limit:
            raise pickle.UnpicklingError(f"memo index {argument}")
    data.seek(start)
    unpickler = _Restricted(path, data)
    return unpickler.load(), unpickler.storages


def _read_zip(path: Path, use_mmap: bool) -> dict[str, LazyTensor]:
    file = MappedFile(path, use_mmap)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _bad(path, "It is a zip archive without exactly one data.pkl in it.")
        if members[pickles[0]].file_size > MAX_PICKLE:
            raise _bad(path, f"Its data.pkl has {members[pickles[0]].file_size:,} bytes.")
        root = pickles[0].removesuffix("data.pkl")
        order = root + "byteorder"
        if order in members and members[order].file_size < 16 and archive.read(order) == b"big":
            raise _bad(path, "It was written on a big-endian machine.", _CONVERT)
        value, storages = _load(path, io.BytesIO(archive.read(pickles[0])))
    offsets: dict[str, int] = {}
    for key, storage in storages.items():
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise _bad(path, f"The numbers of storage {key!r} are missing.")
        if member.compress_type != zipfile.ZIP_STORED:
            raise _bad(path, "Its tensors are compressed.", _CONVERT)
        offsets[key] = _member_offset(path, member)
        if storage.size * storage.dtype.itemsize > member.file_size or offsets[key] + member.file_size > file.size:
            raise _bad(path, f"Storage {key!r} should hold {storage.size} numbers; {member.file_size} bytes are there.")
    return _lazy_all(path, value, file, offsets)


def _member_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: after its local header, whose name and extra field vary in length."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise _bad(path, f"The archive's entry for {member.filename!r} is damaged.")
    return member.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def _read_legacy(path: Path, use_mmap: bool) -> dict[str, LazyTensor]:
    file = MappedFile(path, use_mmap)
    with path.open("rb") as opened:
        data = io.BytesIO(opened.read(MAX_PICKLE))
    magic, _ = _load(path, data)
    if magic != _LEGACY_MAGIC:
        raise _bad(path, "It does not begin as a file written by torch.save does.")
    protocol, _ = _load(path, data)
    if protocol != _LEGACY_PROTOCOL:
        raise _bad(path, f"It has the protocol {protocol!r}; {_LEGACY_PROTOCOL} is known.")
    _load(path, data)  # sizes of C types on the machine that wrote it: of no use
    value, storages = _load(path, data)
    keys, _ = _load(path, data)
    offsets: dict[str, int] = {}
    position = data.tell()
    with path.open("rb") as opened:
        for key in map(str, keys):
            opened.seek(position)
            count = int.from_bytes(opened.read(8), "little")
            if key not in storages:
                raise _bad(path, f"It lists storage {key!r}, which nothing uses.")
            offsets[key] = position + 8
            position += 8 + count * storages[key].dtype.itemsize
            if count < storages[key].size or position > file.size:
                raise _bad(path, f"The numbers of storage {key!r} end after byte {file.size}, where the file ends.")
    return _lazy_all(path, value, file, offsets)


def _lazy_all(path: Path, value: Any, file: MappedFile, offsets: Mapping[str, int]) -> dict[str, LazyTensor]:
    state = value
    for nested in ("state_dict", "model", "params_ema", "params"):
        if isinstance(state, dict) and isinstance(state.get(nested), dict) and not _has_tensors(state):
            state = state[nested]
    if not isinstance(state, dict):
        raise _bad(path, f"It holds a {type(value).__name__}, not a dictionary of tensors.")
    found: dict[str, LazyTensor] = {}
    for name, entry in state.items():
        if isinstance(entry, _Pickled):
            found[str(name)] = _lazy(entry, file, offsets)
        elif isinstance(entry, dict):  # a textual inversion keeps its vectors one level down
            found |= {f"{name}.{key}": _lazy(item, file, offsets) for key, item in _tensors_of(entry).items()}
    return found


def _has_tensors(state: Mapping[Any, Any]) -> bool:
    return any(isinstance(entry, _Pickled) for entry in state.values())


def _tensors_of(state: Mapping[Any, Any]) -> dict[str, _Pickled]:
    return {str(name): entry for name, entry in state.items() if isinstance(entry, _Pickled)}


def _lazy(entry: _Pickled, file: MappedFile, offsets: Mapping[str, int]) -> LazyTensor:
    storage, itemsize = entry.storage, entry.dtype.itemsize
    if storage.key not in offsets:
        raise pickle.UnpicklingError(f"the numbers of storage {storage.key!r} are missing")
    count = prod(entry.shape) and 1 + sum((n - 1) * step for n, step in zip(entry.shape, entry.stride, strict=True))
    offset = offsets[storage.key] + (storage.start + entry.offset) * itemsize

    def read() -> Tensor:
        return file.tensor(offset, entry.dtype, (count,)).as_strided(entry.shape, entry.stride)

    in_order = torch.empty_strided(entry.shape, entry.stride, device="meta").is_contiguous()
    is_view = in_order and file.is_view(offset, entry.dtype)
    return LazyTensor(entry.dtype, entry.shape, read, lambda: file.release(offset, count * itemsize), is_view)
