"""comfy.latent_formats: the latent spaces of the families, whether their models are supported or not."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from limner.compat.homes.stands_for import StandsFor
from limner.sampling.latent import LatentFormat as Own
from limner.sampling.latent import preview_entry
from limner.sampling.latent_formats import FORMATS


class LatentFormat(metaclass=StandsFor):
    """How a family's autoencoder scales what its diffusion model sees; a subclass of a known name takes its numbers.

    latent_rgb_factors: what a preview multiplies the channels with. taesd_decoder_name: of the tiny autoencoder.
    means, deviations: of each channel, where the space has them.
    """

    scale_factor = 1.0
    shift_factor = 0.0
    latent_channels = 4
    latent_dimensions = 2
    downscale = 8
    means: tuple[float, ...] | None = None
    deviations: tuple[float, ...] | None = None
    latent_rgb_factors: Any = None
    latent_rgb_factors_bias: Any = None
    latent_rgb_factors_reshape: Any = None
    taesd_decoder_name: str | None = None
    recognises: Any = staticmethod(lambda instance: isinstance(instance, Own))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = FORMATS.get(cls.__name__)
        if own is None or cls.__module__ != __name__:
            return
        cls.scale_factor, cls.shift_factor = own.scale_factor, own.shift_factor
        cls.latent_channels, cls.latent_dimensions, cls.downscale = own.channels, own.dims, own.downscale
        cls.means, cls.deviations = own.mean, own.std
        entry = preview_entry(cls.__name__)
        cls.latent_rgb_factors, cls.latent_rgb_factors_bias = entry.get("factors"), entry.get("bias")
        cls.taesd_decoder_name = own.taesd
        cls.recognises = staticmethod(
            lambda found: isinstance(found, Own) and (found.preview == own.preview if own.preview else found == own)
        )

    # The same under the names that Limner's sampling reads.
    clean_inpaint = False

    @property
    def channels(self) -> int:
        """Channels."""
        return self.latent_channels

    @property
    def dims(self) -> int:
        """Spatial axes."""
        return self.latent_dimensions

    @property
    def preview(self) -> str | None:
        """How previews are made."""
        return type(self).__name__ if self.latent_rgb_factors else None

    @property
    def taesd(self) -> str | None:
        """Name of the small decoder's file."""
        return self.taesd_decoder_name

    def process_in(self, latent: Tensor) -> Tensor:
        """Autoencoder space to model space."""
        return self._own().process_in(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        """Model space to autoencoder space."""
        return self._own().process_out(latent)

    def _own(self) -> Own:
        return Own(scale_factor=self.scale_factor, shift_factor=self.shift_factor, mean=self.means, std=self.deviations)


class SD15(LatentFormat):
    """Stable Diffusion 1 and 2."""

    def __init__(self, scale_factor: float = 0.18215) -> None:
        self.scale_factor = scale_factor


class SDXL(LatentFormat):
    """Stable Diffusion XL."""


class SDXL_Playground_2_5(LatentFormat):  # noqa: N801 - ComfyUI's name
    """Playground 2.5: a mean and a deviation for each channel."""


class SD_X4(LatentFormat):  # noqa: N801 - ComfyUI's name
    """The four times upscaler."""


class SC_Prior(LatentFormat):  # noqa: N801 - ComfyUI's name
    """Stable Cascade, stage C."""


class SC_B(LatentFormat):  # noqa: N801 - ComfyUI's name
    """Stable Cascade, stage B."""


class SD3(LatentFormat):
    """Stable Diffusion 3."""


class Flux(SD3):
    """Flux."""


class StableAudio1(LatentFormat):
    """Stable Audio."""


class Mochi(LatentFormat):
    """Mochi."""


class LTXV(LatentFormat):
    """LTX video."""


class HunyuanVideo(LatentFormat):
    """HunyuanVideo."""


class HunyuanVideo15(LatentFormat):
    """HunyuanVideo 1.5."""


class Cosmos1CV8x8x8(LatentFormat):
    """Cosmos."""


class Wan21(LatentFormat):
    """Wan 2.1."""


class Wan22(Wan21):
    """Wan 2.2."""


class HunyuanImage21(LatentFormat):
    """HunyuanImage 2.1."""


class HunyuanImage21Refiner(LatentFormat):
    """Its refiner."""


class Hunyuan3Dv2(LatentFormat):
    """Hunyuan3D 2."""


class Hunyuan3Dv2_1(LatentFormat):  # noqa: N801 - ComfyUI's name
    """Hunyuan3D 2.1."""


class Hunyuan3Dv2mini(LatentFormat):
    """Hunyuan3D 2 mini."""


class ACEAudio(LatentFormat):
    """ACE-Step."""


class ChromaRadiance(LatentFormat):
    """Chroma Radiance: pixels."""
