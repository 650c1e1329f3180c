"""Layers that read quantized weights from a state dict, for networks that packs build and fill themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limner.errors import BadInput, NotFound
from limner.weights import CheckpointHeader
from limner.weights.quant.files import quantized
from limner.weights.quant.form import BESIDE, BROKEN
from limner.weights.quant.forms import metadata, scaled_fp8
from limner.weights.quant.forms.in_band import LEAF

OWN = (*BESIDE, LEAF, scaled_fp8.SCALE, scaled_fp8.INPUTS)
"""What a state dict may have beside a layer's weight."""


class BadLayer(BadInput, ValueError):
    """A layer that cannot be read; a ValueError, as packs expect."""


class UnknownFormat(NotFound, KeyError):
    """A format that nobody registered; a KeyError, as packs expect."""


def layers_like(
    base: type, said: Mapping[str, Any] | None, compute: torch.dtype | None, full_precision: bool = False
) -> type:
    """`base`, whose Linear reads its weight as a configuration says: a type of its own, which shares nothing.

    said: layer → format, or an object with it; layers that it does not name are as the state dict says, or plain.
    compute: dtype of plain weights; None leaves them as they are. full_precision: inputs are not rounded.
    """

    class MixedPrecisionOps(base):  # type: ignore[misc]
        """Layers of a network in several precisions."""

        _layer_quant_config: ClassVar[Any] = dict(said or {})
        _compute_dtype = compute

        class Linear(base.Linear):  # type: ignore[misc, name-defined]
            """x @ weightᵀ + bias."""

            def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
                config, dtype = MixedPrecisionOps._layer_quant_config, MixedPrecisionOps._compute_dtype
                weight = taken(state_dict, prefix, config.get(prefix.removesuffix(".")), full_precision)
                super()._load_from_state_dict(state_dict, prefix, *rest)
                missing = rest[2]
                if prefix + "weight" in missing:
                    missing.remove(prefix + "weight")
                self.weight = nn.Parameter(weight if dtype is None else weight.to(dtype), requires_grad=False)

    return MixedPrecisionOps


def taken(state: MutableMapping[str, Tensor], prefix: str, said: Any, full_precision: bool) -> Tensor:
    """A layer's weight out of a state dict, with all that belongs to it. Raises BadLayer, UnknownFormat."""
    layer = prefix.removesuffix(".")
    if prefix + "weight" not in state:
        raise BadLayer(f"Missing weight for layer {layer}.", do=BROKEN)
    if isinstance(said, Mapping) and "format" not in said:
        raise BadLayer(f"Unknown quantization format for layer {layer}.", why="What is said of it names none.")
    own = {"layer." + name: state.pop(prefix + name) for name in ("weight", *OWN) if prefix + name in state}
    marker = next((state[one] for one in (scaled_fp8.MARKER, prefix + scaled_fp8.MARKER) if one in state), None)
    if marker is not None and "layer." + scaled_fp8.SCALE in own:
        own[scaled_fp8.MARKER] = marker
    texts = {}
    if said is not None:
        one = {"format": said} if isinstance(said, str) else dict(said)
        if full_precision:
            one["full_precision_matrix_mult"] = True
        texts[metadata.KEY] = json.dumps({"format_version": metadata.VERSION, "layers": {"layer": one}})
    try:
        return quantized(CheckpointHeader.of(own, texts)).tensor("layer.weight")
    except NotFound as error:
        raise UnknownFormat(f"Layer {layer}: {error.what}", error.why, error.do) from error
    except BadInput as error:
        raise BadLayer(f"Layer {layer}: {error.what}", error.why, error.do) from error
