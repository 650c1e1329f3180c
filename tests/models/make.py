"""Small networks and prompts to test with."""

import torch
from tokenizers import Tokenizer

from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.text.tokenizer import RowTokenizer
from limner.models.text.vocabulary import TokenizerJson, clip_bpe
from limner.models.unet import UNet, UNetConfig
from limner.models.vae.kl import AutoencoderKL, KLConfig

TINY_UNET = UNetConfig(
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(1, 1),
    transformer_depth_middle=1,
    transformer_depth_output=(1, 1, 1, 1),
    context_dim=6,
    num_heads=2,
    norm_groups=4,
)
TINY_KL = KLConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, norm_groups=4)
TINY_CLIP = CLIPTextConfig(
    vocab_size=600, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, eos_token_id=517
)


def tiny_unet(**changes) -> UNet:
    """A UNet of two levels with seeded weights."""
    torch.manual_seed(0)
    return UNet(UNetConfig(**{**TINY_UNET.__dict__, **changes})).eval()


def tiny_vae(**changes) -> AutoencoderKL:
    """An autoencoder that halves the size, with seeded weights."""
    torch.manual_seed(0)
    return AutoencoderKL(KLConfig(**{**TINY_KL.__dict__, **changes})).eval()


def tiny_clip(**changes) -> CLIPText:
    """A text encoder of three layers with seeded weights, for the ids of `tiny_tokenizer`."""
    torch.manual_seed(0)
    return CLIPText(CLIPTextConfig(**{**TINY_CLIP.__dict__, **changes})).eval()


def tiny_bpe() -> Tokenizer:
    """A byte-pair encoder that knows bytes and the words "cat" and "dog": ids 0 … 511 bytes, start 516, end 517."""
    return clip_bpe([("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")])


def tiny_tokenizer(**settings) -> RowTokenizer:
    """A tokenizer of that vocabulary, whose padding is its end token."""
    return RowTokenizer(TokenizerJson(tiny_bpe()), **{"start": 516, "end": 517, "pad": 517, **settings})


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's tensors, as a file's header gives them."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
