"""A tensor in a layout that is a torch.Tensor: it goes wherever a weight goes, and is multiplied as its layout does it.

To torch it has the shape and dtype of what it stands for; its bytes are those of its inner tensors. An operation is
done by the first that knows it: what is registered for all layouts, for this layout, for its classes; then torch's own
parts of it; else the tensor is dequantized for the operation, which is counted and told (`counting_fallbacks`).

A dtype that is asked of it changes only what it will be dequantized to. What is written into it is quantized again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.weights.quant.fallbacks import note
from limner.weights.quant.layout import Layout
from limner.weights.quant.parts import Parts
from limner.weights.quant.registry import REGISTRY

_PARAM = "_layout_param_"


class QuantizedTensor(Tensor):
    """See the module. qdata: the numbers. layout: or its name. params: its other parts, `orig_dtype`, `orig_shape`."""

    _qdata: Tensor
    _layout: Layout
    _names: tuple[str, ...]
    _plain: Mapping[str, Any]
    _transposed: bool
    _shares: bool
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, qdata: Tensor, layout: str | Layout, params: Mapping[str, Any]) -> QuantizedTensor:
        """From numbers and parameters as they are."""
        found = REGISTRY.find(layout)
        return cls.of(found, found.from_params(qdata, params))

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    @classmethod
    def of(cls, layout: Layout, parts: Parts, transposed: bool = False, shares: bool = False) -> QuantizedTensor:
        """Parts in a layout. transposed: a matrix the other way round. shares: its parts are another tensor's too."""
        shape = parts.shape[::-1] if transposed else parts.shape
        strides = _strides(parts.shape)
        made: QuantizedTensor = Tensor._make_wrapper_subclass(
            cls,
            shape,
            strides=strides[::-1] if transposed else strides,
            dtype=parts.dtype,
            device=parts.numbers.device,
            requires_grad=False,
        )
        made._layout, made._transposed, made._shares = layout, transposed, shares
        made._bind(parts)
        return made

    @classmethod
    def from_float(cls, tensor: Tensor, layout: str | Layout, **options: Any) -> QuantizedTensor:
        """A tensor of floats in a layout; options are those of the layout's `quantize`."""
        found = REGISTRY.find(layout)
        return cls.of(found, found.quantize(tensor, **options))

    def _bind(self, parts: Parts) -> None:
        self._qdata, self._names, self._plain = parts.numbers, tuple(parts.tensors), dict(parts.plain)
        self._shape, self._dtype = parts.shape, parts.dtype
        for name, one in parts.tensors.items():
            setattr(self, _PARAM + name, one)

    @property
    def parts(self) -> Parts:
        """What it is made of; a transposed matrix's are those of the one that it was."""
        tensors = {name: getattr(self, _PARAM + name) for name in self._names}
        return Parts(self._qdata, self._shape, self._dtype, tensors, self._plain)

    @property
    def packing(self) -> Layout:
        """Its layout; `layout` is torch's word for something else."""
        return self._layout

    @property
    def layout_type(self) -> str:
        """The name of its layout."""
        return REGISTRY.shown(self._layout)

    @property
    def _layout_type(self) -> str:
        return self.layout_type

    @property
    def _layout_params(self) -> dict[str, Any]:
        return self._layout.to_params(self.parts)

    def dequantize(self) -> Tensor:
        """The tensor that it stands for."""
        dense = self._layout.dequantize(self.parts)
        return dense.t() if self._transposed else dense

    def turned(self) -> QuantizedTensor:
        """A matrix the other way round: a mark, nothing moves."""
        parts = self.parts.map(lambda one: one.detach())
        return QuantizedTensor.of(self._layout, parts, not self._transposed, self._shares)

    def inner_tensors(self) -> dict[str, Tensor]:
        """Every tensor that it keeps, by name: what moves, is pinned and counted."""
        return self.parts.all_tensors()

    def error_bound(self) -> Tensor | None:
        """The most that each weight may have changed; None where the layout does not say."""
        bound = self._layout.error_bound(self.parts)
        return bound.t() if bound is not None and self._transposed else bound

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """Bytes of everything that it keeps."""
        return self.parts.nbytes

    def with_parts(self, parts: Parts, shares: bool = False) -> QuantizedTensor:
        """The same way of being, of other parts."""
        return QuantizedTensor.of(self._layout, parts, self._transposed, shares)

    def store(self, parts: Parts, non_blocking: bool = False) -> None:
        """Take over other parts: written into its own tensors where they fit and are nobody else's."""
        mine, theirs = self.inner_tensors(), parts.all_tensors()
        fits = mine.keys() == theirs.keys() and all(
            mine[name].shape == one.shape and mine[name].dtype == one.dtype for name, one in theirs.items()
        )
        if self._shares or not fits:
            self._bind(replace(parts.map(lambda one: one.to(self.device)), dtype=self._dtype))
            self._shares = False
            return
        for name, one in theirs.items():
            mine[name].copy_(one, non_blocking=non_blocking)
        self._plain = dict(parts.plain)

    # What torch asks without dispatching.

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        del tensor_contents
        size = f"{self.nbytes:,} bytes"
        return f"QuantizedTensor({self.layout_type}, {list(self.shape)}, {self.dtype}, {self.device}, {size})"

    @property
    def data(self) -> Tensor:
        """Itself, detached."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        parameter = getattr(self, "_is_param", False)
        torch.utils.swap_tensors(self, value.detach())  # type: ignore[no-untyped-call]
        if parameter:
            self._is_param = True

    def data_ptr(self) -> int:
        """Where its numbers lie."""
        return self._qdata.data_ptr()

    def is_pinned(self, *_: Any, **__: Any) -> bool:
        """Whether all that it keeps is in locked memory."""
        return all(one.is_pinned() for one in self.inner_tensors().values())

    def pin_memory(self, *_: Any, **__: Any) -> QuantizedTensor:
        """All that it keeps in locked memory; itself where it is."""
        return self if self.is_pinned() else self.with_parts(self.parts.map(lambda one: one.pin_memory()))

    def is_contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> bool:
        """Of its numbers, in whichever order its layout keeps them; only those of four axes can be channels last."""
        if self._qdata.ndim == 4 and self._qdata.is_contiguous(memory_format=torch.channels_last):
            return memory_format in (torch.contiguous_format, torch.channels_last)
        asked = memory_format if self._qdata.ndim == self.ndim else torch.contiguous_format
        return self._qdata.is_contiguous(memory_format=asked)

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> QuantizedTensor:
        """Itself, or with its numbers laid out anew."""
        if self.is_contiguous(memory_format):
            return self
        asked = memory_format if self._qdata.ndim == self.ndim else torch.contiguous_format
        return self.with_parts(replace(self.parts, numbers=self._qdata.contiguous(memory_format=asked)))

    # Copying, saving, compiling.

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedTensor:
        if id(self) not in memo:
            memo[id(self)] = self._like_me(self.with_parts(self.parts.map(lambda one: one.detach().clone())))
        found: QuantizedTensor = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        parts = self.parts
        # Pickle, unlike torch.save, cannot hold floats of a byte.
        tensors = {name: (one.dtype, _as_bytes(one)) for name, one in parts.all_tensors().items()}
        state = (tensors, dict(parts.plain), parts.shape, parts.dtype)
        return rebuild, (self._layout.name, state, self._transposed, bool(getattr(self, "_is_param", False)))

    def _like_me(self, other: QuantizedTensor) -> QuantizedTensor:
        if getattr(self, "_is_param", False):
            other = torch.nn.Parameter(other, requires_grad=False)  # type: ignore[assignment]
        return other

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        names = ["_qdata", *(_PARAM + name for name in self._names)]
        plain = tuple(sorted(self._plain.items()))
        return names, (self._layout.name, self._names, plain, self._shape, self._dtype, self._transposed)

    def _stable_hash_for_caching(self) -> str:
        """What compiled code may be found again by."""
        return repr(self.__tensor_flatten__()[1])

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: tuple[Any, ...], *_: Any) -> QuantizedTensor:
        layout, names, plain, shape, dtype, transposed = context
        tensors = {name: inner[_PARAM + name] for name in names}
        parts = Parts(inner["_qdata"], shape, dtype, tensors, dict(plain))
        return QuantizedTensor.of(REGISTRY.find(layout), parts, transposed)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation, see the module."""
        return dispatch(func, args, kwargs or {})


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of contiguous numbers. This is asked at each use of a weight; torch itself takes longer."""
    found, step = [], 1
    for size in reversed(shape):
        found.append(step)
        step *= max(size, 1)
    return tuple(reversed(found))


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def rebuild(layout: str, state: tuple[Any, ...], transposed: bool, parameter: bool) -> Tensor:
    """Out of a pickle."""
    stored, plain, shape, dtype = state
    tensors = {name: one.view(own) for name, (own, one) in stored.items()}
    parts = Parts(tensors.pop("numbers"), tuple(shape), dtype, tensors, plain)
    made = QuantizedTensor.of(REGISTRY.find(layout), parts, transposed)
    return torch.nn.Parameter(made, requires_grad=False) if parameter else made


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Who knows the operation does it; else it is done on what the tensors stand for."""
    first = next(quantized_in((args, kwargs)), None)
    if first is None:
        return func(*args, **kwargs)
    for operation in REGISTRY.able(func, first.packing):
        result = operation(func, args, kwargs)
        if result is not NotImplemented:
            return result
    if func._can_decompose():
        result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    return dequantized(func, args, kwargs)


