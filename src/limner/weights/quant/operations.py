"""What operations of torch's do with a quantized tensor: those that are alike for all layouts, and what a layout may
replace by something of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from limner.weights.quant.layout import OF_INPUTS, Convolution, Layout
from limner.weights.quant.registry import REGISTRY, Operation
from limner.weights.quant.tensor import QuantizedTensor

aten = torch.ops.aten
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes that a quantized tensor can be said to stand for."""
INPUT = "input_scale"
ROWWISE = {
    "float8_e4m3fn": "float8_e4m3fn_rowwise",
    "float8_e5m2": "float8_e5m2_rowwise",
    "int8_tensorwise": "int8_rowwise",
}
"""Layouts with one scale, and the same with one for each row: files call both by the name of the first."""


def _dense(value: Any) -> Any:
    return value.dequantize() if isinstance(value, QuantizedTensor) else value


def a_view(operation: Operation) -> Operation:
    """Of an operation whose result torch takes for a view: in inference mode, too, a normal tensor's is normal."""

    @wraps(operation)
    def viewing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        compiling = torch.compiler.is_compiling()  # which cannot ask the next
        if compiling or not torch.is_inference_mode_enabled() or args[0].is_inference():
            return operation(func, args, kwargs)
        with torch.inference_mode(False):
            return operation(func, args, kwargs)

    return viewing


# For all layouts.


