"""comfy.latent_formats: the latent spaces of the families, whether their models are supported or not."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from torch import Tensor

from limner.compat.homes.stands_for import StandsFor
from limner.sampling.latent import LatentFormat as Own


@cache
def _previews() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("limner.sampling").joinpath("latent_preview.json").read_text())
    return found


class LatentFormat(metaclass=StandsFor):
    """How a family's autoencoder scales what its diffusion model sees.

    latent_rgb_factors: what a preview multiplies the channels with. taesd_decoder_name: of the tiny autoencoder.
    """

    scale_factor = 1.0
    shift_factor = 0.0
    latent_channels = 4
    latent_dimensions = 2
    latent_rgb_factors: Any = None
    latent_rgb_factors_bias: Any = None
    latent_rgb_factors_reshape: Any = None
    taesd_decoder_name: str | None = None
    recognises: Any = staticmethod(lambda instance: isinstance(instance, Own))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        entry = _previews().get(cls.__name__)
        if entry is not None:
            cls.latent_rgb_factors = entry["factors"]
            cls.latent_rgb_factors_bias = entry["bias"]
            cls.taesd_decoder_name = entry["taesd"] or cls.taesd_decoder_name
        cls.recognises = staticmethod(lambda found: isinstance(found, Own) and found.preview == cls.__name__)

    # The same under the names that Limner's sampling reads.
    clean_inpaint = False
    downscale = 8

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
        return latent * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        """Model space to autoencoder space."""
        return latent / self.scale_factor


class _Shifted(LatentFormat):
    """One with a shift."""

    def process_in(self, latent: Tensor) -> Tensor:
        """Autoencoder space to model space."""
        return (latent - self.shift_factor) * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        """Model space to autoencoder space."""
        return latent / self.scale_factor + self.shift_factor


class SD15(LatentFormat):
    """Stable Diffusion 1 and 2."""

    taesd_decoder_name = "taesd_decoder"

    def __init__(self, scale_factor: float = 0.18215) -> None:
        self.scale_factor = scale_factor


class SDXL(LatentFormat):
    """Stable Diffusion XL."""

    scale_factor = 0.13025
    taesd_decoder_name = "taesdxl_decoder"


class SDXL_Playground_2_5(LatentFormat):  # noqa: N801 - ComfyUI's name
    """Playground 2.5: a mean and a deviation for each channel."""

    scale_factor = 0.5
    means = (-1.6574, 1.886, -1.383, 2.5155)
    deviations = (8.4927, 5.9022, 6.5498, 5.2299)
    taesd_decoder_name = "taesdxl_decoder"

    def process_in(self, latent: Tensor) -> Tensor:
        """Autoencoder space to model space."""
        return self._own().process_in(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        """Model space to autoencoder space."""
        return self._own().process_out(latent)

    def _own(self) -> Own:
        return Own(scale_factor=self.scale_factor, mean=self.means, std=self.deviations)


class SD_X4(LatentFormat):  # noqa: N801
    """The four times upscaler."""

    scale_factor = 0.08333


class SC_Prior(LatentFormat):  # noqa: N801
    """Stable Cascade, stage C."""

    latent_channels = 16


class SC_B(LatentFormat):  # noqa: N801
    """Stable Cascade, stage B."""

    scale_factor = 1.0 / 0.43


class SD3(_Shifted):
    """Stable Diffusion 3."""

    latent_channels = 16
    scale_factor = 1.5305
    shift_factor = 0.0609
    taesd_decoder_name = "taesd3_decoder"


class Flux(SD3):
    """Flux."""

    scale_factor = 0.3611
    shift_factor = 0.1159
    taesd_decoder_name = "taef1_decoder"


class StableAudio1(LatentFormat):
    """Stable Audio."""

    latent_channels = 64
    latent_dimensions = 1


class _Normed(LatentFormat):
    """One with a mean and a deviation for each channel."""

    means: Any = ()
    deviations: Any = ()

    def process_in(self, latent: Tensor) -> Tensor:
        """Autoencoder space to model space."""
        return self._own().process_in(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        """Model space to autoencoder space."""
        return self._own().process_out(latent)

    def _own(self) -> Own:
        return Own(scale_factor=self.scale_factor, mean=self.means, std=self.deviations)


class Mochi(_Normed):
    """Mochi."""

    latent_channels = 12
    latent_dimensions = 3
    means: Any = (
        -0.06730895953510081,
        -0.038011381506090416,
        -0.07477820912866141,
        -0.05565264470995561,
        0.012767231469026969,
        -0.04703542746246419,
        0.043896967884726704,
        -0.09346305707025976,
        -0.09918314763016893,
        -0.008729793427399178,
        -0.011931556316503654,
        -0.0321993391887285,
    )
    deviations: Any = (
        0.9263795028493863,
        0.9248894543193766,
        0.9393059390890617,
        0.959253732819592,
        0.8244560132752793,
        0.917259975397747,
        0.9294154431013696,
        1.3720942357788521,
        0.881393668867029,
        0.9168315692124348,
        0.9185249279345552,
        0.9274757570805041,
    )


class Wan21(_Normed):
    """Wan 2.1."""

    latent_channels = 16
    latent_dimensions = 3
    means: Any = (
        -0.7571,
        -0.7089,
        -0.9113,
        0.1075,
        -0.1745,
        0.9653,
        -0.1517,
        1.5508,
        0.4134,
        -0.0715,
        0.5517,
        -0.3632,
        -0.1922,
        -0.9497,
        0.2503,
        -0.2921,
    )
    deviations: Any = (
        2.8184,
        1.4541,
        2.3275,
        2.6558,
        1.2196,
        1.7708,
        2.6052,
        2.0743,
        3.2687,
        2.1526,
        2.8652,
        1.5579,
        1.6382,
        1.1253,
        2.8251,
        1.9160,
    )


class Wan22(Wan21):
    """Wan 2.2."""

    latent_channels = 48
    latent_dimensions = 3
    means: Any = (
        -0.2289,
        -0.0052,
        -0.1323,
        -0.2339,
        -0.2799,
        0.0174,
        0.1838,
        0.1557,
        -0.1382,
        0.0542,
        0.2813,
        0.0891,
        0.1570,
        -0.0098,
        0.0375,
        -0.1825,
        -0.2246,
        -0.1207,
        -0.0698,
        0.5109,
        0.2665,
        -0.2108,
        -0.2158,
        0.2502,
        -0.2055,
        -0.0322,
        0.1109,
        0.1567,
        -0.0729,
        0.0899,
        -0.2799,
        -0.1230,
        -0.0313,
        -0.1649,
        0.0117,
        0.0723,
        -0.2839,
        -0.2083,
        -0.0520,
        0.3748,
        0.0152,
        0.1957,
        0.1433,
        -0.2944,
        0.3573,
        -0.0548,
        -0.1681,
        -0.0667,
    )
    deviations: Any = (
        0.4765,
        1.0364,
        0.4514,
        1.1677,
        0.5313,
        0.4990,
        0.4818,
        0.5013,
        0.8158,
        1.0344,
        0.5894,
        1.0901,
        0.6885,
        0.6165,
        0.8454,
        0.4978,
        0.5759,
        0.3523,
        0.7135,
        0.6804,
        0.5833,
        1.4146,
        0.8986,
        0.5659,
        0.7069,
        0.5338,
        0.4889,
        0.4917,
        0.4069,
        0.4999,
        0.6866,
        0.4093,
        0.5709,
        0.6065,
        0.6415,
        0.4944,
        0.5726,
        1.2042,
        0.5458,
        1.6887,
        0.3971,
        1.0600,
        0.3943,
        0.5537,
        0.5444,
        0.4089,
        0.7468,
        0.7744,
    )


class LTXV(LatentFormat):
    """LTX video."""

    latent_channels = 128
    latent_dimensions = 3


class HunyuanVideo(LatentFormat):
    """HunyuanVideo."""

    latent_channels = 16
    latent_dimensions = 3
    scale_factor = 0.476986


class HunyuanVideo15(LatentFormat):
    """HunyuanVideo 1.5."""

    latent_channels = 32
    latent_dimensions = 3
    scale_factor = 1.03682
    taesd_decoder_name = "lighttaehy1_5"


class Cosmos1CV8x8x8(LatentFormat):
    """Cosmos."""

    latent_channels = 16
    latent_dimensions = 3


class HunyuanImage21(LatentFormat):
    """HunyuanImage 2.1."""

    latent_channels = 64
    latent_dimensions = 2
    scale_factor = 0.75289


class HunyuanImage21Refiner(LatentFormat):
    """Its refiner."""

    latent_channels = 64
    latent_dimensions = 3
    scale_factor = 1.03682


class Hunyuan3Dv2(LatentFormat):
    """Hunyuan3D 2."""

    latent_channels = 64
    latent_dimensions = 1
    scale_factor = 0.9990943042622529


class Hunyuan3Dv2_1(LatentFormat):  # noqa: N801
    """Hunyuan3D 2.1."""

    latent_channels = 64
    latent_dimensions = 1
    scale_factor = 1.0039506158752403


class Hunyuan3Dv2mini(LatentFormat):
    """Hunyuan3D 2 mini."""

    latent_channels = 64
    latent_dimensions = 1
    scale_factor = 1.0188137142395404


class ACEAudio(LatentFormat):
    """ACE-Step."""

    latent_channels = 8
    latent_dimensions = 2


class ChromaRadiance(LatentFormat):
    """Chroma Radiance: pixels."""

    latent_channels = 3
    latent_dimensions = 2
