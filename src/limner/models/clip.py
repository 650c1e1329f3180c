"""CLIP: a text encoder and its tokenizer as they cross node boundaries: prompts to conditioning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, cast

from torch import Tensor, nn

from limner.memory import MemoryManager
from limner.models.text.clip import CLIPText
from limner.models.text.embeddings import vectors_of
from limner.models.text.encode import Encoded, EncodeSettings, encode_weighted
from limner.models.text.tokenizer import ClipTokenizer
from limner.weights import CheckpointHeader, NetworkSource, make_patches
from limner.weights.adapters import Adapter

Tokens: TypeAlias = dict[str, list[list[tuple[Any, ...]]]]
Conditioning: TypeAlias = list[list[Any]]

EMBEDDING_EXTENSIONS = (".safetensors", ".pt", ".bin")


@dataclass(eq=False)
class TextEncoder:
    """One text encoder of a CLIP. key: of its tokens ("l"); name: as in patch keys ("clip_l")."""

    key: str
    name: str
    make_tokenizer: Callable[[], ClipTokenizer]
    settings: EncodeSettings

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        """Made when the first prompt comes; shared by all clones."""
        return self.make_tokenizer()


class CLIP:
    """A text encoder: `tokenize` a prompt, `encode_from_tokens_scheduled` to conditioning.

    layer_idx: which layer's output is taken, -1 the last; None as the family has it. embeddings: folders of textual
    inversions. A clone shares the weights.
    """

    def __init__(
        self, encoder: TextEncoder, source: NetworkSource, memory: MemoryManager, embeddings: Sequence[Path] = ()
    ) -> None:
        self.encoder = encoder
        self.source = source
        self.memory = memory
        self.embeddings = tuple(embeddings)
        self.layer_idx: int | None = None
        self.tokenizer_options: dict[str, Any] = {}

    def clone(self) -> CLIP:
        """A CLIP that can be changed without changing this one."""
        other = CLIP(self.encoder, self.source, self.memory, self.embeddings)
        other.layer_idx = self.layer_idx
        other.tokenizer_options = dict(self.tokenizer_options)
        return other

    def clip_layer(self, layer_idx: int) -> None:
        """Take this layer's output: -1 the last, -2 the one before (clip skip)."""
        self.layer_idx = layer_idx

    def set_tokenizer_option(self, option_name: str, value: Any) -> None:
        """Keep an option for tokenizers that know it."""
        self.tokenizer_options[option_name] = value

    def tokenize(self, text: str, return_word_ids: bool = False, **_: Any) -> Tokens:
        """Rows of (id or vector, weight), or (…, word number), by the encoder's key."""
        rows = self.encoder.tokenizer.rows(text, self._find_embedding)
        kept = 3 if return_word_ids else 2
        return {self.encoder.key: [[tuple(token[:kept]) for token in row] for row in rows]}

    def encode(self, text: str) -> Tensor:
        """The encoding of a text, without its pooled vector."""
        return self._encoded(self.tokenize(text)).cond

    def encode_from_tokens(
        self, tokens: Mapping[str, Any], return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """The encoding (1, length, width); with return_pooled a pair with the pooled vector; or both as a dict."""
        found = self._encoded(tokens)
        if return_dict:
            return {"cond": found.cond, "pooled_output": found.pooled}
        return (found.cond, found.pooled) if return_pooled else found.cond

    def encode_from_tokens_scheduled(
        self,
        tokens: Mapping[str, Any],
        unprojected: bool = False,  # noqa: ARG002 - this encoder's pooled vector is never projected
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,  # noqa: ARG002
    ) -> Conditioning:
        """Conditioning: [[encoding, {"pooled_output": …, and add_dict}]]."""
        found = self._encoded(tokens)
        return [[found.cond, {"pooled_output": found.pooled, **(add_dict or {})}]]

    def _encoded(self, tokens: Mapping[str, Any]) -> Encoded:
        settings = self.encoder.settings
        if self.layer_idx is not None:
            settings = replace(settings, layer=self.layer_idx)
        with self.loaded() as network:
            dtype = self.memory.text_precision().compute
            found = encode_weighted(cast(CLIPText, network), tokens[self.encoder.key], settings, dtype)
        return Encoded(found.cond.cpu(), found.pooled.cpu())

    def _find_embedding(self, name: str) -> Tensor | None:
        for folder in self.embeddings:
            root = folder.resolve()
            for extension in ("", *EMBEDDING_EXTENSIONS):
                path = (root / (name + extension)).resolve()
                if path.is_relative_to(root) and path.suffix in EMBEDDING_EXTENSIONS and path.is_file():
                    header = CheckpointHeader.read(path, use_mmap=not self.memory.settings.disable_mmap)
                    return vectors_of({key: header.tensor(key) for key in header}, self.encoder.name)
        return None

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Change weights: W · strength_model + strength_patch · ΔW. Returns the targets that exist here."""
        keys = {self.source.prefix + name for name in self.source.tensors}
        added, used = make_patches(patches, strength_patch, strength_model, keys)
        self.source = self.source.with_patches(self.source.patches + added)
        return used

    def get_key_patches(self) -> dict[str, Adapter]:
        """Its patched weights as patches for another CLIP."""
        return self.source.as_patches()

    def get_sd(self) -> dict[str, Tensor]:
        """Its weights without patches, under the names that patches use; views of the file."""
        return {self.source.prefix + name: entry.read() for name, entry in self.source.tensors.items()}

    @contextmanager
    def loaded(self) -> Iterator[nn.Module]:
        """The network, on its device and patched, for as long as the block lasts."""
        with self.memory.loaded(self.source, self.memory.text_precision().storage) as network:
            yield network

    def load_model(self) -> CLIP:
        """Load the weights now; they stay while there is room."""
        with self.loaded():
            return self