@REGISTRY.on_all(aten.detach.default, aten.alias.default)
@a_view
def detach(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same numbers under a new name."""
    del kwargs
    return args[0].with_parts(args[0].parts.map(func), args[0]._shares)


@REGISTRY.on_all(aten.clone.default)
def clone(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of every inner tensor; they keep their own order in memory."""
    del func, kwargs
    return args[0].with_parts(args[0].parts.map(torch.clone))


@REGISTRY.on_all(aten._to_copy.default)
def to_copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """To another device, or another dtype to be dequantized to: that alone shares the numbers until one is written."""
    del func
    weight: QuantizedTensor = args[0]
    dtype, device = kwargs.get("dtype") or weight.dtype, kwargs.get("device") or weight.device
    if dtype not in FLOATS:
        return NotImplemented
    parts = replace(weight.parts, dtype=dtype)
    if torch.device(device) == weight.device and dtype != weight.dtype:
        return weight.with_parts(parts.map(lambda one: one.detach()), shares=True)
    blocking = kwargs.get("non_blocking", False)
    moved = parts.map(lambda one: one.to(device, non_blocking=blocking, copy=True))
    return weight.with_parts(moved.map(lambda one: one.pin_memory()) if kwargs.get("pin_memory") else moved)


@REGISTRY.on_all(aten.empty_like.default)
def empty_like(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In the same layout; a dtype is what it would be dequantized to. Where another kind is asked for, a plain one."""
    weight: QuantizedTensor = args[0]
    dtype = kwargs.pop("dtype", None) or weight.dtype
    if dtype not in FLOATS:
        shape = torch.empty(weight.shape, device="meta")
        return func(shape, *args[1:], dtype=dtype, **{"device": weight.device, **kwargs})
    options = {key: kwargs[key] for key in ("device", "pin_memory") if kwargs.get(key)}
    return weight.with_parts(replace(weight.parts.map(lambda one: torch.empty_like(one, **options)), dtype=dtype))


@REGISTRY.on_all(aten.copy_.default)
def copy_(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Quantized to quantized copies parts; floats are quantized; numbers in the layout's storage are taken as such."""
    target, source = args[:2]
    non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    if not isinstance(target, QuantizedTensor):
        func(target, source.dequantize(), non_blocking)
        return target
    parts = target.parts
    if isinstance(source, QuantizedTensor):
        same = source.packing is target.packing and source._transposed == target._transposed
        if same and source.parts.shape == parts.shape:
            target.store(replace(source.parts, dtype=parts.dtype), non_blocking)
            return target
        source = source.dequantize()
    elif source.dtype == parts.numbers.dtype and source.shape == parts.numbers.shape:
        target.store(replace(parts, numbers=source), non_blocking)
        return target
    value = source.to(target.device).expand(target.shape)
    target.store(target.packing.requantized(parts, value.t() if target._transposed else value))
    return target


@REGISTRY.on_all(aten.is_pinned.default)
def is_pinned(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether all inner tensors are."""
    del func, kwargs
    return bool(args[0].is_pinned())


@REGISTRY.on_all(aten._pin_memory.default)
def pin_memory(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """All inner tensors in locked memory."""
    del func, kwargs
    return args[0].pin_memory()


@REGISTRY.on_all(aten.record_stream.default)
def record_stream(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """For all inner tensors."""
    for one in args[0].inner_tensors().values():
        func(one, *args[1:], **kwargs)


# For layouts that have nothing of their own.


def _product(x: Any, weight: Any, bias: Tensor | None) -> Any:
    """x @ weightᵀ + bias, weight not transposed."""
    if isinstance(weight, QuantizedTensor):
        if weight._transposed or weight.ndim != 2:
            return NotImplemented
        if isinstance(x, QuantizedTensor):
            both = _both_quantized(x, weight, bias)
            if both is not None:
                return both
        return weight.packing.linear(_dense(x), weight.parts, _dense(bias))
    return torch.nn.functional.linear(_dense(x), weight, _dense(bias))


def _both_quantized(x: QuantizedTensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor | None:
    """Numbers times numbers, where the layout does that and one scale holds for all of x or for each of its rows."""
    parts = x.parts
    if x._transposed or OF_INPUTS & {*parts.tensors, *weight.parts.tensors}:
        return None
    if x.ndim > 2:
        viewed = x.packing.viewed(parts, (parts.rows * parts.columns // x.shape[-1], x.shape[-1]))
        if viewed is None:
            return None
        parts = viewed
    result = weight.packing.linear_of_parts(parts, weight.parts, _dense(bias), None)
    return None if result is None else result.reshape(*x.shape[:-1], result.shape[-1])


@REGISTRY.on(Layout, aten.linear.default)
def linear(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As the weight's layout does it; inputs alone are dequantized."""
    del func
    x, weight = args[:2]
    return _product(x, weight, args[2] if len(args) > 2 else kwargs.get("bias"))


@REGISTRY.on(Layout, aten.mm.default)
def mm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By a transposed weight it is a layer's product; by another, one with what it stands for."""
    del kwargs
    x, other = args
    if isinstance(other, QuantizedTensor) and other._transposed:
        return _product(x, other.t(), None)
    return func(*_same_dtype(_dense(x), _dense(other)))


@REGISTRY.on(Layout, aten.addmm.default)
def addmm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """beta · bias + alpha · x @ other: a layer with a bias, where both are one."""
    bias, x, other = (args[0], *args[1:3])
    beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
    if isinstance(other, QuantizedTensor) and other._transposed:
        if beta == alpha == 1 and bias.ndim == 1:
            return _product(x, other.t(), bias)
        return _product(x, other.t(), None) * alpha + _dense(bias) * beta
    x, other = _same_dtype(_dense(x), _dense(other))
    return func(_dense(bias).to(x.dtype), x, other, beta=beta, alpha=alpha)


def _same_dtype(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return x, other.to(x.dtype)


@REGISTRY.on(Layout, aten.convolution.default)
def convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As the weight's layout does it."""
    del kwargs
    x, weight, bias, *rest = args
    if not isinstance(weight, QuantizedTensor):
        return func(_dense(x), weight, _dense(bias), *rest)
    return weight.packing.convolution(_dense(x), weight.parts, _dense(bias), Convolution(*rest))


@REGISTRY.on(Layout, aten.embedding.default)
def embedding(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Only the rows that are asked for are dequantized."""
    del func, kwargs
    weight, ids = args[:2]
    if not isinstance(weight, QuantizedTensor) or weight._transposed or weight.ndim != 2:
        return NotImplemented
    rows = weight.packing.chosen_rows(weight.parts, ids.reshape(-1))
    return NotImplemented if rows is None else weight.packing.dequantize(rows).reshape(*ids.shape, -1)


def chosen(weight: QuantizedTensor, index: slice | Tensor) -> QuantizedTensor | None:
    """Rows of the first axis, still quantized; None where the layout does not cut them."""
    rows = None if weight._transposed else weight.packing.chosen_rows(weight.parts, index)
    return None if rows is None else weight.with_parts(rows, weight._shares)


@REGISTRY.on(Layout, aten.index_select.default)
def index_select(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Rows, still quantized."""
    del func, kwargs
    weight, dim, index = args
    return _rows(weight, dim, index) if isinstance(weight, QuantizedTensor) else NotImplemented


def _rows(weight: QuantizedTensor, dim: int, index: slice | Tensor) -> Any:
    rows = None if dim % weight.ndim else chosen(weight, index)
    return NotImplemented if rows is None else rows


@REGISTRY.on(Layout, aten.slice.Tensor)
@a_view
def slice_(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Rows; columns where no block is cut."""
    del func, kwargs
    weight = args[0]
    given: tuple[Any, ...] = (*args[1:], *(0, None, None, 1)[len(args) - 1 :])
    dim, start, end, step = given
    part = slice(start, end, step)
    if weight._transposed or weight.ndim < 2:
        return NotImplemented
    if dim % weight.ndim == 0:
        return _rows(weight, 0, part)
    columns = weight.packing.chosen_columns(weight.parts, part) if dim % weight.ndim == 1 else None
    return NotImplemented if columns is None else weight.with_parts(columns, weight._shares)


@REGISTRY.on(Layout, aten.split.Tensor, aten.split_with_sizes.default)
@a_view
def split(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Slices, one after the other."""
    weight, sizes, dim = args[0], args[1], args[2] if len(args) > 2 else kwargs.get("dim", 0)
    if isinstance(sizes, int):
        whole = weight.shape[dim]
        sizes = [min(sizes, whole - start) for start in range(0, whole, sizes)]
    pieces, start = [], 0
    for size in sizes:
        piece = slice_(func, (weight, dim, start, start + size), {})
        if piece is NotImplemented:
            return NotImplemented
        pieces.append(piece)
        start += size
    return pieces


@REGISTRY.on(Layout, aten.select.int)
@a_view
def select(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One row, dequantized."""
    del func, kwargs
    weight, dim, index = args
    row = _rows(weight, dim, slice(index, index + 1 or None))
    return row if row is NotImplemented else row.dequantize()[0]


@REGISTRY.on(Layout, aten.cat.default)
def cat(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Rows of several weights stay packed where `joined` can."""
    del func
    weights, dim = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if dim or not all(isinstance(one, QuantizedTensor) for one in weights):
        return NotImplemented
    whole = joined(weights)
    return NotImplemented if whole is None else whole


def joined(weights: Sequence[QuantizedTensor]) -> QuantizedTensor | None:
    """Rows of several weights, one after the other; None where they are not of one kind.

    Scales go by row or block and stay as they are; one for a whole weight becomes one for each of its rows. Of fixed
    scales of inputs the largest holds for all, so that nothing is cut off.
    """
    if any(one._transposed for one in weights):
        return None
    rows = weights if len({one.packing for one in weights}) == 1 else [by_rows(one) for one in weights]
    for several in (rows, [by_rows(one) for one in weights]):
        first = several[0]
        if any(one.packing is not first.packing for one in several):
            continue
        fixed = [one.parts.tensors.get(INPUT) for one in several]
        whole = first.packing.joined([one.parts.with_tensor(INPUT, None) for one in several])
        if whole is None or any((one is None) != (fixed[0] is None) for one in fixed):
            continue
        scales = [one for one in fixed if one is not None]
        largest = torch.stack(scales).amax() if scales else None
        return QuantizedTensor.of(first.packing, whole.with_tensor(INPUT, largest))
    return None


def by_rows(weight: QuantizedTensor) -> QuantizedTensor:
    """A weight with one scale as the same weight with that scale for each row; any other as it is."""
    name = ROWWISE.get(weight.packing.name)
    if name is None or weight._transposed:
        return weight
    parts = weight.parts
    scale = parts.tensors["scale"].reshape(1, 1).repeat(parts.rows, 1)
    return QuantizedTensor.of(REGISTRY.find(name), parts.with_tensor("scale", scale))


@REGISTRY.on(Layout, aten.t.default)
@a_view
def transpose(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A matrix the other way round: a mark, nothing moves."""
    del func, kwargs
    weight = args[0]
    if weight.ndim != 2:
        return NotImplemented if weight.ndim > 2 else weight
    return weight.turned()


@REGISTRY.on(Layout, aten.transpose.int)
@a_view
def transpose_dims(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of a matrix."""
    weight, first, second = args
    if weight.ndim != 2:
        return NotImplemented
    return weight.detach() if first % 2 == second % 2 else transpose(func, (weight,), kwargs)


@REGISTRY.on(Layout, aten.permute.default)
@a_view
def permute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of a matrix."""
    weight, dims = args
    return transpose_dims(func, (weight, 0, dims[0]), kwargs) if weight.ndim == 2 else NotImplemented


@REGISTRY.on(Layout, aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)
@a_view
def view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Another shape, where the scales allow it."""
    del func, kwargs
    weight, shape = args[0], list(args[1])
    if -1 in shape:
        others = -torch.Size(shape).numel()
        shape[shape.index(-1)] = weight.numel() // others if others else 0
    return _viewed(weight, tuple(shape))


@REGISTRY.on(Layout, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims)
@a_view
def squeeze(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Axes of one more or fewer."""
    shape = func(torch.empty(args[0].shape, device="meta"), *args[1:], **kwargs).shape
    return _viewed(args[0], tuple(shape))


def _viewed(weight: QuantizedTensor, shape: tuple[int, ...]) -> Any:
    found = viewed(weight, shape)
    return NotImplemented if found is None else found


def viewed(weight: QuantizedTensor, shape: tuple[int, ...]) -> QuantizedTensor | None:
    """The same weights in another shape; None where the scales do not allow it."""
    if weight._transposed:
        return None
    parts = weight.packing.viewed(weight.parts.map(lambda one: one.detach()), shape)
    return None if parts is None else weight.with_parts(parts, weight._shares)
