"""Quantized weights: a tensor that carries its layout, the layouts, and which operation does what on them."""

from limner.weights.quant import operations as _operations  # registers what torch's operations do
from limner.weights.quant.fallbacks import Fallbacks, counting_fallbacks, note
from limner.weights.quant.layout import Activations, Convolution, Layout
from limner.weights.quant.mode import Mode, computing, mode
from limner.weights.quant.parts import Parts, matrix_shape
from limner.weights.quant.quality import sqnr
from limner.weights.quant.registry import REGISTRY, Operation, Registry
from limner.weights.quant.rounding import Rounding
from limner.weights.quant.tensor import QuantizedTensor, as_floats, quantize, requantize

FLOATS = _operations.FLOATS

__all__ = [
    "FLOATS",
    "REGISTRY",
    "Activations",
    "Convolution",
    "Fallbacks",
    "Layout",
    "Mode",
    "Operation",
    "Parts",
    "QuantizedTensor",
    "Registry",
    "Rounding",
    "as_floats",
    "computing",
    "counting_fallbacks",
    "matrix_shape",
    "mode",
    "note",
    "quantize",
    "requantize",
    "sqnr",
]
