"""Results as bytes and back, exactly: tensors as safetensors, the rest as JSON. What cannot be exact is not stored."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

FORMAT = "limner-result-1"
DEEPEST = 40
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Names of torch's element types in a safetensors header."""


class NotStorable(Exception):
    """A value that would not come back as it was: a model, a subclass, a tensor on another device."""


def encode(outputs: tuple[list[Any], ...]) -> bytes:
    """The output slots of a node as the bytes of a safetensors file. Raises NotStorable."""
    tensors: list[Any] = []
    structure = [[_plain(value, tensors, 0) for value in slot] for slot in outputs]
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "values": json.dumps(structure)}}
    parts: list[bytes] = []
    end = 0
    for i, tensor in enumerate(tensors):
        data = _tensor_bytes(tensor)
        dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[str(i)] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *parts))


def decode(data: bytes) -> tuple[list[Any], ...]:
    """The output slots that `encode` was given. Raises ValueError and the like for anything else."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    meta = header["__metadata__"]
    if meta["format"] != FORMAT:
        raise ValueError(f"The format is {meta['format']}, not {FORMAT}.")
    tensors: Mapping[str, Any] = {}
    if len(header) > 1:
        from safetensors.torch import load  # noqa: PLC0415 - torch is imported when a result with tensors is read

        tensors = load(data)
    return tuple([_value(one, tensors) for one in slot] for slot in json.loads(meta["values"]))


def _plain(value: Any, tensors: list[Any], depth: int) -> Any:
    """A value as JSON: plain ones as they are, others as a list that begins with what they are."""
    if depth > DEEPEST:
        raise NotStorable("too deep")
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else ["f", repr(value)]
    if kind is bytes:
        return ["b", base64.b64encode(value).decode()]
    if kind is list or kind is tuple:
        return ["l" if kind is list else "t", *(_plain(one, tensors, depth + 1) for one in value)]
    if kind is dict and all(type(key) is str for key in value):
        return ["d", *([key, _plain(one, tensors, depth + 1)] for key, one in value.items())]
    torch = sys.modules.get("torch")
    if torch is None or kind is not torch.Tensor:
        raise NotStorable(kind.__name__)
    for i, known in enumerate(tensors):
        if known is value:
            return ["x", i]
    tensors.append(value)
    return ["x", len(tensors) - 1]


def _tensor_bytes(tensor: Any) -> bytes:
    torch = sys.modules["torch"]
    strided = tensor.layout is torch.strided and tensor.device.type == "cpu"
    plain = not (tensor.requires_grad or tensor.is_quantized)
    if not (strided and plain and str(tensor.dtype).removeprefix("torch.") in DTYPES):
        raise NotStorable(f"a tensor of {tensor.dtype} on {tensor.device}")
    data: bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def _value(plain: Any, tensors: Mapping[str, Any]) -> Any:
    if type(plain) is not list:
        return plain
    match plain[0]:
        case "l":
            return [_value(one, tensors) for one in plain[1:]]
        case "t":
            return tuple(_value(one, tensors) for one in plain[1:])
        case "d":
            return {key: _value(one, tensors) for key, one in plain[1:]}
        case "x":
            return tensors[str(plain[1])]
        case "f":
            return float(plain[1])
        case "b":
            return base64.b64decode(plain[1])
    raise ValueError(f"{plain[0]!r} is no kind of value.")
