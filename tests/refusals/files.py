"""Broken model files: how each is made, and the words its refusal must say."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BrokenFile:
    """A file that must be refused: its name (the ending decides the reader), its bytes, words of the refusal."""

    name: str
    file: str
    make: Callable[[], bytes]
    says: tuple[str, ...]


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, whose stated length may lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: Any = (2,), span: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    """A header of one tensor."""
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}}


class Calls:
    """Pickles as a call of a function with arguments: what an attacker writes."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def pickled(self) -> bytes:
        """The pickle, made by hand so that nothing is imported here."""
        body = b"\x80\x02c" + f"{self.module}\n{self.name}\n".encode()
        return body + pickle.dumps(self.arguments, 2)[2:-1] + b"R."


def archive(data: bytes) -> bytes:
    """A zip as torch.save writes it, around this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
    return buffer.getvalue()


def zip_without_pickle() -> bytes:
    """A zip that torch.save did not write."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", b"hello")
    return buffer.getvalue()


TWO = b"\0" * 8
FILES = (
    BrokenFile("an empty file", "a.safetensors", lambda: b"", ("a.safetensors",)),
    BrokenFile("seven bytes", "a.safetensors", lambda: b"1234567", ("a.safetensors",)),
    BrokenFile("a header longer than the file", "a.safetensors", lambda: safetensors({}, length=10**6), ("a.safetensors", "header")),
    BrokenFile("a header of 2^63 bytes", "a.safetensors", lambda: safetensors({}, length=2**63), ("header",)),
    BrokenFile("a header that is no JSON", "a.safetensors", lambda: safetensors(b"{not json"), ("JSON",)),
    BrokenFile("a header that is no text", "a.safetensors", lambda: safetensors(b"\xff\xfe\xfd"), ("header",)),
    BrokenFile("a header that is a list", "a.safetensors", lambda: safetensors([1, 2]), ("header",)),
    BrokenFile("a tensor that is a number", "a.safetensors", lambda: safetensors({"x": 3}), ("x",)),
    BrokenFile("a truncated file", "a.safetensors", lambda: safetensors(tensor((4,), (0, 16)), TWO), ("x",)),
    BrokenFile("a span that runs backwards", "a.safetensors", lambda: safetensors(tensor((2,), (8, 0)), TWO), ("x",)),
    BrokenFile("a span below zero", "a.safetensors", lambda: safetensors(tensor((2,), (-8, 0)), TWO), ("x",)),
    BrokenFile("a span that is a text", "a.safetensors", lambda: safetensors(tensor((2,), ("a", "b")), TWO), ("x",)),
    BrokenFile("a shape that does not fit its span", "a.safetensors", lambda: safetensors(tensor((3,)), TWO), ("x",)),
    BrokenFile("a shape below zero", "a.safetensors", lambda: safetensors(tensor((-2,)), TWO), ("x",)),
    BrokenFile("a shape beyond all memory", "a.safetensors", lambda: safetensors(tensor((2**40, 2**40)), TWO), ("x",)),
    BrokenFile("an unknown dtype", "a.safetensors", lambda: safetensors(tensor(dtype="Q7"), TWO), ("Q7",)),
    BrokenFile(
        "two tensors on one span", "a.safetensors",
        lambda: safetensors({**tensor(), "y": tensor()["x"]}, TWO), ("share",),
    ),
    BrokenFile(
        "metadata that is no text", "a.safetensors",
        lambda: safetensors({"__metadata__": {"a": 1}, **tensor()}, TWO), ("metadata",),
    ),
    BrokenFile("a pickle that runs a command", "a.ckpt", lambda: Calls("os", "system", "true").pickled(), ("os.system",)),
    BrokenFile("a zipped pickle that runs a command", "a.ckpt", lambda: archive(Calls("posix", "system", "true").pickled()), ("posix.system",)),
    BrokenFile("a pickle that evaluates", "a.pt", lambda: archive(Calls("builtins", "eval", "1").pickled()), ("builtins.eval",)),
    BrokenFile("a pickle that opens a process", "a.pth", lambda: archive(Calls("subprocess", "Popen", ["true"]).pickled()), ("subprocess.Popen",)),
    BrokenFile("a truncated pickle", "a.bin", lambda: archive(b"\x80\x02}q\x00X\x05"), ("a.bin",)),
    BrokenFile("a zip without a pickle", "a.ckpt", zip_without_pickle, ("a.ckpt",)),
    BrokenFile("a text file", "a.ckpt", lambda: b"<html>404 not found</html>", ("a.ckpt",)),
    BrokenFile("a pickle of a list", "a.pt", lambda: archive(pickle.dumps([1, 2, 3], 2)), ("a.pt",)),
    BrokenFile("a page saved as a model", "a.safetensors", lambda: b"<!DOCTYPE html><html>no</html>", ("a.safetensors",)),
)  # fmt: skip
