"""Whether a file is what the guide to quantization states: written from the guide, with nothing of Limner's.

It reads the safetensors container by itself and knows names, dtypes and shapes of each format by a table.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
WIDE = ("F32", "F16", "BF16")
BESIDE = ("weight_scale", "weight_scale_2", "pre_quant_scale", "input_scale")
"""Q20: what may stand beside a weight."""
OLDER = ("scale_weight", "scale_input", "scaled_fp8")
"""Q26: names of the older form, which no file has with the newer."""
SAID = {"format", "group_size", "full_precision_matrix_mult", "activations", "orig_shape"}


@dataclass(frozen=True)
class Format:
    """storage: dtypes of the weight. scales: name → (dtypes, shape of it from rows and columns).

    packed: numbers a byte. block: columns are padded to it.
    """

    storage: tuple[str, ...]
    scales: dict[str, Any]
    packed: int = 1
    block: int = 1
    matrices: bool = False


def one(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return ((), (1,))


def by_row(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return ((rows, 1), (rows,))


def by_block(block: int) -> Any:
    return lambda rows, columns: ((rows, -(-columns // block)),)


FORMATS = {
    # Q21 and the list of formats that came later.
    "float8_e4m3fn": Format(("F8_E4M3", "U8"), {"weight_scale": (("F32",), one)}),
    "float8_e5m2": Format(("F8_E5M2", "U8"), {"weight_scale": (("F32",), one)}),
    "int8_tensorwise": Format(("I8",), {"weight_scale": (("F32",), one)}),
    "mxfp8": Format(("F8_E4M3",), {"weight_scale": (("U8", "F8_E8M0"), by_block(32))}, block=32),
    "nvfp4": Format(
        ("U8",),
        {"weight_scale": (("F8_E4M3",), by_block(16)), "weight_scale_2": (("F32",), one)},
        packed=2,
        block=16,
        matrices=True,
    ),
    # Beyond the guide, by the same rules.
    "float8_e4m3fn_rowwise": Format(("F8_E4M3",), {"weight_scale": (("F32",), by_row)}),
    "int8_rowwise": Format(("I8",), {"weight_scale": (("F32",), by_row)}),
    "int8_dynamic": Format(("I8",), {"weight_scale": (("F32",), by_row)}),
    "int4_groups": Format(("U8",), {"weight_scale": (("F32",), by_block(64))}, packed=2, block=64),
    "nf4": Format(("U8",), {"weight_scale": (("F32",), by_block(64))}, packed=2, block=64),
}


class Checked:
    """A file, and what is wrong with it: sentences."""

    def __init__(self, path: Path) -> None:
        self.wrong: list[str] = []
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        self.header: dict[str, Any] = json.loads(raw[8 : 8 + length])
        self.metadata: dict[str, Any] = self.header.pop("__metadata__", {})
        self.data = raw[8 + length :]
        self.layers: dict[str, dict[str, Any]] = {}
        self._container()
        self._metadata()
        self._in_band()
        for layer, said in self.layers.items():
            self._layer(layer, said)
        self._leftovers()

    def _say(self, holds: bool, sentence: str) -> None:
        if not holds:
            self.wrong.append(sentence)

    def _container(self) -> None:
        end = 0
        for name, entry in sorted(self.header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, last = entry["data_offsets"]
            size = math.prod(entry["shape"]) * SIZES[entry["dtype"]]
            self._say(begin == end and last - begin == size, f"{name} lies at {begin}…{last}")
            self._say(begin % SIZES[entry["dtype"]] == 0, f"{name} is not aligned")
            end = last
        self._say(end == len(self.data), "bytes are left over")
        self._say(all(isinstance(one, str) for one in self.metadata.values()), "metadata is not text")

    def _metadata(self) -> None:
        """Q22: a JSON text with a version and layers. Q23: objects with a format. Q24: names inside the network."""
        text = self.metadata.get("_quantization_metadata")
        if text is None:
            return
        told = json.loads(text)
        self._say(told.get("format_version") == "1.0", "the version is not 1.0")
        self._say(isinstance(told.get("layers"), dict), "there are no layers")
        prefix = "model.diffusion_model."
        inside = any(name.startswith(prefix) for name in self.header)
        for name, said in told["layers"].items():
            self._say(isinstance(said, dict) and isinstance(said.get("format"), str), f"{name} has no format")
            self._say(not name.startswith(prefix), f"{name} is not relative to the network")
            self.layers[prefix * inside + name] = said

    def _in_band(self) -> None:
        """Q25: bytes of JSON beside the weight."""
        for name, entry in self.header.items():
            if name.endswith(".comfy_quant"):
                self._say(entry["dtype"] == "U8" and len(entry["shape"]) == 1, f"{name} is no row of bytes")
                self.layers[name.removesuffix(".comfy_quant")] = json.loads(self._bytes(name).decode("utf-8"))

    def _bytes(self, name: str) -> bytes:
        begin, end = self.header[name]["data_offsets"]
        return self.data[begin:end]

    def _layer(self, layer: str, said: dict[str, Any]) -> None:
        form = FORMATS.get(said["format"])
        weight = self.header.get(f"{layer}.weight")
        if form is None or weight is None:
            self.wrong.append(f"{layer} has no weight or no known format")
            return
        self._say(not set(said) - SAID, f"{layer}: {set(said) - SAID} is said")
        self._say(weight["dtype"] in form.storage, f"{layer}.weight is {weight['dtype']}")
        shape = said.get("orig_shape", weight["shape"])
        if form.packed * form.block > 1 and "orig_shape" not in said:
            shape = [weight["shape"][0], weight["shape"][1] * form.packed]
        rows, columns = shape[0], math.prod(shape[1:])
        padded = -(-columns // form.block) * form.block
        stored = weight["shape"] if form.block == 1 else [rows, padded // form.packed]
        self._say(weight["shape"] == stored, f"{layer}.weight has the shape {weight['shape']}")
        self._say(not form.matrices or len(shape) == 2, f"{layer} is no matrix")
        for name, (dtypes, shapes) in form.scales.items():
            scale = self.header.get(f"{layer}.{name}")
            if scale is None:
                self.wrong.append(f"{layer}.{name} is missing")
                continue
            self._say(scale["dtype"] in dtypes, f"{layer}.{name} is {scale['dtype']}")
            self._say(tuple(scale["shape"]) in shapes(rows, padded), f"{layer}.{name} has the shape {scale['shape']}")
            if scale["dtype"] == "F32":
                values = np.frombuffer(self._bytes(f"{layer}.{name}"), np.float32)
                zero = said["format"] == "nf4"  # a block of zeros
                fine = np.isfinite(values).all() and ((values >= 0) if zero else (values > 0)).all()
                self._say(bool(fine), f"{layer}.{name} holds what is no scale")
        for name in ("input_scale", "pre_quant_scale"):
            entry = self.header.get(f"{layer}.{name}")
            self._say(entry is None or entry["dtype"] == "F32", f"{layer}.{name} is not float32")

    def _leftovers(self) -> None:
        for name, entry in self.header.items():
            layer, _, leaf = name.rpartition(".")
            self._say(leaf not in OLDER, f"{name} is of the older form")
            self._say(leaf not in BESIDE or layer in self.layers, f"{name} belongs to no quantized layer")
            packed = SIZES[entry["dtype"]] == 1 and leaf == "weight"
            self._say(not packed or layer in self.layers, f"{name} has one byte a number, and nothing says why")
