"""comfy.quant_ops: tensors in eight bits that are brought back to floats wherever they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limner.compat.homes.not_yet import placeholder

QUANT_ALGOS: dict[str, dict[str, Any]] = {
    "float8_e4m3fn": {"storage_t": torch.float8_e4m3fn, "parameters": {"weight_scale", "input_scale"}}
}
LAYOUTS: dict[str, type[QuantizedLayout]] = {}
ck = placeholder("ck", "kernels")


class QuantizedLayout:
    """How floats are kept in eight bits."""

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
        """The numbers and their scale."""
        raise NotImplementedError


class TensorCoreFP8Layout(QuantizedLayout):
    """Eight-bit floats with one scale for the tensor."""

    @classmethod
    def quantize(cls, tensor: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """scale: of the numbers, the largest over the dtype's limit where None."""
        dtype = kwargs.get("dtype", torch.float8_e4m3fn)
        limit = torch.finfo(dtype).max
        scale = kwargs.get("scale")
        scale = tensor.abs().amax().float() / limit if scale is None else torch.as_tensor(scale)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        qdata = (tensor.float() / scale).clamp(-limit, limit).to(dtype)
        return qdata, {"scale": scale, "orig_dtype": tensor.dtype}

    @staticmethod
    def dequantize(qdata: Tensor, **params: Any) -> Tensor:
        """Numbers times their scale, in the dtype that they had."""
        restored: Tensor = (qdata.float() * params["scale"]).to(params.get("orig_dtype", torch.float32))
        return restored

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> Any:
        """The numbers and their scale."""
        return qtensor.qdata, qtensor.layout_params["scale"]


LAYOUTS["TensorCoreFP8Layout"] = TensorCoreFP8Layout


class QuantizedTensor:
    """Numbers in a layout. layout_type: its name; layout_params: its parameters."""

    def __init__(self, qdata: Tensor, layout_type: str, layout_params: dict[str, Any]) -> None:
        self.qdata, self.layout_type, self.layout_params = qdata, layout_type, layout_params

    @classmethod
    def from_float(cls, tensor: Tensor, layout_type: str, **kwargs: Any) -> QuantizedTensor:
        """A tensor in a layout."""
        qdata, params = LAYOUTS[layout_type].quantize(tensor, **kwargs)
        return cls(qdata, layout_type, params)

    def dequantize(self) -> Tensor:
        """The tensor again."""
        return LAYOUTS[self.layout_type].dequantize(self.qdata, **self.layout_params)


def register_layout_op(torch_op: Any, layout_type: str) -> Callable[[Any], Any]:
    """Keep a function for an operation of torch's on a layout: it is not used."""
    del torch_op, layout_type
    return lambda function: function


def register_generic_util(torch_op: Any) -> Callable[[Any], Any]:
    """The same for all layouts."""
    del torch_op
    return lambda function: function
