"""The latent spaces by name: what families, previews and node packs mean by `Flux` or `Wan21`.

A space belongs to an autoencoder, not to a diffusion model, so several families share one. Previews and small decoders
are in `latent_preview.json` under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from limner.errors import NotFound
from limner.sampling.latent import LatentFormat, preview_table


def _format(name: str, channels: int, dims: int = 2, **settings: Any) -> LatentFormat:
    entry = preview_table().get(name)
    taesd = None if entry is None else entry["taesd"]
    return LatentFormat(channels, dims, preview=None if entry is None else name, taesd=taesd, **settings)


_MOCHI_MEAN = (
    -0.06730895953510081, -0.038011381506090416, -0.07477820912866141, -0.05565264470995561,
    0.012767231469026969, -0.04703542746246419, 0.043896967884726704, -0.09346305707025976,
    -0.09918314763016893, -0.008729793427399178, -0.011931556316503654, -0.0321993391887285,
)  # fmt: skip
_MOCHI_STD = (
    0.9263795028493863, 0.9248894543193766, 0.9393059390890617, 0.959253732819592,
    0.8244560132752793, 0.917259975397747, 0.9294154431013696, 1.3720942357788521,
    0.881393668867029, 0.9168315692124348, 0.9185249279345552, 0.9274757570805041,
)  # fmt: skip
_WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_WAN21_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
_WAN22_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_WAN22_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
_PLAYGROUND_MEAN, _PLAYGROUND_STD = (-1.6574, 1.886, -1.383, 2.5155), (8.4927, 5.9022, 6.5498, 5.2299)

FORMATS: Mapping[str, LatentFormat] = MappingProxyType(
    {
        "LatentFormat": LatentFormat(),
        "SD15": _format("SD15", 4, scale_factor=0.18215),
        "SDXL": _format("SDXL", 4, scale_factor=0.13025),
        "SDXL_Playground_2_5": _format(
            "SDXL_Playground_2_5", 4, scale_factor=0.5, mean=_PLAYGROUND_MEAN, std=_PLAYGROUND_STD
        ),
        "SD_X4": _format("SD_X4", 4, downscale=4, scale_factor=0.08333),
        "SC_Prior": _format("SC_Prior", 16, downscale=32),
        "SC_B": _format("SC_B", 4, downscale=4, scale_factor=1 / 0.43),
        "SD3": _format("SD3", 16, scale_factor=1.5305, shift_factor=0.0609),
        "Flux": _format("Flux", 16, scale_factor=0.3611, shift_factor=0.1159),
        "StableAudio1": _format("StableAudio1", 64, 1),
        "Mochi": _format("Mochi", 12, 3, mean=_MOCHI_MEAN, std=_MOCHI_STD),
        "LTXV": _format("LTXV", 128, 3, downscale=32),
        "HunyuanVideo": _format("HunyuanVideo", 16, 3, scale_factor=0.476986),
        "HunyuanVideo15": _format("HunyuanVideo15", 32, 3, downscale=16, scale_factor=1.03682),
        "Cosmos1CV8x8x8": _format("Cosmos1CV8x8x8", 16, 3),
        "Wan21": _format("Wan21", 16, 3, mean=_WAN21_MEAN, std=_WAN21_STD),
        "Wan22": _format("Wan22", 48, 3, downscale=16, mean=_WAN22_MEAN, std=_WAN22_STD),
        "HunyuanImage21": _format("HunyuanImage21", 64, downscale=32, scale_factor=0.75289),
        "HunyuanImage21Refiner": _format("HunyuanImage21Refiner", 64, 3, downscale=16, scale_factor=1.03682),
        "Hunyuan3Dv2": _format("Hunyuan3Dv2", 64, 1, scale_factor=0.9990943042622529),
        "Hunyuan3Dv2_1": _format("Hunyuan3Dv2_1", 64, 1, scale_factor=1.0039506158752403),
        "Hunyuan3Dv2mini": _format("Hunyuan3Dv2mini", 64, 1, scale_factor=1.0188137142395404),
        "ACEAudio": _format("ACEAudio", 8),
        "ChromaRadiance": _format("ChromaRadiance", 3, downscale=1),
    }
)
"""Every latent space, under the names that previews and node packs use."""


def latent_format(name: str) -> LatentFormat:
    """The latent space of one name. Raises NotFound for a name that is not in `FORMATS`."""
    if name not in FORMATS:
        raise NotFound(f"There is no latent format {name!r}.", do=f"The known ones are {', '.join(FORMATS)}.")
    return FORMATS[name]
