"""What torch says of its operations: what they write to, which shapes they make, and which tensors they are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device})
_TO_HOST = {aten._local_scalar_dense.default, aten.equal.default}


class Spec(NamedTuple):
    """What is known of a tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Signature(NamedTuple):
    """Which arguments, by place and name, are written to; and for each result, which argument it is."""

    written: tuple[tuple[int, str], ...]
    returned: tuple[tuple[int, str] | None, ...]


@cache
def signature(func: Any) -> Signature:
    """What an operation writes to."""
    written = {
        (place, one.name): one.alias_info.before_set
        for place, one in enumerate(func._schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    }
    returned = [
        next((key for key, names in written.items() if one.alias_info and names & one.alias_info.before_set), None)
        for one in func._schema.returns
    ]
    return Signature(tuple(written), tuple(returned))


def written_to(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation writes to."""
    return tensors_in([find(args, kwargs, place) for place in signature(func).written])


def find(args: Any, kwargs: Any, place: tuple[int, str] | None) -> Any:
    """An argument by its place or name."""
    if place is None:
        return None
    return args[place[0]] if place[0] < len(args) else kwargs.get(place[1])


def needs_host(func: Any, args: Any) -> bool:
    """Whether its result is a number of the host's, or has a shape that depends on numbers."""
    if func in INDEXED:
        return any(one.dtype in (torch.bool, torch.uint8) for one in tensors_in(args[1]))
    return func in _TO_HOST or not {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}.isdisjoint(
        func.tags
    )


@cache
def is_composite(func: Any) -> bool:
    """Whether it is made of other operations."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@cache
def results_of(func: Any, args: Any, kwargs: Any, types: Any) -> Any:
    """The shapes and dtypes of what an operation makes. types: since 1, 1.0 and True are equal."""
    del types

    def zeros(spec: Spec) -> Tensor:
        made = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype)
        made.untyped_storage().fill_(0)
        return made

    with torch.no_grad():
        return mapped(func(*mapped(args, zeros), **{name: mapped(one, zeros) for name, one in kwargs}), spec_of)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same with every tensor, or every spec of one, put through a function."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, Tensor) or kind is Spec:
        return function(value)
    if isinstance(value, list):
        return [mapped(one, function) for one in value]
    if isinstance(value, tuple):
        return tuple([mapped(one, function) for one in value])
    return {name: mapped(one, function) for name, one in value.items()} if kind is dict else value


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor, in order."""
    if type(value) in PLAIN:
        return []
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for one in value if type(one) not in PLAIN for tensor in tensors_in(one)]


def frozen(value: Any) -> Any:
    """Lists as tuples, to be hashed."""
    if type(value) is Spec or not isinstance(value, (list, tuple)):
        return value
    return tuple([frozen(one) for one in value])


def types_in(value: Any) -> tuple[Any, ...]:
    """The types of all values, in order."""
    if type(value) is Spec or not isinstance(value, (list, tuple)):
        return (type(value),)
    return tuple(kind for one in value for kind in types_in(one))


def spec_of(tensor: Tensor) -> Spec:
    """Its shape, strides and dtype."""
    return Spec(tuple(tensor.shape), tensor.stride(), tensor.dtype)


def extent(tensor: Tensor) -> tuple[int, int]:
    """The first byte of its memory that it uses, and the one after its last."""
    if not tensor.numel():
        return 0, 0
    length = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first = tensor.storage_offset()
    return first * tensor.element_size(), (first + length) * tensor.element_size()
