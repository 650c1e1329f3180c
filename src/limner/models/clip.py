"""CLIP: a text encoder and its tokenizer as they cross node boundaries: prompts to conditioning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from limner.memory import MemoryManager, loading
from limner.models.clip_parts import ClipModel, ClipTokenizers
from limner.models.lora_keys import text_names
from limner.models.patcher import ModelPatcher
from limner.models.text.clip import CLIPText
from limner.models.text.embeddings import vectors_of
from limner.models.text.encode import Encoded, EncodeSettings, encode_weighted
from limner.models.text.tokenizer import ClipTokenizer
from limner.sampling.hooks import HookGroup
from limner.weights import CheckpointHeader, NetworkSource, Patches, files, make_patches, read_adapters
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
        self.use_clip_schedule = False
        self.apply_hooks_to_conds: HookGroup | None = None
        self.patcher = ClipPatcher(self)

    def clone(self) -> CLIP:
        """A CLIP that can be changed without changing this one."""
        other = CLIP(self.encoder, self.source, self.memory, self.embeddings)
        other.__class__ = type(self)
        other.layer_idx = self.layer_idx
        other.tokenizer_options = dict(self.tokenizer_options)
        other.use_clip_schedule = self.use_clip_schedule
        other.apply_hooks_to_conds = self.apply_hooks_to_conds
        self.patcher.copy_changes_to(other.patcher)
        return other

    # -- as packs reach into it -----------------------------------------------------------------------------------

    @cached_property
    def cond_stage_model(self) -> ClipModel:
        """The text encoders: `cond_stage_model.clip_l`."""
        return ClipModel(self)

    @cached_property
    def tokenizer(self) -> ClipTokenizers:
        """The tokenizers: `tokenizer.clip_l`."""
        return ClipTokenizers(self)

    @property
    def load_device(self) -> torch.device:
        """Where it computes."""
        return self.memory.device

    def model_size(self) -> int:
        """Bytes of its weights when loaded."""
        return self.source.nbytes(self.memory.text_precision().storage)

    def get_ram_usage(self) -> int:
        """Bytes of its weights."""
        return self.model_size()

    def add_hooks_to_dict(self, pooled_dict: dict[str, Any]) -> dict[str, Any]:
        """The entries of a condition, with the hooks that hold for it."""
        if self.apply_hooks_to_conds is not None:
            pooled_dict["hooks"] = self.apply_hooks_to_conds
        return pooled_dict

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
            return self.add_hooks_to_dict({"cond": found.cond, "pooled_output": found.pooled})
        return (found.cond, found.pooled) if return_pooled else found.cond

    def encode_from_tokens_scheduled(
        self,
        tokens: Mapping[str, Any],
        unprojected: bool = False,  # noqa: ARG002 - this encoder's pooled vector is never projected
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,  # noqa: ARG002
    ) -> Conditioning:
        """Conditioning: [[encoding, {"pooled_output": …, and add_dict}]], one entry for each range of its hooks."""
        hooks = self.patcher.forced_hooks
        if hooks is None or not self.use_clip_schedule:
            found = self._encoded(tokens)
            return [[found.cond, self.add_hooks_to_dict({"pooled_output": found.pooled, **(add_dict or {})})]]
        conditioning: Conditioning = []
        for (start, end), keyframes in clip_ranges(hooks):
            for hook, keyframe in keyframes:
                hook.hook_keyframe.hold(keyframe)
            found = self._encoded(tokens)
            entries = {"pooled_output": found.pooled, "clip_start_percent": start, "clip_end_percent": end}
            conditioning.append([found.cond, self.add_hooks_to_dict({**entries, **(add_dict or {})})])
        hooks.reset()
        return conditioning

    def _encoded(self, tokens: Mapping[str, Any]) -> Encoded:
        part = self.cond_stage_model.parts[self.encoder.name]
        return self.encode_rows(tokens[self.encoder.key], part.settings)

    def encode_rows(self, rows: Sequence[Any], settings: EncodeSettings) -> Encoded:
        """The encoding of rows of (id or vector, weight, …)."""
        with self.loaded() as network:
            dtype = self.memory.text_precision().compute
            found = encode_weighted(cast(CLIPText, network), rows, settings, dtype)
        return Encoded(found.cond.cpu(), found.pooled.cpu())

    def _find_embedding(self, name: str) -> Tensor | None:
        for folder in self.embeddings:
            root = folder.resolve()
            for extension in ("", *EMBEDDING_EXTENSIONS):
                path = (root / (name + extension)).resolve()
                if path.is_relative_to(root) and path.suffix in EMBEDDING_EXTENSIONS and path.is_file():
                    header = files.header(path, use_mmap=not self.memory.settings.disable_mmap)
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
    def loaded(self, working: int = 0) -> Iterator[nn.Module]:
        """The network, on its device and patched, for as long as the block lasts. working: bytes needed besides."""
        source = self.source.with_patches(self.patcher.wanted_patches())
        with self.memory.loaded(source, self.memory.text_precision().storage, working=working) as network:
            yield network

    def load_model(self) -> ClipPatcher:
        """Load the weights now; they stay while there is room."""
        loading.load_models_gpu([self.patcher])
        return self.patcher


class ClipPatcher(ModelPatcher):
    """A CLIP's weights as a model: `clip.patcher`. forced_hooks: hooks under which prompts are encoded."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__(None, clip.memory.device, torch.device("cpu"))
        self.clip = clip
        self.is_clip = True

    @property
    def model(self) -> ClipModel:
        """The text encoders."""
        return self.clip.cond_stage_model

    @model.setter
    def model(self, value: Any) -> None:
        """It is what the CLIP has."""

    @property
    def patches(self) -> Patches:
        """The changes of its weights."""
        return self.clip.source.patches

    @patches.setter
    def patches(self, value: Patches | Mapping[str, Sequence[Any]]) -> None:
        self.clip.source = self.clip.source.with_patches(Patches.of(value))

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return self.clip.model_size()

    @size.setter
    def size(self, value: int) -> None:
        self._size = value

    def model_size(self) -> int:
        """Bytes of its weights."""
        return self.size

    def loaded_size(self) -> int:
        """Bytes of them that are in memory."""
        return self.size if self.clip.memory.holds(self.clip.source) else 0

    def current_loaded_device(self) -> torch.device:
        """Where they are."""
        return self.load_device if self.loaded_size() else self.offload_device

    def model_dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.clip.memory.text_precision().compute

    def clone(self) -> ClipPatcher:
        """That of a clone of the CLIP."""
        return self.clip.clone().patcher

    def is_clone(self, other: Any) -> bool:
        """Whether both are of the same weights."""
        return isinstance(other, ClipPatcher) and other.clip.source.tensors is self.clip.source.tensors

    def weight_keys(self) -> set[str]:
        """The names of its weights, as patches use them."""
        return {self.clip.source.prefix + name for name in self.clip.source.tensors}

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Change weights. Returns the targets that exist here."""
        return self.clip.add_patches(patches, strength_patch, strength_model)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, Any]:
        """Its patched weights as patches for another CLIP."""
        own = self.clip.get_key_patches()
        return {key: patch for key, patch in own.items() if key.startswith(filter_prefix or "")}

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """Its weights without patches."""
        return {key: one for key, one in self.clip.get_sd().items() if key.startswith(filter_prefix or "")}

    def lora_patches(self, lora: Mapping[str, Tensor]) -> Mapping[Any, Adapter]:
        """The changes that a LoRA's tensors make to it, by weight."""
        names = text_names(self.clip.source.tensors, self.clip.source.prefix)
        return read_adapters(CheckpointHeader.of(lora), names).adapters

    @contextmanager
    def loaded(self, working: int = 0) -> Iterator[nn.Module]:
        """The network, on its device and patched, for as long as the block lasts."""
        with self.clip.loaded(working) as network:
            yield network

    def patch_model(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        load_weights: bool = True,
        force_patch_weights: bool = False,
    ) -> Any:
        """Load it now; it stays while there is room."""
        del device_to, lowvram_model_memory, load_weights, force_patch_weights
        with self.loaded():
            return self.model

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """Nothing: the network that others get is unpatched when they ask for it."""

    def detach(self, unpatch_all: bool = True) -> Any:
        """Take its weights out of memory, unless they are in use."""
        del unpatch_all
        self.clip.memory.unload(self.clip.source)
        return self.model

    def wanted_patches(self) -> Patches:
        """The changes of its weights, with those of its hooks at their present strengths."""
        if self.forced_hooks is None:
            return self.clip.source.patches
        return self.clip.source.patches + self.get_combined_hook_patches(self.forced_hooks)

    def write_patches(self, patches: Patches) -> None:
        """Nothing: weights are changed when a prompt is encoded."""


def clip_ranges(hooks: HookGroup) -> list[tuple[tuple[float, float], list[tuple[Any, Any]]]]:
    """Ranges of progress in which all hooks keep their strengths, with each hook's keyframe then."""
    schedule = hooks.get_hooks_for_clip_schedule()
    ends = sorted({end for ranges in schedule.values() for both, _ in ranges for end in both} | {0.0, 1.0})
    found = []
    for start, end in pairwise(ends):
        now = [
            (hook, next((keyframe for (low, high), keyframe in ranges if low <= start and end <= high), None))
            for hook, ranges in schedule.items()
        ]
        found.append(((start, end), now))
    return found
