"""comfy.quant_ops: quantized tensors and layouts under their published names, and how a pack brings its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from limner.compat.homes.not_yet import placeholder
from limner.errors import BadInput
from limner.weights.quant import REGISTRY, Layout, Operation, Parts, QuantizedTensor, Rounding, note
from limner.weights.quant.layout import OF_INPUTS, seen_as

ck = placeholder("ck", "kernels")
LINEAR = torch.ops.aten.linear.default


class QuantizedLayout:
    """How floats are kept in fewer bits. A pack derives from it and registers the class in `LAYOUTS`."""

    @classmethod
    def quantize(cls, tensor: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """(numbers, parameters) of a tensor."""
        raise NotImplementedError

    @staticmethod
    def dequantize(qdata: Tensor, **params: Any) -> Tensor:
        """The tensor again."""
        raise NotImplementedError

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> Any:
        """The numbers and what belongs to them."""
        raise NotImplementedError


class _Known(QuantizedLayout):
    """A layout of Limner's as such a class. NAME: its name there."""

    NAME: ClassVar[str]

    @classmethod
    def quantize(cls, tensor: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """scale: of the numbers, by their largest where None. stochastic_rounding: a seed, 0 for none."""
        seed = kwargs.pop("stochastic_rounding", 0)
        layout = REGISTRY.find(cls.NAME)
        parts = layout.quantize(tensor, seed=seed or None, **kwargs)
        return parts.numbers, layout.to_params(parts)

    @classmethod
    def dequantize(cls, qdata: Tensor, **params: Any) -> Tensor:
        """The tensor again, in `orig_dtype`."""
        layout = REGISTRY.find(cls.NAME)
        return layout.dequantize(layout.from_params(qdata, params))

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> Any:
        """The numbers and their scales."""
        return tuple(qtensor.inner_tensors().values())


class TensorCoreFP8Layout(_Known):
    """Eight-bit floats with one scale for the tensor; dtype chooses between e4m3fn and e5m2."""

    NAME = "float8_e4m3fn"


class TensorCoreFP8E4M3Layout(_Known):
    """e4m3fn."""

    NAME = "float8_e4m3fn"


class TensorCoreFP8E5M2Layout(_Known):
    """e5m2."""

    NAME = "float8_e5m2"


SCALE = "weight_scale"


class PackLayout(Layout):
    """The class of a pack as a layout. What is registered for aten.linear on it does every layer's product.

    An entry of `QUANT_ALGOS` that names it says what files call it, and what they have beside a weight: `weight_scale`
    is the class's `scale`, all others have their own names.
    """

    elementwise = False
    slices = False
    storage = torch.uint8
    least_sqnr = 0.0

    def __init__(self, name: str, kind: type[QuantizedLayout]) -> None:
        self.name = name
        self.kind = kind
        self._format = name
        self.wanted: frozenset[str] = frozenset((SCALE,))
        self.stored = {"scale": SCALE}

    @property
    def format(self) -> str:
        """What files call it."""
        return self._format

    def said(self, algorithm: str, entry: Mapping[str, Any]) -> None:
        """What an entry of `QUANT_ALGOS` tells of it."""
        self._format, self.storage = algorithm, entry["storage_t"]
        self.wanted = frozenset(entry["parameters"]) - OF_INPUTS
        self.stored = {"scale" if name == SCALE else name: name for name in entry["parameters"]}
        self.block = entry.get("group_size", 0)

    def quantize(self, tensor: Tensor, **options: Any) -> Parts:
        """As the pack does it."""
        return self.from_params(*self.kind.quantize(tensor, **options))

    def requantized(self, parts: Parts, dense: Tensor, seed: int | None = None) -> Parts:
        """As the pack quantizes anew; it has no way to be told a seed."""
        del seed
        return self.from_params(*self.kind.quantize(dense.to(parts.dtype)))

    def dequantize(self, parts: Parts) -> Tensor:
        """As the pack does it."""
        known = {name: one for name, one in self.to_params(parts).items() if name not in OF_INPUTS}
        return self.kind.dequantize(parts.numbers, **known).reshape(parts.shape).to(parts.dtype)

    def from_file(
        self,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype = torch.bfloat16,
        shape: tuple[int, ...] | None = None,
        layer: str = "The layer",
        **plain: Any,
    ) -> Parts:
        """What a file has of it; which shapes belong together only the pack knows."""
        missing = sorted(({"weight"} | self.wanted) - tensors.keys())
        if missing:
            raise BadInput(f"{layer} lacks {missing[0]}.", why=f"A weight in {self.format} needs it.")
        numbers = seen_as(tensors["weight"], self.storage)
        if numbers.dtype != self.storage:
            raise BadInput(f"{layer}: weight has the dtype {numbers.dtype} instead of {self.storage}.")
        found = {name: tensors[key] for name, key in self.stored.items() if key in tensors}
        if self.block:
            plain["block_size"] = self.block
        return Parts(numbers, shape or self.shape_of(numbers), dtype, found, plain)

    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Any:
        """As the pack does it, to the nearest or however it rounds."""
        del rounding
        parts = self.quantize(matrix, **({} if scale is None else {"scale": scale}), **options)
        return parts.numbers, dict(parts.tensors), dict(parts.plain)

    def decode(self, parts: Parts) -> Tensor:
        """Seen as a matrix."""
        return self.dequantize(parts).float().reshape(parts.rows, parts.columns)

    def half_steps(self, parts: Parts) -> None:
        """A pack does not say."""
        del parts

    def shape_of(self, numbers: Tensor) -> tuple[int, ...]:
        """That of the numbers."""
        return tuple(numbers.shape)

    def from_params(self, numbers: Tensor, params: Any) -> Parts:
        """Its own parameters are kept as they are, an `orig_shape` among them."""
        parts = super().from_params(numbers, params)
        own = {} if params.get("orig_shape") is None else {"orig_shape": params["orig_shape"]}
        return Parts(parts.numbers, parts.shape, parts.dtype, parts.tensors, {**parts.plain, **own})

    def to_params(self, parts: Parts) -> dict[str, Any]:
        """As the pack gave them."""
        return {**parts.tensors, **parts.plain, "orig_dtype": parts.dtype}

    def linear(self, x: Tensor, parts: Parts, bias: Tensor | None = None) -> Tensor:
        """By what the pack registered; else the weight is dequantized, which is counted."""
        weight = QuantizedTensor.of(self, parts)
        own = REGISTRY.own(LINEAR, self)
        result = NotImplemented if own is None else own(LINEAR, (x, weight, bias), {})
        if isinstance(result, Tensor):
            return result
        note(self.name, str(LINEAR))
        return torch.nn.functional.linear(x, weight.dequantize().to(x.dtype), bias)


class _Layouts(MutableMapping[str, type[QuantizedLayout]]):
    """Layouts by the names that packs use; what is put here is registered."""

    def __init__(self) -> None:
        self._classes: dict[str, type[QuantizedLayout]] = {}

    def __getitem__(self, name: str) -> type[QuantizedLayout]:
        return self._classes[name]

    def __setitem__(self, name: str, kind: type[QuantizedLayout]) -> None:
        if "NAME" in kind.__dict__:
            REGISTRY.register(REGISTRY.find(kind.__dict__["NAME"]), name)
        else:
            REGISTRY.register(PackLayout(name, kind), replace=name in self._classes)
        self._classes[name] = kind
        QUANT_ALGOS.tell(name)

    def __delitem__(self, name: str) -> None:
        if "NAME" not in self._classes.pop(name).__dict__:
            REGISTRY.unregister(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def name_of(self, layout: str | type[QuantizedLayout]) -> str:
        """Of a name or a class, which is registered under its own name when it is not yet."""
        if isinstance(layout, str):
            return layout
        found = next((name for name, kind in self._classes.items() if kind is layout), None)
        if found is None:
            self[layout.__name__] = layout
        return found or layout.__name__


class _Algorithms(MutableMapping[str, dict[str, Any]]):
    """What files may say of a layer → how it is stored and in which layout; what is put here is understood in files."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._entries[name]

    def __setitem__(self, name: str, entry: dict[str, Any]) -> None:
        self._entries[name] = entry
        self.tell(entry["comfy_tensor_layout"])

    def __delitem__(self, name: str) -> None:
        layout = REGISTRY.get(self._entries.pop(name)["comfy_tensor_layout"])
        if isinstance(layout, PackLayout):
            REGISTRY.unname(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def tell(self, layout: str) -> None:
        """Let a pack's layout know what is said of it, whichever of the two came first."""
        found = REGISTRY.get(layout)
        for name, entry in self._entries.items():
            if isinstance(found, PackLayout) and entry["comfy_tensor_layout"] == layout:
                found.said(name, entry)
                REGISTRY.register(found, name)


QUANT_ALGOS = _Algorithms()
LAYOUTS = _Layouts()
LAYOUTS["TensorCoreFP8Layout"] = TensorCoreFP8Layout
LAYOUTS["TensorCoreFP8E4M3Layout"] = TensorCoreFP8E4M3Layout
LAYOUTS["TensorCoreFP8E5M2Layout"] = TensorCoreFP8E5M2Layout
REGISTRY.show_as("float8_e4m3fn", "TensorCoreFP8Layout")
REGISTRY.show_as("float8_e5m2", "TensorCoreFP8E5M2Layout")

QUANT_ALGOS.update(
    {
        "float8_e4m3fn": {
            "storage_t": torch.float8_e4m3fn,
            "parameters": {"weight_scale", "input_scale"},
            "comfy_tensor_layout": "TensorCoreFP8Layout",
        },
        "float8_e5m2": {
            "storage_t": torch.float8_e5m2,
            "parameters": {"weight_scale", "input_scale"},
            "comfy_tensor_layout": "TensorCoreFP8E5M2Layout",
        },
        "mxfp8": {
            "storage_t": torch.float8_e4m3fn,
            "parameters": {"weight_scale", "input_scale"},
            "comfy_tensor_layout": "mxfp8",
            "group_size": 32,
        },
        "nvfp4": {
            "storage_t": torch.uint8,
            "parameters": {"weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"},
            "comfy_tensor_layout": "nvfp4",
            "group_size": 16,
        },
        "int8_tensorwise": {
            "storage_t": torch.int8,
            "parameters": {"weight_scale"},
            "comfy_tensor_layout": "int8_tensorwise",
        },
    }
)


def register_layout_op(torch_op: Any, layout_type: str | type[QuantizedLayout]) -> Callable[[Operation], Operation]:
    """Decorator: a function (op, args, kwargs) does an operation of torch's on a layout, by its name or its class."""
    return REGISTRY.on(LAYOUTS.name_of(layout_type), torch_op)


def register_generic_util(torch_op: Any) -> Callable[[Operation], Operation]:
    """Decorator: the same on all layouts, before what is registered for one."""
    return REGISTRY.on_all(torch_op)
