"""comfy.ops: layers that packs build networks from, in the forms they are asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.compat.homes import cli_args
from limner.compat.homes.cli_args import PerformanceFeature
from limner.compat.homes.mixed_precision import layers_like
from limner.memory.casting import cast_to
from limner.weights.quant.matmul import multiplies_fp8

__all__ = ["cast_to"]

CUBLAS_IS_AVAILABLE = False


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Torch's attention."""
    return F.scaled_dot_product_attention(q, k, v, *args, **kwargs)


def cast_to_input(weight: Tensor, input: Tensor, non_blocking: bool = False, copy: bool = True) -> Tensor:  # noqa: A002
    """A weight in the dtype and on the device of an input."""
    return cast_to(weight, input.dtype, input.device, non_blocking=non_blocking, copy=copy)


def cast_bias_weight(
    s: Any,
    input: Tensor | None = None,  # noqa: A002 - the published name
    dtype: torch.dtype | None = None,
    device: Any = None,
    bias_dtype: torch.dtype | None = None,
    offloadable: bool = False,
) -> Any:
    """A layer's (weight, bias) as an input needs them, changed by the layer's functions; offloadable: and a stream."""
    if input is not None:
        dtype, device = dtype or input.dtype, input.device if device is None else device
    own, beside = _own_weights(s, dtype)
    weight = _changed(s, "weight", cast_to(own, dtype, device))
    bias = None if beside is None else _changed(s, "bias", cast_to(beside, bias_dtype or dtype, device))
    return (weight, bias, None) if offloadable else (weight, bias)


