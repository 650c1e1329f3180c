"""comfy.sd1_clip: prompts with weights, embeddings, and the classes of text encoders and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from limner.compat.homes._services import memory
from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models.clip_parts import ClipModel, ClipModelPart, ClipTokenizerPart, ClipTokenizers
from limner.models.text.embeddings import vectors_of
from limner.models.text.t5 import Norm
from limner.models.text.weighting import parse_weights
from limner.weights import CheckpointHeader


def gen_empty_tokens(special_tokens: dict[str, int | None], length: int) -> list[int]:
    """The ids of a row without text: start, end, padding."""
    start, end, pad = special_tokens.get("start"), special_tokens.get("end"), special_tokens.get("pad", 0)
    found = [one for one in (start, end) if one is not None]
    return found + [int(pad or 0)] * (length - len(found))


def parse_parentheses(string: str) -> list[str]:
    """A prompt cut at its outermost parentheses."""
    found, current, depth = [], "", 0
    for letter in string:
        if letter == "(":
            if depth == 0 and current:
                found.append(current)
                current = ""
            depth += 1
        current += letter
        if letter == ")":
            depth -= 1
            if depth == 0:
                found.append(current)
                current = ""
    return [*found, current] if current else found


def token_weights(string: str, current_weight: float) -> list[tuple[str, float]]:
    """A prompt as stretches of text with their weights."""
    return [(one.text, one.weight * current_weight) for one in parse_weights(string)]


def escape_important(text: str) -> str:
    """Escaped parentheses as control characters."""
    return text.replace("\\)", "\0\1").replace("\\(", "\0\2")


def unescape_important(text: str) -> str:
    """Back to parentheses."""
    return text.replace("\0\1", ")").replace("\0\2", "(")


def expand_directory_list(directories: Sequence[str]) -> list[str]:
    """Folders and all that are in them."""
    found: dict[str, None] = {}
    for directory in directories:
        found[str(directory)] = None
        found.update({str(one): None for one in sorted(Path(directory).rglob("*")) if one.is_dir()})
    return list(found)


def bundled_embed(embed: dict[str, Any], prefix: str, suffix: str) -> Any:
    """The vectors of an embedding inside a file of many, one below the other; None where there are none."""
    found = [value for name, value in embed.items() if name.startswith(prefix) and name.endswith(suffix)]
    return torch.cat(found, dim=0) if found else None


def load_embed(embedding_name: str, embedding_directory: Any, embedding_size: int, embed_key: str | None = None) -> Any:
    """The vectors of an embedding's file, or None where there is none of that name or width."""
    folders = [embedding_directory] if isinstance(embedding_directory, str | Path) else list(embedding_directory)
    for folder in expand_directory_list([str(one) for one in folders]):
        root = Path(folder).resolve()
        for extension in ("", ".safetensors", ".pt", ".bin"):
            path = (root / (embedding_name + extension)).resolve()
            if path.is_file() and path.is_relative_to(root):
                header = CheckpointHeader.read(path, use_mmap=not memory().settings.disable_mmap)
                found = vectors_of({name: header.tensor(name) for name in header}, embed_key or "")
                return found if found is not None and found.shape[-1] == embedding_size else None
    return None


class ClipTokenWeightEncoder:
    """What encodes rows of weighted tokens."""

    def encode_token_weights(self, token_weight_pairs: Any) -> tuple[Tensor, Tensor]:
        """(encoding, pooled) of rows. Raises LimnerError: encoders are made by loading a file."""
        del token_weight_pairs
        raise missing(type(self).__name__, "te")


class _Part(ClipTokenWeightEncoder, metaclass=StandsFor):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise missing(type(self).__name__, "te")


class SDClipModel(_Part):
    """One text encoder: `clip.cond_stage_model.clip_l` is one."""

    recognises = staticmethod(lambda found: isinstance(found, ClipModelPart))


class SD1ClipModel(_Part):
    """The text encoders of a model: `clip.cond_stage_model` is one."""

    recognises = staticmethod(lambda found: isinstance(found, ClipModel) and len(found.parts) == 1)


class SD1CheckpointClipModel(SDClipModel):
    """CLIP-L from a checkpoint."""

    recognises = staticmethod(lambda found: isinstance(found, ClipModelPart) and found.encoder.key == "l")


class SDTokenizer(_Part):
    """One tokenizer: `clip.tokenizer.clip_l` is one."""

    recognises = staticmethod(lambda found: isinstance(found, ClipTokenizerPart))


class SD1Tokenizer(_Part):
    """The tokenizers of a model: `clip.tokenizer` is one."""

    recognises = staticmethod(lambda found: isinstance(found, ClipTokenizers))


def _made_of(*keys: str) -> Any:
    """Whether something is the text encoders of these keys."""
    return staticmethod(lambda found: isinstance(found, ClipModel) and found.keys == keys)


