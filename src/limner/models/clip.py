"""CLIP: text encoders and their tokenizers as they cross node boundaries: prompts to conditioning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.memory import MemoryManager, loading
from limner.memory.relief import once_more
from limner.models.clip_parts import ClipModel, ClipTokenizers
from limner.models.lora_keys import text_names
from limner.models.streamable import Streamable
from limner.models.text.embeddings import vectors_of
from limner.models.text.encode import ROW, Encoded, EncodeSettings, encode_weighted
from limner.models.text.kinds import EncoderKind
from limner.models.text.networks import transformer
from limner.models.text.recipe import TextEncoding, TextPart
from limner.models.text.tokenizer import OPTIONS, RowTokenizer
from limner.models.text.working import Rows
from limner.sampling.hooks import HookGroup
from limner.weights import CheckpointHeader, NetworkSource, Patches, files, make_patches, read_adapters
from limner.weights.adapters import Adapter

Tokens: TypeAlias = dict[str, list[list[tuple[Any, ...]]]]
Conditioning: TypeAlias = list[list[Any]]

EMBEDDING_EXTENSIONS = (".safetensors", ".pt", ".bin")


@dataclass(eq=False)
class TextEncoder:
    """One text encoder of a CLIP.

    part: what the family says of it: its name in patch keys ("clip_l"), the key of its tokens ("l"). kind: of network
    and tokenizer. make_tokenizer: called when the first prompt comes. settings: of the encoding, with the special
    tokens of its file.
    """

    part: TextPart
    kind: EncoderKind
    make_tokenizer: Callable[[], RowTokenizer]
    settings: EncodeSettings

    @property
    def name(self) -> str:
        """As in patch keys: "clip_l"."""
        return self.part.encoder

    @property
    def key(self) -> str:
        """Of its tokens: "l"."""
        return self.part.key

    @property
    def prefix(self) -> str:
        """Of its tensors' names in the CLIP and in patch keys."""
        return f"{self.name}.transformer."

    @cached_property
    def tokenizer(self) -> RowTokenizer:
        """Made when the first prompt comes; shared by all clones."""
        return self.make_tokenizer()