def _own_weights(layer: Any, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    """A layer's weight and bias; those that do not stay on the device are brought, patched, until the next layer's."""
    streamed = getattr(layer, "streamed", None)
    if streamed is None:
        return layer.weight, getattr(layer, "bias", None)
    weight, *rest = streamed.arrive(streamed.dtype if dtype is None else dtype)
    return weight, rest[0] if rest else None


def _changed(layer: Any, name: str, value: Tensor) -> Tensor:
    for function in getattr(layer, f"{name}_function", ()):
        value = function(value)
    return value


def uncast_bias_weight(s: Any, weight: Any, bias: Any, offload_stream: Any) -> None:
    """Give back what `cast_bias_weight` made: nothing is kept."""
    del s, weight, bias, offload_stream


def run_every_op() -> None:
    """What is done at each layer: nothing."""


def linear_input_act(layer: Any, x: Tensor, activation: Any = None) -> Tensor:
    """A linear layer over an activated input."""
    found: Tensor = layer(x if activation is None else activation(x))
    return found


class CastWeightBiasOp:
    """A layer that brings its weights to the dtype and device of its input.

    weight_function, bias_function: functions that change them each time.
    """

    comfy_cast_weights = False
    weight_function: Any = ()
    bias_function: Any = ()

    def reset_parameters(self) -> None:
        """Leave the memory of new parameters as it is: they are loaded."""


def _plain(layer: Any) -> bool:
    return not (layer.comfy_cast_weights or len(layer.weight_function) or len(layer.bias_function))


class _Cast(CastWeightBiasOp):
    """What the layers below have in common: torch's own pass, unless weights are to be brought or changed."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer of its input."""
        layer: Any = self
        own: Any = super()  # torch's layer, which comes after this class in the order
        found: Tensor = own.forward(*args, **kwargs) if _plain(self) else layer.forward_comfy_cast_weights(*args)
        return found


class _CastConvolution(_Cast):
    """A convolution over one, two or three axes."""

    def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:  # noqa: A002
        """The same with weights brought to the input."""
        layer: Any = self
        weight, bias = cast_bias_weight(self, input)
        convolved: Tensor = layer._conv_forward(input, weight, bias)
        return convolved


class disable_weight_init:  # noqa: N801 - ComfyUI's name
    """Torch's layers without the initialisation of their weights."""

    class Linear(_Cast, nn.Linear):
        """x @ weightᵀ + bias."""

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:  # noqa: A002
            """The same with weights brought to the input."""
            weight, bias = cast_bias_weight(self, input)
            return F.linear(input, weight, bias)

    class Conv1d(_CastConvolution, nn.Conv1d):
        """One-dimensional convolution."""

    class Conv2d(_CastConvolution, nn.Conv2d):
        """Two-dimensional convolution."""

    class Conv3d(_CastConvolution, nn.Conv3d):
        """Three-dimensional convolution."""

    class GroupNorm(_Cast, nn.GroupNorm):
        """Group normalization."""

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:  # noqa: A002
            """The same with weights brought to the input."""
            weight, bias = cast_bias_weight(self, input)
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)

    class LayerNorm(_Cast, nn.LayerNorm):
        """Layer normalization."""

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:  # noqa: A002
            """The same with weights brought to the input."""
            weight, bias = (None, None) if self.weight is None else cast_bias_weight(self, input)
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)

    class RMSNorm(_Cast, nn.RMSNorm):
        """Normalization by the root mean square."""

        bias = None

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:  # noqa: A002
            """The same with weights brought to the input."""
            weight = None if self.weight is None else cast_bias_weight(self, input)[0]
            return F.rms_norm(input, self.normalized_shape, weight, self.eps)

    class ConvTranspose2d(_Cast, nn.ConvTranspose2d):
        """Transposed two-dimensional convolution."""

        def forward_comfy_cast_weights(self, input: Tensor, output_size: Any = None) -> Tensor:  # noqa: A002
            """The same with weights brought to the input."""
            place: Any = (self.stride, self.padding, self.kernel_size, 2, self.dilation)
            extra: Any = self._output_padding(input, output_size, *place)
            weight, bias = cast_bias_weight(self, input)
            shape: Any = (self.stride, self.padding, extra, self.groups, self.dilation)
            return F.conv_transpose2d(input, weight, bias, *shape)

    class ConvTranspose1d(_Cast, nn.ConvTranspose1d):
        """Transposed one-dimensional convolution."""

        def forward_comfy_cast_weights(self, input: Tensor, output_size: Any = None) -> Tensor:  # noqa: A002
            """The same with weights brought to the input."""
            place: Any = (self.stride, self.padding, self.kernel_size, 1, self.dilation)
            extra: Any = self._output_padding(input, output_size, *place)
            weight, bias = cast_bias_weight(self, input)
            shape: Any = (self.stride, self.padding, extra, self.groups, self.dilation)
            return F.conv_transpose1d(input, weight, bias, *shape)

    class Embedding(CastWeightBiasOp, nn.Embedding):
        """A table of vectors."""

        bias = None

        def forward(self, input: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:  # noqa: A002
            """ids: (…) → (…, width), in `out_dtype` where it is given."""
            found = super().forward(input)
            found = found if _plain(self) else _changed(self, "weight", found)
            return found if out_dtype is None else found.to(out_dtype)

    @classmethod
    def conv_nd(cls, dims: int, *args: Any, **kwargs: Any) -> nn.Module:
        """A convolution over 2 or 3 axes. Raises ValueError for others."""
        if dims not in (2, 3):
            raise ValueError(f"unsupported dimensions: {dims}")
        made: nn.Module = (cls.Conv2d if dims == 2 else cls.Conv3d)(*args, **kwargs)
        return made


class manual_cast(disable_weight_init):  # noqa: N801
    """The same, each bringing its weights to the dtype and device of its input."""

    class Linear(disable_weight_init.Linear):
        """x @ weightᵀ + bias."""

        comfy_cast_weights = True

    class Conv1d(disable_weight_init.Conv1d):
        """One-dimensional convolution."""

        comfy_cast_weights = True

    class Conv2d(disable_weight_init.Conv2d):
        """Two-dimensional convolution."""

        comfy_cast_weights = True

    class Conv3d(disable_weight_init.Conv3d):
        """Three-dimensional convolution."""

        comfy_cast_weights = True

    class GroupNorm(disable_weight_init.GroupNorm):
        """Group normalization."""

        comfy_cast_weights = True

    class LayerNorm(disable_weight_init.LayerNorm):
        """Layer normalization."""

        comfy_cast_weights = True

    class RMSNorm(disable_weight_init.RMSNorm):
        """Normalization by the root mean square."""

        comfy_cast_weights = True

    class ConvTranspose2d(disable_weight_init.ConvTranspose2d):
        """Transposed two-dimensional convolution."""

        comfy_cast_weights = True

    class ConvTranspose1d(disable_weight_init.ConvTranspose1d):
        """Transposed one-dimensional convolution."""

        comfy_cast_weights = True

    class Embedding(disable_weight_init.Embedding):
        """A table of vectors."""

        comfy_cast_weights = True


class fp8_ops(manual_cast):  # noqa: N801
    """Layers whose weights are kept in eight bits."""


class cublas_ops(disable_weight_init):  # noqa: N801
    """Layers that another library multiplies in float16; there is none here."""


def fp8_linear(self: Any, input: Tensor) -> Tensor | None:  # noqa: A002
    """Multiply in eight bits; None says that it was not done."""
    del self, input
    return None


def scaled_fp8_ops(fp8_matrix_mult: bool = False, scale_input: bool = False, override_dtype: Any = None) -> type:
    """Layers for weights in eight bits with a scale; the state dict says in which dtype they are."""
    del scale_input, override_dtype
    return layers_like(manual_cast, None, None, full_precision=not fp8_matrix_mult)


def mixed_precision_ops(
    quant_config: Any = None,
    compute_dtype: torch.dtype = torch.bfloat16,
    full_precision_mm: bool = False,
    disabled: Any = (),
) -> type:
    """Layers for weights in several precisions. quant_config: layer → format, or an object with it.

    disabled: formats that the device does not multiply; those here are asked when a product is made.
    """
    del disabled
    layers = quant_config.get("layers", quant_config) if quant_config else {}
    return layers_like(manual_cast, layers, compute_dtype, full_precision_mm)


MixedPrecisionOps = mixed_precision_ops()


def pick_operations(
    weight_dtype: torch.dtype | None,
    compute_dtype: torch.dtype | None,
    load_device: Any = None,
    disable_fast_fp8: bool = False,
    fp8_optimizations: bool = False,
    scaled_fp8: Any = None,
    model_config: Any = None,
) -> type:
    """The layers for weights in one dtype and a computation in another: what a file says of them comes first."""
    layers = getattr(model_config, "layer_quant_config", None)
    if layers:
        return mixed_precision_ops(layers, compute_dtype or torch.bfloat16)
    multiplies = load_device is not None and multiplies_fp8(torch.device(load_device))
    if scaled_fp8 is not None:
        fast = multiplies and fp8_optimizations and not disable_fast_fp8
        return scaled_fp8_ops(fp8_matrix_mult=fast, override_dtype=scaled_fp8)
    wanted = fp8_optimizations or PerformanceFeature.Fp8MatrixMultiplication in cli_args.args.fast
    if multiplies and wanted and not disable_fast_fp8:
        return fp8_ops
    halves = weight_dtype == torch.float16 and compute_dtype in (torch.float16, None)
    if CUBLAS_IS_AVAILABLE and PerformanceFeature.CublasOps in cli_args.args.fast and halves:
        return cublas_ops
    return disable_weight_init if compute_dtype is None or weight_dtype == compute_dtype else manual_cast
