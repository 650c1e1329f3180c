"""Files to CLIP: which text encoders they hold, and for which family they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models import replaced
from limner.models.clip import CLIP, TextEncoder
from limner.models.convert import clip_text
from limner.models.metadata import overrides, said
from limner.models.reading import read_header
from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.text.encode import EncodeSettings
from limner.models.text.recipe import TextEncoding
from limner.models.text.tokenizer import ClipTokenizer, installed_vocabulary, parse_tokenizer, read_vocabulary
from limner.weights import CheckpointHeader, NetworkSource


def clip_in_checkpoint(
    header: CheckpointHeader, encoding: TextEncoding, memory: MemoryManager, embeddings: Sequence[Path] = ()
) -> CLIP | None:
    """The text encoders of a checkpoint, by where its family has them; None where they are not in it."""
    for spec in encoding.parts:
        for prefix in spec.prefixes:
            part = clip_text(header.select(prefix))
            if _is_clip(part):
                return _clip(header, part, spec.encoder, memory, embeddings)
    return None


def load_clip(
    paths: Sequence[str | Path],
    type: str,  # noqa: A002 - the node's name for it
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
) -> CLIP:
    """The text encoder of a file. type: which family it is for, by the loader node's word.

    Raises BadInput for files that are no CLIP-L, the only text encoder known so far.
    """
    folders = [str(folder) for folder in embeddings]
    found: CLIP | None = replaced.get("load_clip", list(paths), embedding_directory=folders)
    return read_clip(paths, type, memory, embeddings) if found is None else found


def read_clip(
    paths: Sequence[str | Path],
    type: str,  # noqa: A002
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
) -> CLIP:
    """The same by Limner itself."""
    return clip_of([read_header(path, memory) for path in paths], type, memory, embeddings)


def clip_of(
    headers: Sequence[CheckpointHeader],
    type: str,  # noqa: A002
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
) -> CLIP:
    """The same of tensors that have been read."""
    if len(headers) != 1:
        raise BadInput(f"{len(headers)} text encoders together are not supported.", why="Known is CLIP-L alone.")
    header = headers[0]
    for prefix in ("", "cond_stage_model.", "text_encoder.", "clip_l.", "text_encoders.clip_l."):
        part = clip_text(header.select(prefix))
        if _is_clip(part):
            return _clip(header, part, "clip_l", memory, embeddings)
    raise BadInput(
        f"{header.path.name} is no text encoder that is known here.",
        why=f"It was asked for as {type}; known is CLIP-L, whose layers are named text_model.encoder.layers.0 ….",
        do="`limner inspect` says what the file is.",
    )


def _is_clip(part: CheckpointHeader) -> bool:
    """Whether it is a CLIP-L; H and G have more than 22 layers."""
    layer = "text_model.encoder.layers.{}.layer_norm1.weight"
    return layer.format(0) in part and layer.format(22) not in part


def _clip(
    header: CheckpointHeader, part: CheckpointHeader, name: str, memory: MemoryManager, embeddings: Sequence[Path]
) -> CLIP:
    told = overrides(header, name)
    config = CLIPTextConfig.from_state(part.shapes(), told)
    start, end = int(told.get("bos_token_id", 49406)), int(told.get("eos_token_id", 49407))
    settings = EncodeSettings(start=start, end=end, pad=int(told.get("pad_token_id", end)))
    text = header.metadata.get("tokenizer_json")

    def make_tokenizer() -> ClipTokenizer:
        bpe = read_vocabulary(installed_vocabulary()) if text is None else parse_tokenizer(text, header.path.name)
        longest = config.max_position_embeddings
        return ClipTokenizer(bpe, settings.start, settings.end, settings.pad, max_length=longest)

    encoder = TextEncoder(name.removeprefix("clip_"), name, make_tokenizer, settings)
    source = NetworkSource(
        "text encoder", partial(CLIPText, config), part.tensors, header.identity, f"{name}.transformer.",
        said=said(header, name) | ({} if text is None else {"tokenizer_json": text}),
    )  # fmt: skip
    return CLIP(encoder, source, memory, embeddings)
