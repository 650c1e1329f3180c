"""Small networks and prompts to test with."""

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from limner.models.flux import Flux, FluxConfig
from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.text.qwen25 import Qwen25Config, Qwen25Text
from limner.models.text.qwen25_vision import VisionConfig
from limner.models.text.t5 import T5Config, T5Text
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

TINY_T5 = T5Config(vocab_size=2100, d_model=32, d_kv=4, d_ff=24, num_layers=2, num_heads=2)
TINY_QWEN = Qwen25Config(
    vocab_size=700,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rope_dims=(2, 3, 3),
    vision=VisionConfig(
        hidden_size=16, output_hidden_size=16, intermediate_size=20, num_heads=2, num_layers=2, full_blocks=(1,)
    ),
)
TINY_FLUX = FluxConfig(
    vec_in_dim=12, context_in_dim=20, hidden_size=64, num_heads=2, depth=3, depth_single_blocks=2, axes_dim=(8, 12, 12)
)
WORDS = ("<pad>", "</s>", "<unk>", "a", "cat", "dog", "on", "mat", "(", ")", ":", "1.2")


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


def tiny_t5(**changes) -> T5Text:
    """A T5 encoder of two layers with seeded weights, for the ids of `tiny_words`."""
    torch.manual_seed(0)
    return T5Text(T5Config(**{**TINY_T5.__dict__, **changes})).eval()


def tiny_qwen(**changes) -> Qwen25Text:
    """A Qwen2.5-VL of two layers with seeded weights and a vision tower."""
    torch.manual_seed(0)
    return Qwen25Text(Qwen25Config(**{**TINY_QWEN.__dict__, **changes})).eval()


def tiny_flux(**changes) -> Flux:
    """FLUX.1 of three blocks of two streams and two of one, with seeded weights."""
    torch.manual_seed(0)
    network = Flux(FluxConfig(**{**TINY_FLUX.__dict__, **changes})).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network


def tiny_words(**special: int) -> Tokenizer:
    """A tokenizer that knows a few words; its end token is 1, its padding 0. special: more tokens and their ids."""
    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel({**words, **special}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    return tokenizer
