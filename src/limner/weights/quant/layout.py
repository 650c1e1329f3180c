"""A layout: how a tensor is kept in fewer bits, as a handful of pure functions and a stated error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.errors import BadInput
from limner.weights.quant.mode import mode
from limner.weights.quant.parts import Parts, matrix_shape
from limner.weights.quant.rounding import Rounding

Activations = Literal["none", "dynamic"]
Encoded = tuple[Tensor, dict[str, Tensor], dict[str, Any]]
"""Numbers, tensors and plain values of a matrix."""
OF_INPUTS = frozenset(("input_scale", "pre_quant_scale"))
"""Tensors of a weight that say something of what it is multiplied by; no layout makes them out of the weight alone."""
OF_LAYERS = frozenset(("activations", "full_precision"))
"""Plain values that say how a layer computes; no layout makes numbers by them."""


@dataclass(frozen=True)
class Convolution:
    """What a convolution is beside its tensors."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """In the dtype of x."""
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups
        )


class Layout(ABC):
    """What every layout does, from the two things that each knows for itself: `encode` and `decode`.

    name: in files and messages. storage: dtype of the numbers. elementwise: they have the weight's own shape.
    stored: tensor → what a file calls it, after the layer's name. block: weights of a row that share a scale; 0 where
    that is not how scales go. matrices_only: other shapes are refused. activations: what happens to inputs when nothing
    is said. largest_input: what the largest input becomes by a fixed `input_scale`; None where it has no such.
    row_by_row: all that `encode` makes has the matrix's rows as its first axis, or no axis at all, so that two rows
    tell shapes. may_be_zero: scales that zero does no harm. least_sqnr: dB on Gaussian numbers, as tests hold it to.
    """

    name: str
    storage: torch.dtype
    elementwise: bool = True
    stored: Mapping[str, str] = {"scale": "weight_scale"}
    block: int = 0
    matrices_only: bool = False
    activations: Activations = "none"
    largest_input: float | None = None
    row_by_row: bool = False
    may_be_zero: frozenset[str] = frozenset()
    writes: bool = True
    slices: bool = True
    least_sqnr: float

    @property
    def format(self) -> str:
        """What files call it."""
        return self.name

    def __repr__(self) -> str:
        return f"<layout {self.name}>"

    @abstractmethod
    def encode(self, matrix: Tensor, rounding: Rounding, scale: Tensor | None, **options: Any) -> Encoded:
        """matrix: float32 (rows, columns). scale: as this layout would make it; None makes it."""

    @abstractmethod
    def decode(self, parts: Parts) -> Tensor:
        """The numbers times their scales: float32 (rows, columns), without `pre_quant_scale`."""

    @abstractmethod
    def half_steps(self, parts: Parts) -> Tensor | None:
        """How far each weight may have been from what `decode` says: float32 (rows, columns) or broadcast to it."""

    # Between a tensor and its parts.

    def quantize(
        self,
        tensor: Tensor,
        *,
        scale: Tensor | float | None = None,
        seed: int | None = None,
        input_scale: Tensor | float | None = None,
        pre_quant_scale: Tensor | None = None,
        activations: Activations | None = None,
        full_precision: bool = False,
        **options: Any,
    ) -> Parts:
        """The tensor in this layout.

        scale: instead of the one that fits the largest number. seed: rounds at random. input_scale: a fixed one for the
        inputs of the layer. pre_quant_scale: (columns,), what inputs are multiplied by and weights divided by first.
        activations: how inputs are rounded without an input_scale. full_precision: they are not, whatever is said.
        options: of the layout. Raises BadInput for what it cannot hold.
        """
        self._check_tensor(tensor)
        matrix = tensor.detach().float().reshape(matrix_shape(tuple(tensor.shape)))
        extra: dict[str, Tensor] = {}
        if pre_quant_scale is not None:
            extra["pre_quant_scale"] = pre_quant_scale.detach().to(tensor.device).float().reshape(-1)
            matrix = matrix / extra["pre_quant_scale"]
        if input_scale is not None:
            extra["input_scale"] = torch.as_tensor(input_scale, dtype=torch.float32, device=tensor.device).reshape(())
        if scale is not None:
            scale = torch.as_tensor(scale, dtype=torch.float32, device=tensor.device)
        numbers, tensors, plain = self.encode(matrix, Rounding.seeded(seed, tensor.device), scale, **options)
        if activations is not None:
            plain = {**plain, "activations": activations}
        if full_precision:
            plain = {**plain, "full_precision": True}
        if self.elementwise:
            numbers = self.arranged(numbers.reshape(tensor.shape))
        return Parts(numbers, tuple(tensor.shape), tensor.dtype, {**tensors, **extra}, plain)

    def dequantize(self, parts: Parts) -> Tensor:
        """The tensor again, in its own dtype: the definition of the layout."""
        matrix = self.decode(parts)
        if (smoothing := parts.tensors.get("pre_quant_scale")) is not None:
            matrix = matrix * smoothing.float().reshape(1, -1)
        return matrix.reshape(parts.shape).to(parts.dtype)

    def from_params(self, numbers: Tensor, params: Mapping[str, Any]) -> Parts:
        """Parts out of numbers and one mapping of everything else, `orig_dtype` and `orig_shape` among it."""
        tensors = {name: one for name, one in params.items() if isinstance(one, Tensor)}
        own = {"orig_dtype", "orig_shape", *tensors}
        plain = {name: one for name, one in params.items() if name not in own and one is not None}
        shape = tuple(params.get("orig_shape") or self.shape_of(numbers))
        return Parts(numbers, shape, params.get("orig_dtype") or torch.bfloat16, tensors, plain)

    def to_params(self, parts: Parts) -> dict[str, Any]:
        """Everything but the numbers, as `from_params` takes it."""
        shaped = {} if self.elementwise else {"orig_shape": parts.shape}
        return {**parts.tensors, **parts.plain, "orig_dtype": parts.dtype, **shaped}

    def requantized(self, parts: Parts, dense: Tensor, seed: int | None = None) -> Parts:
        """Other numbers in the way of `parts`: new scales, the same options, smoothing and scale of inputs."""
        if not self.writes:
            raise BadInput(
                f"A weight in {self.name} cannot be changed.",
                why="This layout is only read; nothing here makes new numbers in it.",
                do="Dequantize it, or quantize the changed weight in another layout.",
            )
        kept: dict[str, Any] = {name: one for name, one in parts.tensors.items() if name in OF_INPUTS}
        made = self.quantize(dense, seed=seed, **kept, **parts.plain)
        return replace(made, dtype=parts.dtype)

    def error_bound(self, parts: Parts) -> Tensor | None:
        """The most that a weight may have changed, for each, float32; None where the layout does not say.

        It holds for the nearest rounding and scales of the layout's own making; rounding at random doubles it.
        """
        half = self.half_steps(parts)
        if half is None:
            return None
        if (smoothing := parts.tensors.get("pre_quant_scale")) is not None:
            half = half * smoothing.float().abs().reshape(1, -1)
        return half.expand(parts.rows, parts.columns).reshape(parts.shape)

    def nbytes(self, shape: tuple[int, ...], **options: Any) -> int:
        """Bytes of a weight of that shape, scales and all."""
        return self.expected(shape, **options).nbytes

    def expected(self, shape: tuple[int, ...], **options: Any) -> Parts:
        """Shapes and dtypes of the parts of a weight of that shape, on the meta device."""
        return _expected(self, shape, tuple(sorted((k, one) for k, one in options.items() if k not in OF_LAYERS)))

    def scale(self, parts: Parts, name: str = "scale") -> Tensor:
        """A scale, float32: one number, or one for each row as (rows, 1)."""
        found = parts.tensors[name].float()
        return found.reshape(()) if found.numel() == 1 else found.reshape(parts.rows, -1)

    # What it computes.

    def linear(self, x: Tensor, parts: Parts, bias: Tensor | None = None) -> Tensor:
        """x @ weightᵀ + bias in x's dtype. x: (…, columns)."""
        if bias is not None:
            bias = bias.to(x.dtype)
        if (smoothing := parts.tensors.get("pre_quant_scale")) is not None:
            x = x * smoothing.to(x.dtype)
        if self.rounds_inputs(parts):
            rows = x.reshape(-1, x.shape[-1])
            fast = self.fast_linear(rows, parts, bias)
            if fast is not None:
                return fast.reshape(*x.shape[:-1], fast.shape[-1])
            if mode().emulate:
                x = self.rounded(rows, parts).reshape(x.shape)
        return F.linear(x, self.decode(parts).to(x.dtype), bias)

    def convolution(self, x: Tensor, parts: Parts, bias: Tensor | None, kind: Convolution) -> Tensor:
        """A convolution in x's dtype: of the dequantized weight where there is no faster way."""
        if bias is not None:
            bias = bias.to(x.dtype)
        if self.rounds_inputs(parts) and not kind.transposed and "pre_quant_scale" not in parts.tensors:
            fast = self.fast_convolution(x, parts, bias, kind)
            if fast is not None:
                return fast
        # Where inputs of a convolution are not rounded fast, they are not rounded at all, emulated or not.
        return kind(x, self.dequantize(replace(parts, dtype=x.dtype)), bias)

    def rounds_inputs(self, parts: Parts) -> bool:
        """Whether what the weight is multiplied by is rounded too."""
        if mode().full_precision or parts.plain.get("full_precision"):
            return False
        return "input_scale" in parts.tensors or parts.plain.get("activations", self.activations) == "dynamic"

    def encode_inputs(self, x: Tensor, parts: Parts) -> Parts:
        """x: (m, columns), smoothed → in the layout that this one wants inputs in."""
        numbers, tensors, plain = self.encode(x.float(), Rounding(), parts.tensors.get("input_scale"))
        return Parts(numbers, tuple(x.shape), x.dtype, tensors, plain)

    def rounded(self, x: Tensor, parts: Parts) -> Tensor:
        """x as it is after it was rounded, in its own dtype."""
        return self.decode(self.encode_inputs(x, parts)).to(x.dtype)

    def fast_linear(self, x: Tensor, parts: Parts, bias: Tensor | None) -> Tensor | None:
        """x: (m, columns), smoothed, to be rounded → (m, rows) with the bias; None where dequantizing is faster."""
        del x, parts, bias
        return None

    def fast_convolution(self, x: Tensor, parts: Parts, bias: Tensor | None, kind: Convolution) -> Tensor | None:
        """The same for a convolution that is not transposed."""
        del x, parts, bias, kind
        return None

    def multiplies(self, device: torch.device) -> bool:
        """Whether `linear_of_parts` multiplies there what `encode_inputs` makes."""
        del device
        return False

    def linear_of_parts(self, x: Parts, weight: Parts, bias: Tensor | None, out: torch.dtype | None) -> Tensor | None:
        """x: (m, columns) in a layout of the same kind → (m, rows) in `out` or x's dtype; None: dequantize x first."""
        del x, weight, bias, out
        return None

    # Rows and shapes.

    def viewed(self, parts: Parts, shape: tuple[int, ...]) -> Parts | None:
        """The same numbers in another shape; None where scales do not allow it."""
        rows_kept = matrix_shape(shape) == (parts.rows, parts.columns)
        single = all(one.numel() == 1 for one in parts.tensors.values())
        if not rows_kept and not (self.elementwise and single and self.slices):
            return None
        return replace(parts, numbers=parts.numbers.reshape(shape) if self.elementwise else parts.numbers, shape=shape)

    def chosen_rows(self, parts: Parts, index: slice | Tensor) -> Parts | None:
        """Rows of the first axis; None where they cannot be taken from the packed numbers."""
        if not self.slices or len(parts.shape) < 2:
            return None
        tensors = {
            name: one if name in OF_INPUTS or one.numel() == 1 or one.ndim == 0 else one[index]
            for name, one in parts.tensors.items()
        }
        numbers = parts.numbers[index]
        return replace(parts, numbers=numbers, tensors=tensors, shape=(numbers.shape[0], *parts.shape[1:]))

    def chosen_columns(self, parts: Parts, index: slice) -> Parts | None:
        """Columns of a matrix; None where blocks would be cut."""
        if not self.slices or len(parts.shape) != 2:
            return None
        start, stop, step = index.indices(parts.columns)
        block = parts.plain.get("group", self.block)
        smooth = {name: one[index] for name, one in parts.tensors.items() if name == "pre_quant_scale"}
        if not block and self.elementwise:
            shape = (parts.rows, len(range(start, stop, step)))
            return replace(parts, numbers=parts.numbers[:, index], tensors={**parts.tensors, **smooth}, shape=shape)
        if not block or step != 1 or start % block or (stop % block and stop != parts.columns) or stop <= start:
            return None
        blocks = -(-parts.columns // block)
        whole = slice(start // block, -(-stop // block))
        width = parts.numbers.shape[1] // blocks
        cut = {
            name: one[:, whole]
            for name, one in parts.tensors.items()
            if name not in OF_INPUTS and one.ndim > 1 and one.shape[1] == blocks
        }
        numbers = parts.numbers[:, whole.start * width : whole.stop * width]
        return replace(
            parts, numbers=numbers, tensors={**parts.tensors, **smooth, **cut}, shape=(parts.rows, stop - start)
        )

    def joined(self, several: Sequence[Parts]) -> Parts | None:
        """Rows of several weights, one after the other; None where one has a scale for all of it, or one of inputs."""
        first = several[0]
        alike = all(one.shape[1:] == first.shape[1:] and one.plain == first.plain for one in several)
        by_row = all(one.ndim and one.shape[0] == each.rows for each in several for one in each.tensors.values())
        inputs = any(OF_INPUTS & each.tensors.keys() for each in several)
        if not self.slices or not alike or not by_row or inputs or len(first.shape) < 2:
            return None
        tensors = {name: torch.cat([each.tensors[name] for each in several]) for name in first.tensors}
        numbers = torch.cat([each.numbers for each in several])
        return replace(
            first, numbers=numbers, tensors=tensors, shape=(sum(each.rows for each in several), *first.shape[1:])
        )

    # Files.

    def to_file(self, parts: Parts) -> dict[str, Tensor]:
        """What a file holds of a weight, by the name after the layer's: "weight", "weight_scale" …"""
        names = {**self.stored, "input_scale": "input_scale", "pre_quant_scale": "pre_quant_scale"}
        return {"weight": parts.numbers, **{names[name]: one for name, one in parts.tensors.items()}}

    def from_file(
        self,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype = torch.bfloat16,
        shape: tuple[int, ...] | None = None,
        layer: str = "The layer",
        **plain: Any,
    ) -> Parts:
        """The parts of a weight by the names of `to_file`; each is checked.

        shape: of the weight, needed where the numbers' own shape does not tell it. layer: its name, for messages.
        Numbers may come as bytes of another name. Raises BadInput for parts that are missing or cannot be right.
        """
        names = {**self.stored, "input_scale": "input_scale", "pre_quant_scale": "pre_quant_scale"}
        if "weight" not in tensors:
            raise BadInput(f"{layer} has no weight.", why=f"It is said to be in {self.name}.")
        numbers = seen_as(tensors["weight"], self.storage)
        shape = shape if shape is not None else self.shape_of(numbers)
        self._check_shape(shape, layer)
        expected = self.expected(shape, **plain)
        found = {name: tensors[key] for name, key in names.items() if key in tensors}
        for name, wanted in expected.tensors.items():
            if name not in found:
                raise BadInput(f"{layer} lacks {names[name]}.", why=f"A weight in {self.name} needs it.")
            found[name] = _shaped(seen_as(found[name], wanted.dtype), wanted, f"{layer}: {names[name]}")
        _shaped(numbers, expected.numbers, f"{layer}: weight")
        for name, value in found.items():
            self._check_scale(name, value, shape, f"{layer}: {names[name]}")
        if "input_scale" in found:
            found["input_scale"] = found["input_scale"].float().reshape(())
        return Parts(self.arranged(numbers), shape, dtype, found, {**expected.plain, **plain})

    def arranged(self, numbers: Tensor) -> Tensor:
        """Numbers in the order in memory that computing wants; their shape stays."""
        return numbers

    def shape_of(self, numbers: Tensor) -> tuple[int, ...]:
        """The shape of a weight by its numbers, where there is no padding."""
        if self.elementwise:
            return tuple(numbers.shape)
        return (numbers.shape[0], numbers.shape[1] * 2)

    def refuse_unknown(self, options: Mapping[str, Any], *known: str) -> None:
        """Raises BadInput for an option that the layout does not have."""
        unknown = options.keys() - {*known}
        if unknown:
            raise BadInput(f"{self.name} has no option {min(unknown)!r}.", do=f"It has {list(known) or 'none'}.")

    def _check_tensor(self, tensor: Tensor) -> None:
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise BadInput(
                f"A tensor of {tensor.dtype} cannot be quantized.", why="Only floats of 16 bits or more can."
            )
        self._check_shape(tuple(tensor.shape), "The tensor")
        if tensor.device.type != "meta" and not bool(tensor.isfinite().all()):
            raise BadInput(
                "A tensor with infinite or undefined numbers cannot be quantized.",
                why="There is no scale that fits them.",
                do="Look where they come from: the file may be damaged or the computation may have overflowed.",
            )

    def _check_shape(self, shape: tuple[int, ...], what: str) -> None:
        if not shape or (self.matrices_only and len(shape) != 2):
            raise BadInput(
                f"{what} has the shape {list(shape)}, which {self.name} does not hold.",
                why="It holds matrices only." if self.matrices_only else "It holds no single numbers.",
                do="Keep it in a float dtype.",
            )

    def _check_scale(self, name: str, value: Tensor, shape: tuple[int, ...], what: str) -> None:
        if name == "pre_quant_scale" and value.numel() != matrix_shape(shape)[1]:
            raise BadInput(f"{what} has {value.numel()} numbers.", why=f"The weight is {list(shape)}.")
        if name == "input_scale" and value.numel() != 1:
            raise BadInput(f"{what} has {value.numel()} numbers instead of one.")
        numbers = self.scale_values(name, value)
        least = 0.0 if name in self.may_be_zero else torch.finfo(torch.float32).smallest_normal
        if value.device.type != "meta" and not bool((numbers.isfinite() & (numbers >= least)).all()):
            raise BadInput(
                f"{what} holds numbers that are no scales.",
                why="A scale is finite and greater than zero.",
                do="The file is damaged, or was made by a tool that failed; get another.",
            )

    def scale_values(self, name: str, value: Tensor) -> Tensor:
        """A scale as float32, where it is stored as something else."""
        del name
        return value.float()


@lru_cache(1024)
def _expected(layout: Layout, shape: tuple[int, ...], options: tuple[tuple[str, Any], ...]) -> Parts:
    """A weight's parts without numbers; made once, and from two rows where that will do.

    For what it computes on the meta device torch takes milliseconds, and the first time imports its compiler: 2 s.
    """
    rows, columns = matrix_shape(shape)
    matrix = torch.zeros(2, columns) if layout.row_by_row else torch.empty(rows, columns, device="meta")
    numbers, tensors, plain = layout.encode(matrix, Rounding(), None, **dict(options))
    if layout.row_by_row:
        numbers, tensors = _of_rows(numbers, rows), {name: _of_rows(one, rows) for name, one in tensors.items()}
    return Parts(numbers.reshape(shape) if layout.elementwise else numbers, shape, torch.float32, tensors, plain)


def _of_rows(two: Tensor, rows: int) -> Tensor:
    """What is made of two rows, as it is of so many."""
    return torch.empty((rows, *two.shape[1:]) if two.ndim else (), dtype=two.dtype, device="meta")


def seen_as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes under another name of the same size; floats stay as they are, for they may be cast."""
    if tensor.dtype == dtype or tensor.element_size() != dtype.itemsize:
        return tensor
    return tensor.view(dtype) if torch.uint8 in (tensor.dtype, dtype) else tensor


def _shaped(tensor: Tensor, wanted: Tensor, what: str) -> Tensor:
    both_float = tensor.dtype.itemsize > 1 and wanted.dtype.itemsize > 1
    if tensor.dtype != wanted.dtype and not (both_float and tensor.is_floating_point()):
        raise BadInput(f"{what} has the dtype {tensor.dtype} instead of {wanted.dtype}.")
    loose = wanted.numel() == tensor.numel() and (wanted.numel() == 1 or tensor.shape[:1] == wanted.shape[:1])
    if tensor.shape != wanted.shape and not loose:
        raise BadInput(f"{what} has the shape {list(tensor.shape)} instead of {list(wanted.shape)}.")
    return tensor