def dequantized(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on what every quantized argument stands for; what it writes into one is quantized again."""
    dense: dict[int, tuple[QuantizedTensor, Tensor]] = {}

    def plain(one: Any) -> Any:
        if isinstance(one, QuantizedTensor):
            if id(one) not in dense:
                dense[id(one)] = one, one.dequantize()
            return dense[id(one)][1]
        return one

    first = next(quantized_in((args, kwargs)))
    note(first.packing.name, str(func))
    result = func(*mapped(args, plain), **mapped(kwargs, plain))
    written = [dense[id(one)] for one in _written(func, args, kwargs)]
    for quantized, value in written:
        target = quantized.parts
        quantized.store(quantized.packing.requantized(target, value.t() if quantized._transposed else value))
    back = {id(value): quantized for quantized, value in written}
    return mapped(result, lambda one: back.get(id(one), one))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[QuantizedTensor]:
    """The quantized arguments that an operation writes into, by its schema."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from quantized_in(value)


def quantized_in(value: Any) -> Iterator[QuantizedTensor]:
    """Every quantized tensor in nested lists, tuples and dicts, in order."""
    if isinstance(value, QuantizedTensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from quantized_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from quantized_in(one)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Every leaf of nested lists, tuples and dicts changed."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(one, change) for one in value)
    if isinstance(value, dict):
        return {name: mapped(one, change) for name, one in value.items()}
    return change(value)


def quantize(tensor: Tensor, layout: str | Layout, **options: Any) -> QuantizedTensor:
    """A tensor of floats in a layout; options are those of the layout's `quantize`."""
    return QuantizedTensor.from_float(tensor, layout, **options)


def as_floats(weight: Tensor) -> Tensor:
    """What a tensor stands for, where it is quantized; else itself."""
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight


def is_kept(weight: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a weight that changes to one of this shape stays quantized."""
    return isinstance(weight, QuantizedTensor) and weight.packing.writes and tuple(weight.shape) == shape


def requantize(weight: QuantizedTensor, dense: Tensor, seed: int | None = None) -> QuantizedTensor:
    """Other numbers in the way of `weight`: what a patch makes of it. seed: rounds at random, the same each time."""
    if tuple(dense.shape) != tuple(weight.shape):
        raise BadInput(f"A weight of {list(weight.shape)} cannot become one of {list(dense.shape)}.")
    parts = weight.packing.requantized(weight.parts, dense.t() if weight._transposed else dense, seed)
    return weight.with_parts(parts)
