"""Networks of the families at reduced width with seeded weights, and what their files must say beside the tensors.

UNets have the published number of blocks and of transformers in each; transformers of the other families are two blocks
deep. Text encoders fit together: what one family's are wide, its diffusion model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import Tensor, nn

from limner.models.chroma import Chroma, ChromaConfig
from limner.models.chroma_radiance import ChromaRadiance, RadianceConfig
from limner.models.detect import detect
from limner.models.flux import Flux, FluxConfig
from limner.models.pixart import PixArt, PixArtConfig
from limner.models.qwen_image import QwenImageConfig, QwenImageTransformer2DModel
from limner.models.sd3 import MMDiT, MMDiTConfig
from limner.models.style_models import ReduxImageEncoder
from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.text.qwen25 import Qwen25Config, Qwen25Text
from limner.models.text.t5 import T5Config, T5Text
from limner.models.unet import UNet, UNetConfig
from limner.models.vae.kl import AutoencoderKL, KLConfig
from limner.models.vae.wan import WanConfig, WanVAE
from limner.models.vision.transformer import VisionConfig, VisionTransformer
from tests.models.checkpoints import real_header
from tests.models.make import TINY_QWEN, tiny_bpe, tiny_words
from tests.reference.make import seeded

CLIP_L, CLIP_G, CLIP_H, T5, QWEN = 8, 12, 8, 32, 16
"""Width of a token's vector; a CLIP's pooled vector is as wide."""
PICTURE = 12
"""Width of the vector of a picture."""


@dataclass(frozen=True)
class Part:
    """A network and what a file says of it. tokenizer: of a text encoder, as `tokenizer.json`."""

    make: Callable[[], nn.Module]
    config: Mapping[str, Any]
    tokenizer: Callable[[], str] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Its seeded weights."""
        return dict(seeded(self.make()).state_dict())


# -- diffusion models -------------------------------------------------------------------------------------------------

UNET_SAYS = {"num_heads": 2, "norm_groups": 4}


@cache
def _published(header: str) -> UNetConfig:
    match = detect(real_header(header))
    config = match.family.infer_config(match.diffusion, {})
    assert isinstance(config, UNetConfig)
    return config


def unet(header: str, **changes: Any) -> Part:
    """The UNet of a published file, whose levels are 8, 16 … channels wide. changes: of its config."""
    narrow = {"model_channels": 8, "num_heads": 2, "num_head_channels": -1, "norm_groups": 4}
    return Part(lambda: UNet(replace(_published(header), **narrow, **changes)), UNET_SAYS)


def mmdit(**changes: Any) -> Part:
    """Stable Diffusion 3 of two blocks."""
    config = MMDiTConfig(
        hidden_size=32, depth=2, num_heads=2, mlp_width=64, adm_in_channels=CLIP_L + CLIP_G, context_dim=T5,
        pos_embed_max_size=8,
    )  # fmt: skip
    return Part(lambda: MMDiT(replace(config, **changes)), {"num_heads": 2})


FLUX_DIMENSIONS = {
    "context_in_dim": T5, "hidden_size": 32, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": (4, 6, 6),
}  # fmt: skip
FLUX_SAYS = {"num_heads": 2, "axes_dim": (4, 6, 6)}
GUIDER = {"in_dim": 64, "hidden_dim": 32, "n_layers": 2}
"""Of the network that tells Chroma's blocks."""


def flux(**changes: Any) -> Part:
    """FLUX.1 of two blocks of each kind."""
    config = FluxConfig(vec_in_dim=CLIP_L, **FLUX_DIMENSIONS)  # type: ignore[arg-type]
    return Part(lambda: Flux(replace(config, **changes)), FLUX_SAYS)


def chroma() -> Part:
    """Chroma of two blocks of each kind."""
    return Part(lambda: Chroma(ChromaConfig(**FLUX_DIMENSIONS, **GUIDER)), FLUX_SAYS)  # type: ignore[arg-type]


def chroma_radiance() -> Part:
    """Chroma Radiance of two blocks of each kind and a narrow neural field."""
    config = RadianceConfig(**FLUX_DIMENSIONS, **GUIDER, nerf_hidden_size=8, nerf_depth=2)  # type: ignore[arg-type]
    return Part(lambda: ChromaRadiance(config), FLUX_SAYS)


def pixart(*, alpha: bool) -> Part:
    """PixArt of two blocks; α is told the picture's size."""
    config = PixArtConfig(
        hidden_size=48, depth=2, num_heads=2, mlp_width=96, caption_channels=T5, micro_condition=alpha
    )
    return Part(lambda: PixArt(config), {"num_heads": 2})


