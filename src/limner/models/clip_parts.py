"""The parts of a CLIP under the names that packs reach into: `cond_stage_model.clip_l`, `tokenizer.clip_l`, `patcher`.

They are views: what they do is done by the CLIP that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.models.text.encode import EncodeSettings

if TYPE_CHECKING:
    from limner.models.clip import CLIP, TextEncoder


class ClipModelPart:
    """One text encoder. encoder: its key and settings; `set_clip_options` changes which layer is taken."""

    def __init__(self, clip: CLIP, encoder: TextEncoder) -> None:
        self.clip = clip
        self.encoder = encoder
        self.options: dict[str, Any] = {}
        self.max_length = 77
        self.special_tokens = {
            "start": encoder.settings.start, "end": encoder.settings.end, "pad": encoder.settings.pad
        }  # fmt: skip

    @property
    def transformer(self) -> nn.Module:
        """The network; loaded when it is asked for."""
        with self.clip.loaded() as network:
            return network

    @property
    def layer_idx(self) -> int | None:
        """Which layer's output is taken."""
        return self.settings.layer

    @property
    def settings(self) -> EncodeSettings:
        """Of the encoding."""
        found = self.encoder.settings
        layer = self.options.get("layer", self.clip.layer_idx)
        found = found if layer is None else replace(found, layer=layer)
        if "projected_pooled" in self.options:
            found = replace(found, project=bool(self.options["projected_pooled"]))
        return found

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """layer: which layer's output is taken. projected_pooled: whether the pooled vector is projected."""
        self.options.update(options)

    def reset_clip_options(self) -> None:
        """Back to the CLIP's own."""
        self.options.clear()

    def encode_token_weights(self, token_weight_pairs: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """(encoding, pooled) of rows of (id or vector, weight)."""
        found = self.clip.encode_rows(token_weight_pairs, self.settings)
        return found.cond, found.pooled

    def encode(self, tokens: Sequence[Sequence[Any]]) -> tuple[Tensor, Tensor]:
        """(encoding, pooled) of rows of ids, all of weight 1: a row below the other."""
        found = [self.clip.encode_rows([[(token, 1.0) for token in row]], self.settings) for row in tokens]
        return torch.cat([one.cond for one in found]), torch.cat([one.pooled for one in found])

    __call__ = encode


class ClipModel:
    """The text encoders of a CLIP, as attributes: `clip_l`."""

    def __init__(self, clip: CLIP) -> None:
        self.clip = clip
        self.parts = {encoder.name: ClipModelPart(clip, encoder) for encoder in (clip.encoder,)}
        self.keys = tuple(part.encoder.key for part in self.parts.values())
        self.clip_name = next(iter(self.keys))

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("parts", {})
        if name in parts:
            return parts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """Of all encoders."""
        for part in self.parts.values():
            part.set_clip_options(options)

    def reset_clip_options(self) -> None:
        """Of all encoders."""
        for part in self.parts.values():
            part.reset_clip_options()

    def encode_token_weights(self, token_weight_pairs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(encoding, pooled) of rows by the encoder's key."""
        part = next(iter(self.parts.values()))
        return part.encode_token_weights(token_weight_pairs[part.encoder.key])

    def state_dict(self) -> dict[str, Tensor]:
        """The encoders' tensors."""
        return self.clip.get_sd()

    def named_modules(self) -> Any:
        """The networks' modules, under the names that patches use."""
        for name, part in self.parts.items():
            for inner, module in part.transformer.named_modules():
                yield f"{name}.transformer.{inner}".rstrip("."), module


class ClipTokenizerPart:
    """One tokenizer."""

    def __init__(self, clip: CLIP, encoder: TextEncoder) -> None:
        self.clip = clip
        self.encoder = encoder
        self.embedding_key = encoder.name
        self.embedding_identifier = "embedding:"

    @property
    def embedding_directory(self) -> list[str]:
        """Folders of textual inversions."""
        return [str(folder) for folder in self.clip.embeddings]

    @property
    def embedding_size(self) -> int:
        """Width of a vector."""
        table = "text_model.embeddings.token_embedding.weight"
        return int(self.clip.source.tensors[table].shape[1])

    @property
    def tokenizer(self) -> Any:
        """The byte-pair encoder, called with a text: {"input_ids": [start, …, end]}."""
        return self._ids

    def _ids(self, text: str, **_: Any) -> dict[str, list[int]]:
        own = self.encoder.tokenizer
        return {"input_ids": [own.start, *own.ids(text), own.end]}

    @property
    def max_length(self) -> int:
        """Tokens in a row."""
        return self.encoder.tokenizer.max_length

    @property
    def start_token(self) -> int:
        """Before a text."""
        return self.encoder.tokenizer.start

    @property
    def end_token(self) -> int:
        """Behind it."""
        return self.encoder.tokenizer.end

    @property
    def pad_token(self) -> int:
        """Behind that."""
        return self.encoder.tokenizer.pad

    @property
    def inv_vocab(self) -> dict[int, str]:
        """Tokens by id."""
        return {number: token for token, number in self.encoder.tokenizer.bpe.get_vocab().items()}

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> list[list[tuple[Any, ...]]]:
        """Rows of (id or vector, weight), or (…, word number)."""
        return self.clip.tokenize(text, return_word_ids)[self.encoder.key]

    def untokenize(self, token_weight_pair: Sequence[Any]) -> list[tuple[Any, str]]:
        """Each token with its text."""
        vocabulary = self.inv_vocab
        return [(one, vocabulary.get(one[0], "")) for one in token_weight_pair if not isinstance(one[0], Tensor)]


class ClipTokenizers:
    """The tokenizers of a CLIP, as attributes: `clip_l`."""

    def __init__(self, clip: CLIP) -> None:
        self.clip = clip
        self.parts = {encoder.name: ClipTokenizerPart(clip, encoder) for encoder in (clip.encoder,)}

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("parts", {})
        if name in parts:
            return parts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, Any]:
        """Rows by the encoder's key."""
        return self.clip.tokenize(text, return_word_ids)

    def untokenize(self, token_weight_pair: Sequence[Any]) -> list[tuple[Any, str]]:
        """Each token with its text."""
        found: list[tuple[Any, str]] = next(iter(self.parts.values())).untokenize(token_weight_pair)
        return found
