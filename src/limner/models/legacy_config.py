"""A model's configuration as packs read it: dictionaries under the names of the reference's arguments."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any

import torch

from limner.weights.lazy import PackedTensor

if TYPE_CHECKING:
    from limner.models.model import Model


@dataclass
class LegacyConfig:
    """unet_config: the network's arguments. sampling_settings: of the noise levels. family, variant: their names.

    layer_quant_config: of quantized layers, what they are; None without any.
    """

    unet_config: dict[str, Any]
    latent_format: Any
    family: str
    sampling_settings: dict[str, Any] = field(default_factory=dict)
    unet_extra_config: dict[str, Any] = field(default_factory=dict)
    optimizations: dict[str, Any] = field(default_factory=lambda: {"fp8": False})
    supported_inference_dtypes: tuple[torch.dtype, ...] = ()
    memory_usage_factor: float = 2.0
    manual_cast_dtype: torch.dtype | None = None
    custom_operations: Any = None
    scaled_fp8: Any = None
    layer_quant_config: Any = None
    variant: str = ""

    @classmethod
    def of(cls, model: Model) -> LegacyConfig:
        """The configuration of a model."""
        config = asdict(model.config) if is_dataclass(model.config) and not isinstance(model.config, type) else {}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
        plain.setdefault("use_temporal_attention", False)
        plain.update(model.family.legacy(model.config))
        plain["dtype"] = model.model_dtype()
        prediction = getattr(model, "prediction", None)
        packed = {name: one for name, one in model.source.tensors.items() if isinstance(one, PackedTensor)}
        variant = model.family.variant(model.config)
        return cls(
            plain,
            model.family.latent,
            model.family.name,
            sampling_settings=dict(prediction.settings) if prediction is not None else {},
            supported_inference_dtypes=tuple(model.family.dtypes),
            memory_usage_factor=model.family.memory_factor * model.family.memory_scale(model.config),
            layer_quant_config={
                name.removesuffix(".weight"): {"format": one.like.packing.format} for name, one in packed.items()
            }
            or None,
            variant="" if variant is None else variant.name,
        )

    def inpaint_model(self) -> bool:
        """Whether more is joined to the latent than it has channels."""
        return bool(self.unet_config.get("in_channels", 0) > self.unet_config.get("out_channels", 0))