def _tokenizers_of(*keys: str) -> Any:
    """Whether something is the tokenizers of text encoders with these keys."""
    return staticmethod(
        lambda found: (
            isinstance(found, ClipTokenizers) and tuple(part.encoder.key for part in found.parts.values()) == keys
        )
    )


def _for_type(word: str, kind: type[ClipModel] | type[ClipTokenizers]) -> Any:
    """Whether something belongs to the family that a loader's word means."""
    return staticmethod(lambda found: isinstance(found, kind) and word in found.clip.encoding.types)


# comfy.sdxl_clip


class SDXLClipG(SDClipModel):
    """CLIP-G."""

    recognises = staticmethod(lambda found: isinstance(found, ClipModelPart) and found.encoder.name == "clip_g")


class SDXLClipModel(_Part):
    """The text encoders of SDXL."""

    recognises = _made_of("l", "g")


class SDXLRefinerClipModel(_Part):
    """The text encoder of SDXL's refiner."""

    recognises = _made_of("g")


class SDXLTokenizer(_Part):
    """The tokenizers of SDXL."""

    recognises = _tokenizers_of("l", "g")


class SDXLClipGTokenizer(SDTokenizer):
    """The tokenizer of CLIP-G."""

    recognises = staticmethod(lambda found: isinstance(found, ClipTokenizerPart) and found.encoder.name == "clip_g")


class StableCascadeClipGTokenizer(SDTokenizer):
    """The tokenizer of Stable Cascade's CLIP-G."""


class StableCascadeClipG(SDClipModel):
    """CLIP-G as Stable Cascade has it."""


class StableCascadeClipModel(_Part):
    """The text encoder of Stable Cascade."""

    recognises = _for_type("stable_cascade", ClipModel)


class StableCascadeTokenizer(_Part):
    """The tokenizer of Stable Cascade."""

    recognises = _for_type("stable_cascade", ClipTokenizers)


# comfy.text_encoders.sd3_clip, .flux, .qwen_image …


class T5XXLModel(SDClipModel):
    """T5-XXL: `clip.cond_stage_model.t5xxl` is one."""

    recognises = staticmethod(lambda found: isinstance(found, ClipModelPart) and found.encoder.name == "t5xxl")


class T5XXLTokenizer(SDTokenizer):
    """The tokenizer of T5-XXL."""

    recognises = staticmethod(lambda found: isinstance(found, ClipTokenizerPart) and found.encoder.name == "t5xxl")


class SD3ClipModel(_Part):
    """The text encoders of Stable Diffusion 3, however many of the three."""

    recognises = _for_type("sd3", ClipModel)


class SD3Tokenizer(_Part):
    """The tokenizers of Stable Diffusion 3."""

    recognises = _for_type("sd3", ClipTokenizers)


class FluxClipModel(_Part):
    """The text encoders of Flux."""

    recognises = _for_type("flux", ClipModel)


class FluxTokenizer(_Part):
    """The tokenizers of Flux."""

    recognises = _for_type("flux", ClipTokenizers)


class QwenImageTEModel(_Part):
    """The text encoder of Qwen-Image."""

    recognises = _for_type("qwen_image", ClipModel)


class QwenImageTokenizer(_Part):
    """The tokenizer of Qwen-Image."""

    recognises = _for_type("qwen_image", ClipTokenizers)


def t5_xxl_detect(state_dict: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The dtype of a T5's tensors, as `dtype_t5`; empty where there are none."""
    norm = state_dict.get(f"{prefix}encoder.final_layer_norm.weight")
    return {} if norm is None else {"dtype_t5": norm.dtype}


def sd3_clip(*_: Any, **__: Any) -> Any:
    """A class of text encoders. Raises LimnerError: they are made by loading files."""
    raise missing("sd3_clip", "te")


def flux_clip(*_: Any, **__: Any) -> Any:
    """A class of text encoders. Raises LimnerError: they are made by loading files."""
    raise missing("flux_clip", "te")


# comfy.text_encoders.t5, .llama


class T5LayerNorm(Norm):
    """T5's normalization, made as ComfyUI's is."""

    def __init__(
        self, hidden_size: int, eps: float = 1e-6, dtype: Any = None, device: Any = None, operations: Any = None
    ) -> None:
        super().__init__(hidden_size, eps)
        del operations
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))


class RMSNorm(nn.Module):
    """Root-mean-square normalization, made as ComfyUI's is. add: the weight is what is added to 1."""

    def __init__(self, dim: int, eps: float = 1e-5, add: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))
        self.eps = eps
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width), scaled to unit mean square."""
        weight = self.weight.to(x.dtype) + (1.0 if self.add else 0.0)
        return functional.rms_norm(x, list(weight.shape), weight, self.eps)
