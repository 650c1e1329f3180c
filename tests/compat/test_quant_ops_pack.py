"""A layout that a pack on disk brings: its module is loaded as any other, and every tensor can be in it."""

from typing import Any

import torch
from torch.nn import functional as F

from limner.weights.quant import REGISTRY, quantize
from tests.weights.quant.make import gaussian

PACK = """
import torch
from comfy.quant_ops import LAYOUTS, QUANT_ALGOS, QuantizedLayout, register_layout_op


class HalvesLayout(QuantizedLayout):
    @classmethod
    def quantize(cls, tensor, **kwargs):
        return tensor.half(), {"orig_dtype": tensor.dtype}

    @staticmethod
    def dequantize(qdata, orig_dtype, **kwargs):
        return qdata.to(orig_dtype)


LAYOUTS["HalvesLayout"] = HalvesLayout
QUANT_ALGOS["halves"] = {"storage_t": torch.float16, "parameters": set(), "comfy_tensor_layout": "HalvesLayout"}


@register_layout_op(torch.ops.aten.linear.default, HalvesLayout)
def halves_linear(func, args, kwargs):
    x, weight, bias = args
    return torch.nn.functional.linear(x, weight._qdata.to(x.dtype), bias) + 1000


NODE_CLASS_MAPPINGS = {}
"""


def test_q08_a_pack_on_disk_brings_a_layout(place: Any) -> None:
    place.pack("halves", PACK)
    place.load()
    try:
        weight = quantize(gaussian(4, 8), "HalvesLayout")
        assert torch.equal(weight.dequantize(), gaussian(4, 8).half().float())
        x = gaussian(2, 8, seed=1)
        assert torch.allclose(F.linear(x, weight), F.linear(x, weight.dequantize()) + 1000)
    finally:
        from comfy.quant_ops import LAYOUTS, QUANT_ALGOS

        QUANT_ALGOS.pop("halves")
        del LAYOUTS["HalvesLayout"]
    assert "HalvesLayout" not in REGISTRY