QWEN_IMAGE = QwenImageConfig(
    num_layers=2, num_attention_heads=2, attention_head_dim=16, joint_attention_dim=QWEN, mlp_width=64,
    axes_dims_rope=(4, 6, 6),
)  # fmt: skip


def qwen_image() -> Part:
    """Qwen-Image of two blocks."""
    return Part(lambda: QwenImageTransformer2DModel(QWEN_IMAGE), {"axes_dims_rope": QWEN_IMAGE.axes_dims_rope})


# -- text encoders ----------------------------------------------------------------------------------------------------

SPECIAL = {"bos_token_id": 516, "eos_token_id": 517}
"""Ids of the tiny byte-pair encoder."""
QWEN_TOKENS = {
    "<|im_start|>": 151644, "<|im_end|>": 151645, "<|vision_start|>": 151652, "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
}  # fmt: skip
"""Those that prompts of Qwen-Image are cut by, under their published ids."""


def _clip(width: int, pad: int, projection: int | None = None, hidden_act: str = "quick_gelu") -> Part:
    config = CLIPTextConfig(
        vocab_size=600, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=projection, hidden_act=hidden_act, eos_token_id=517,
    )  # fmt: skip
    said = {"num_attention_heads": 2, **SPECIAL, "pad_token_id": pad}
    return Part(lambda: CLIPText(config), said, lambda: tiny_bpe().to_str())


def _t5() -> Part:
    config = T5Config(vocab_size=2100, d_model=T5, d_kv=4, d_ff=24, num_layers=2, num_heads=2)
    return Part(lambda: T5Text(config), {}, lambda: tiny_words().to_str())


def _qwen() -> Part:
    config: Qwen25Config = replace(TINY_QWEN, vocab_size=max(QWEN_TOKENS.values()) + 1, hidden_size=QWEN)
    assert config.vision is not None
    said = {
        "head_dim": config.head_dim, "rope_dims": config.rope_dims,
        "vision_config": {"num_heads": config.vision.num_heads, "full_blocks": config.vision.full_blocks},
    }  # fmt: skip
    return Part(lambda: Qwen25Text(config), said, lambda: tiny_words(**QWEN_TOKENS).to_str())


ENCODERS: Mapping[str, Part] = {
    "clip_l": _clip(CLIP_L, 517),
    "clip_g": _clip(CLIP_G, 0, CLIP_G, "gelu"),
    "clip_h": _clip(CLIP_H, 0, CLIP_H, "gelu"),
    "t5xxl": _t5(),
    "qwen25_7b": _qwen(),
}

# -- what pictures say ------------------------------------------------------------------------------------------------

_VISION = VisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, patch_size=4, image_size=16,
    projection_dim=PICTURE, hidden_act="gelu",
)  # fmt: skip
_SIGLIP = replace(_VISION, class_token=False, projection_dim=None, hidden_act="gelu_pytorch_tanh")


def vision() -> Part:
    """CLIP's vision encoder of three layers, for pictures of 16 pixels."""
    return Part(lambda: VisionTransformer(_VISION), {"num_attention_heads": 2})


def siglip() -> Part:
    """SigLIP of three layers, for pictures of 16 pixels."""
    return Part(lambda: VisionTransformer(_SIGLIP), {"num_attention_heads": 2})


def redux() -> Part:
    """FLUX.1 Redux between that SigLIP and the small Flux."""
    return Part(lambda: ReduxImageEncoder(_SIGLIP.hidden_size, T5, 24), {})


# -- autoencoders -----------------------------------------------------------------------------------------------------

COARSE = WanConfig(
    dim=2, dim_mult=(1, 1, 2, 4, 4, 4), num_res_blocks=1, temperal_downsample=(False, False, False, True, True)
)
"""Of 32 pixels a cell: nodes that edit encode pictures of a megapixel, and attention over 128 by 128 cells takes long."""
_KL = KLConfig(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, norm_groups=4)


def _kl(**changes: Any) -> Part:
    return Part(lambda: AutoencoderKL(replace(_KL, **changes)), {"norm_groups": 4})


AUTOENCODERS: Mapping[str, Part] = {
    "sd": _kl(),
    "sd_x4": _kl(ch_mult=(1, 1, 2)),
    "sixteen": _kl(z_channels=16, embed_dim=16, quant=False),
    "wan": Part(lambda: WanVAE(WanConfig(dim=8, num_res_blocks=1)), {}),
    "wan_coarse": Part(lambda: WanVAE(COARSE), {}),
}
