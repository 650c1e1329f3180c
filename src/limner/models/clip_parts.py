"""The parts of a CLIP under the names that packs reach into: `cond_stage_model.clip_l`, `tokenizer.t5xxl`, `patcher`.

They are views: what they do is done by the CLIP that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from limner.models.text.encode import EncodeSettings
from limner.models.text.networks import transformer

if TYPE_CHECKING:
    from limner.models.clip import CLIP, TextEncoder
    from limner.models.text.tokenizer import RowTokenizer


class ClipModelPart:
    """One text encoder. encoder: its key and settings; `set_clip_options` changes which layer is taken."""

    def __init__(self, clip: CLIP, encoder: TextEncoder) -> None:
        self.clip = clip
        self.encoder = encoder
        self.options: dict[str, Any] = {}
        self.max_length = encoder.part.rows.max_length
        tokens = {"start": encoder.settings.start, "end": encoder.settings.end, "pad": encoder.settings.pad}
        self.special_tokens = {name: token for name, token in tokens.items() if token is not None}

    @property
    def transformer(self) -> nn.Module:
        """The network; loaded when it is asked for."""
        with self.clip.loaded() as network:
            return cast(nn.Module, transformer(network, self.encoder.name))

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

    def encode_token_weights(self, token_weight_pairs: Sequence[Any]) -> tuple[Any, ...]:
        """(encoding, pooled) of rows of (id or vector, weight), and what else there is of them as a dict."""
        found = self.clip.encode_rows(token_weight_pairs, self.settings, self.encoder)
        return (found.cond, found.pooled, dict(found.extra)) if found.extra else (found.cond, found.pooled)

    def encode(self, tokens: Sequence[Sequence[Any]]) -> tuple[Tensor, Tensor | None]:
        """(encoding, pooled) of rows of ids, all of weight 1: a row below the other."""
        found = [
            self.clip.encode_rows([[(token, 1.0) for token in row]], self.settings, self.encoder) for row in tokens
        ]
        pooled = [one.pooled for one in found if one.pooled is not None]
        return torch.cat([one.cond for one in found]), torch.cat(pooled) if pooled else None

    __call__ = encode


class ClipModel:
    """The text encoders of a CLIP, as attributes: `clip_l`, `t5xxl` ….

    clip_name: key of the first one's tokens.
    """

    def __init__(self, clip: CLIP) -> None:
        self.clip = clip
        self.parts = {encoder.name: ClipModelPart(clip, encoder) for encoder in clip.encoders}
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

    def encode_token_weights(self, token_weight_pairs: Mapping[str, Any]) -> tuple[Any, ...]:
        """(encoding, pooled) of rows by the encoders' keys, and what else there is of them as a dict."""
        found = self.clip.encode_from_tokens(token_weight_pairs, return_dict=True)
        extra = {name: value for name, value in found.items() if name not in ("cond", "pooled_output", "hooks")}
        pair = (found["cond"], found["pooled_output"])
        return (*pair, extra) if extra else pair

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
    def own(self) -> RowTokenizer:
        """What it is, with the CLIP's options."""
        return self.clip.tokenizer_of(self.encoder)

    @property
    def embedding_directory(self) -> list[str]:
        """Folders of textual inversions."""
        return [str(folder) for folder in self.clip.embeddings]

    @property
    def embedding_size(self) -> int:
        """Width of a vector."""
        return int(self.clip.source.tensors[self.encoder.prefix + self.encoder.kind.table].shape[1])

    @property
    def tokenizer(self) -> Any:
        """The encoder of text, called with a text: {"input_ids": [start, …, end]}."""
        return self._ids

    def _ids(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": self.own.whole(text)}

    @property
    def max_length(self) -> int:
        """Tokens in a row; very many where there is no limit."""
        return 99_999_999 if self.own.max_length is None else self.own.max_length

    @property
    def min_length(self) -> int:
        """Tokens to which a row is padded at least."""
        return self.own.min_length

    @property
    def pad_to_max_length(self) -> bool:
        """Whether rows are padded to `max_length`."""
        return self.own.pad_to_max

    @property
    def pad_left(self) -> bool:
        """Whether padding stands before the text."""
        return self.own.pad_left

    @property
    def start_token(self) -> int | None:
        """Before a text; None where there is none."""
        return self.own.start

    @property
    def end_token(self) -> int | None:
        """Behind it; None where there is none."""
        return self.own.end

    @property
    def pad_token(self) -> int:
        """Behind that."""
        return self.own.pad

    @property
    def inv_vocab(self) -> dict[int, str]:
        """Tokens by id."""
        return {number: token for token, number in self.own.vocabulary.entries().items()}

    def pad_tokens(self, tokens: list[Any], amount: int) -> None:
        """Put padding into a row of (id, weight, word), at the side where this tokenizer has it."""
        padding = [(self.own.pad, 1.0, 0)] * amount
        if self.own.pad_left:
            tokens[:0] = padding
        else:
            tokens.extend(padding)

    def tokenize_with_weights(
        self,
        text: str,
        return_word_ids: bool = False,
        tokenizer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[list[tuple[Any, ...]]]:
        """Rows of (id or vector, weight), or (…, word number)."""
        found = self.clip.tokenize(text, return_word_ids, tokenizer_options=tokenizer_options or {}, **kwargs)
        return found[self.encoder.key]

    def untokenize(self, token_weight_pair: Sequence[Any]) -> list[tuple[Any, str]]:
        """Each token with its text."""
        vocabulary = self.inv_vocab
        return [(one, vocabulary.get(one[0], "")) for one in token_weight_pair if isinstance(one[0], int)]


class ClipTokenizers:
    """The tokenizers of a CLIP, as attributes: `clip_l`, `t5xxl` …."""

    def __init__(self, clip: CLIP) -> None:
        self.clip = clip
        self.parts = {encoder.name: ClipTokenizerPart(clip, encoder) for encoder in clip.encoders}

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("parts", {})
        if name in parts:
            return parts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Rows by the encoders' keys."""
        return self.clip.tokenize(text, return_word_ids, **kwargs)

    def untokenize(self, token_weight_pair: Sequence[Any]) -> list[tuple[Any, str]]:
        """Each token of the first encoder with its text."""
        found: list[tuple[Any, str]] = next(iter(self.parts.values())).untokenize(token_weight_pair)
        return found