class CLIP:
    """Text encoders: `tokenize` a prompt, `encode_from_tokens_scheduled` to conditioning.

    encoders: in the family's order. encoding: how the family puts their outputs together. source: one network that
    holds them all. layer_idx: which layer's output is taken, -1 the last; None as the family has it. embeddings:
    folders of textual inversions. A clone shares the weights.
    """

    def __init__(
        self,
        encoders: Sequence[TextEncoder],
        encoding: TextEncoding,
        source: NetworkSource,
        memory: MemoryManager,
        embeddings: Sequence[Path] = (),
        device: torch.device | None = None,
    ) -> None:
        """device: where it computes; where the memory manager lets text encoders compute, if None."""
        self.encoders = tuple(encoders)
        self.encoding = encoding
        self.source = source
        self.memory = memory
        self.embeddings = tuple(embeddings)
        self.device = device
        self.layer_idx: int | None = None
        self.tokenizer_options: dict[str, Any] = {}
        self.use_clip_schedule = False
        self.apply_hooks_to_conds: HookGroup | None = None
        self.patcher = ClipPatcher(self)

    def clone(self) -> CLIP:
        """A CLIP that can be changed without changing this one."""
        other = CLIP(self.encoders, self.encoding, self.source, self.memory, self.embeddings, self.device)
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
        """The text encoders: `cond_stage_model.clip_l`, `.t5xxl` …."""
        return ClipModel(self)

    @cached_property
    def tokenizer(self) -> ClipTokenizers:
        """The tokenizers: `tokenizer.clip_l`, `.t5xxl` …."""
        return ClipTokenizers(self)

    @property
    def load_device(self) -> torch.device:
        """Where it computes."""
        return self.device or self.memory.text_device

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
        """Keep an option for tokenizers that know it: ENCODER_OPTION, such as `t5xxl_min_length`."""
        self.tokenizer_options[option_name] = value

    def tokenizer_of(self, encoder: TextEncoder, options: Mapping[str, Any] | None = None) -> RowTokenizer:
        """An encoder's tokenizer as this CLIP's options, and those given, have it."""
        said = {**self.tokenizer_options, **(options or {})}
        return encoder.tokenizer.with_options(
            {name: said[key] for name in OPTIONS if (key := f"{encoder.name}_{name}") in said}
        )

    def tokenize(self, text: str, return_word_ids: bool = False, **options: Any) -> Tokens:
        """Rows of (id, vector or picture, weight), or (…, word number), by the encoders' keys.

        options: images: pictures (1, H, W, 3) for the encoder that reads them, in the order of their places in the
        text; what else the family's template knows (`llama_template`); tokenizer_options as `set_tokenizer_option`.
        """
        template = self.encoding.template
        text = text if template is None else template(text, options)
        return {
            encoder.key: self._rows(encoder, text, 3 if return_word_ids else 2, options) for encoder in self.encoders
        }

    def _rows(
        self, encoder: TextEncoder, text: str, kept: int, options: Mapping[str, Any]
    ) -> list[list[tuple[Any, ...]]]:
        """A text as one encoder's rows of tuples of `kept` values."""

        def find(name: str) -> Tensor | None:
            return self._find_embedding(name, encoder.kind.name)

        tokenizer = self.tokenizer_of(encoder, options.get("tokenizer_options"))
        rows = tokenizer.rows(text, find if encoder.kind.embeddings and encoder.part.rows.embeddings else None)
        found = [[tuple(token[:kept]) for token in row] for row in rows]
        images = list(options.get("images") or ())
        return found if encoder.kind.picture is None else _with_pictures(found, encoder.kind.picture, images)

    def encode(self, text: str) -> Tensor:
        """The encoding of a text, without its pooled vector."""
        return self._encoded(self.tokenize(text)).cond

    def encode_from_tokens(
        self, tokens: Mapping[str, Any], return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """The encoding (1, length, width); with return_pooled a pair with the pooled vector; or all as a dict.

        return_pooled: "unprojected" for the pooled vector before any projection.
        """
        found = self._encoded(tokens, return_pooled == "unprojected")
        if return_dict:
            return self.add_hooks_to_dict({"cond": found.cond, "pooled_output": found.pooled, **found.extra})
        return (found.cond, found.pooled) if return_pooled else found.cond

    def encode_from_tokens_scheduled(
        self,
        tokens: Mapping[str, Any],
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,  # noqa: ARG002
    ) -> Conditioning:
        """Conditioning: [[encoding, {"pooled_output": …, and add_dict}]], one entry for each range of its hooks.

        unprojected: take the pooled vector before any projection.
        """
        hooks = self.patcher.forced_hooks
        if hooks is None or not self.use_clip_schedule:
            return [self._entry(tokens, unprojected, {}, add_dict)]
        conditioning: Conditioning = []
        for (start, end), keyframes in clip_ranges(hooks):
            for hook, keyframe in keyframes:
                hook.hook_keyframe.hold(keyframe)
            when = {"clip_start_percent": start, "clip_end_percent": end}
            conditioning.append(self._entry(tokens, unprojected, when, add_dict))
        hooks.reset()
        return conditioning

    def _entry(
        self, tokens: Mapping[str, Any], unprojected: bool, when: Mapping[str, Any], more: Mapping[str, Any] | None
    ) -> list[Any]:
        found = self._encoded(tokens, unprojected)
        return [
            found.cond,
            self.add_hooks_to_dict({"pooled_output": found.pooled, **found.extra, **when, **(more or {})}),
        ]

    def _encoded(self, tokens: Mapping[str, Any], unprojected: bool = False) -> Encoded:
        """What the family makes of all encoders' outputs."""
        outputs = {}
        for encoder in self.encoders:
            rows = tokens.get(encoder.key)
            if rows is None and not encoder.part.optional:
                raise BadInput(
                    f"There are no tokens for {encoder.kind.title}.",
                    why=f"It takes those under {encoder.key!r}; there are {', '.join(map(repr, tokens)) or 'none'}.",
                    do="Tokenize the prompt with the text encoder that encodes it.",
                )
            if rows or not encoder.part.optional:
                settings = self.cond_stage_model.parts[encoder.name].settings
                settings = replace(settings, project=settings.project and not unprojected)
                outputs[encoder.name] = self.encode_rows(rows or (), settings, encoder)
        found = self.encoding.combine(outputs)
        return found if self.encoding.trim is None else self.encoding.trim(tokens, found)

    def encode_rows(self, rows: Sequence[Any], settings: EncodeSettings, encoder: TextEncoder | None = None) -> Encoded:
        """One encoder's output for rows of (id, vector or picture, weight, …). encoder: the first where None."""
        encoder = encoder or self.encoders[0]
        working = self._working(rows, encoder, settings.masked)
        with self.loaded(working) as network:
            dtype = self.memory.text_precision().compute
            placed = [[self._placed(token) for token in row] for row in rows]
            own = transformer(network, encoder.name)
            found = once_more(
                lambda: encode_weighted(own, placed, settings, dtype, self.load_device),
                lambda: self.memory.relieve(self.source, working, self.load_device),
                lambda: encode_weighted(own, placed, settings, dtype, self.load_device, at_once=1),
                "encoding text",
            )
        extra = {key: value.cpu() for key, value in found.extra.items()}
        return Encoded(found.cond.cpu(), None if found.pooled is None else found.pooled.cpu(), extra)

    def _working(self, rows: Sequence[Any], encoder: TextEncoder, masked: bool) -> int:
        """Bytes that encoding these rows takes beside the weights."""
        names = {name: name.removeprefix(encoder.prefix) for name in self.source.tensors}
        shapes = {own: self.source.tensors[name].shape for name, own in names.items() if own != name}
        seen = [token[0].get("data") for row in rows for token in row if isinstance(token[0], Mapping)]
        asked = Rows(
            max(1, len(rows) + any(float(token[1]) != 1.0 for row in rows for token in row)),
            max((len(row) for row in rows), default=ROW),
            self.memory.text_precision().compute,
            masked,
            tuple((one.shape[1], one.shape[2]) for one in seen if isinstance(one, Tensor)),
        )
        return int(encoder.kind.working(shapes, asked))

    def _placed(self, token: Any) -> Any:
        """A token whose picture is where the network reads it."""
        if not isinstance(token[0], dict) or not isinstance(token[0].get("data"), Tensor):
            return token
        return ({**token[0], "data": self.memory.place(token[0]["data"], self.load_device)}, *token[1:])

    def _find_embedding(self, name: str, key: str) -> Tensor | None:
        for folder in self.embeddings:
            root = folder.resolve()
            for extension in ("", *EMBEDDING_EXTENSIONS):
                path = (root / (name + extension)).resolve()
                if path.is_relative_to(root) and path.suffix in EMBEDDING_EXTENSIONS and path.is_file():
                    header = files.header(path, use_mmap=not self.memory.settings.disable_mmap)
                    return vectors_of({one: header.tensor(one) for one in header}, key)
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
    def loaded(self, working: int = 0, least: int | None = None) -> Iterator[nn.Module]:
        """The network, on its device and patched, for as long as the block lasts. working, least: bytes besides."""
        source = self.source.with_patches(self.patcher.wanted_patches())
        precision = self.memory.text_precision()
        with self.memory.loaded(
            source, precision.storage, self.load_device, working, least, passes=1, compute=precision.compute
        ) as network:
            yield network

    def load_model(self) -> ClipPatcher:
        """Load the weights now; they stay while there is room."""
        loading.load_models_gpu([self.patcher])
        return self.patcher


class ClipPatcher(Streamable):
    """A CLIP's weights as a model: `clip.patcher`. forced_hooks: hooks under which prompts are encoded."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__(None, clip.memory.device, torch.device("cpu"))
        self.clip = clip
        self.is_clip = True

    @property
    def source(self) -> NetworkSource:  # type: ignore[override]
        """Where its weights are."""
        return self.clip.source

    @property
    def memory(self) -> MemoryManager:  # type: ignore[override]
        """What decides what is on its device."""
        return self.clip.memory

    @property
    def load_device(self) -> torch.device:
        """Where it computes."""
        return self.clip.load_device

    @load_device.setter
    def load_device(self, device: torch.device) -> None:
        """It is the CLIP's."""

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
        names = text_names(self.clip.source.tensors)
        return read_adapters(CheckpointHeader.of(lora), names).adapters

    @contextmanager
    def loaded(self, working: int = 0, least: int | None = None) -> Iterator[nn.Module]:
        """The network, on its device and patched, for as long as the block lasts."""
        with self.clip.loaded(working, least) as network:
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


def _with_pictures(rows: list[list[tuple[Any, ...]]], place: int, pictures: list[Any]) -> list[list[tuple[Any, ...]]]:
    """The rows with pictures in place of the tokens that stand for them, in order; tokens that are left stay."""
    left = iter(pictures)
    return [
        [
            token if token[0] != place or (picture := next(left, None)) is None else (_token_of(picture), *token[1:])
            for token in row
        ]
        for row in rows
    ]


def _token_of(picture: Any) -> dict[str, Any]:
    return {"type": "image", "data": picture, "original_type": "image"}


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
