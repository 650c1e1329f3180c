"""Files to CLIP: which text encoders they hold, and for which family they are put together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models import replaced
from limner.models.clip import CLIP, TextEncoder
from limner.models.metadata import components, overrides, said
from limner.models.reading import read_header
from limner.models.text.kinds import EncoderKind, Special, encoders, parts_of
from limner.models.text.networks import TextNetworks
from limner.models.text.recipe import TextEncoding, TextPart
from limner.models.text.tokenizer import OPTIONS, RowTokenizer
from limner.models.text.vocabulary import INSTALLED, Vocabularies, Vocabulary
from limner.models.what import what_it_is
from limner.weights import CheckpointHeader, NetworkSource
from limner.weights.lazy import LazyTensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """One text encoder of a file. header: under its network's names; file: all of the file."""

    kind: EncoderKind
    header: CheckpointHeader
    file: CheckpointHeader


def clip_in_checkpoint(
    header: CheckpointHeader,
    encoding: TextEncoding,
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> CLIP | None:
    """The text encoders of a checkpoint, by where its family has them; None where they are not in it."""
    found = {spec.encoder: part for spec in encoding.parts if (part := _in_checkpoint(header, spec)) is not None}
    if not found:
        return None
    if missing := encoding.required() - found.keys():
        log.warning(
            "%s holds %s without %s, so it has no text encoder.", header.path.name, _list(found), _list(missing)
        )
        return None
    return _clip(found, encoding, memory, embeddings, vocabularies)


def _in_checkpoint(header: CheckpointHeader, spec: TextPart) -> Found | None:
    kind = encoders()[spec.encoder]
    for prefix in spec.prefixes:
        part = kind.convert(header.select(prefix))
        if kind.fits(part):
            return Found(kind, part, header)
    return None


def load_clip(
    paths: Sequence[str | Path],
    type: str,  # noqa: A002 - the node's name for it
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> CLIP:
    """The text encoders of files, in any order. type: which family they are for, by the loader node's word.

    embeddings: folders of textual inversions. vocabularies: where tokenizers' data may be found.
    Raises BadInput for files that hold no text encoder, and for those that no family takes together.
    """
    folders = [str(folder) for folder in embeddings]
    found: CLIP | None = replaced.get("load_clip", list(paths), embedding_directory=folders)
    return read_clip(paths, type, memory, embeddings, vocabularies) if found is None else found


def read_clip(
    paths: Sequence[str | Path],
    type: str,  # noqa: A002
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> CLIP:
    """The same by Limner itself."""
    return clip_of([read_header(path, memory) for path in paths], type, memory, embeddings, vocabularies)


def clip_of(
    headers: Sequence[CheckpointHeader],
    type: str,  # noqa: A002
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
    vocabularies: Vocabularies = INSTALLED,
) -> CLIP:
    """The same of tensors that have been read."""
    found: dict[str, Found] = {}
    for header in headers:
        parts = parts_of(header)
        if not parts:
            raise BadInput(
                f"{header.path.name} is no text encoder that is known here.",
                why=f"Found: {what_it_is(header) or 'nothing that is known'}.",
                do=f"Choose a text encoder for the type {type}: {_list(_titles(type)) or 'see the node'}.",
            )
        for part in parts:
            if part.kind.name in found:
                raise BadInput(
                    f"{found[part.kind.name].file.path.name} and {header.path.name} both hold {part.kind.title}.",
                    why="A family has each text encoder once.",
                    do="Choose another file for one of them.",
                )
            found[part.kind.name] = Found(*part, header)
    return _clip(found, recipe(found, type), memory, embeddings, vocabularies)


def recipe(found: Mapping[str, Found], type: str) -> TextEncoding:  # noqa: A002
    """The family's encoding that takes these kinds together: one that the word means, else one they are usual for.

    Raises BadInput that says what each file is, and which words take it.
    """
    kinds = frozenset(found)
    known = _encodings()
    for encoding in known:
        if type in encoding.types and _takes(encoding, kinds):
            return encoding
    for encoding in known:
        if any(frozenset(usual) == kinds for usual in encoding.default_for):
            return encoding
    files = "; ".join(f"{one.file.path.name} is {one.kind.title}" for one in found.values())
    together = sorted({word for encoding in known if _takes(encoding, kinds) for word in encoding.types})
    alone = [
        f"{encoders()[name].title} belongs to {_list(words)}"
        for name in sorted(kinds)
        if (words := sorted({word for encoding in known if name in encoding.kinds() for word in encoding.types}))
    ]
    remedy = f"Choose the type {_list(together)}." if together else f"{'; '.join(alone) or 'Choose other files'}."
    raise BadInput(f"The type {type} takes no such text encoders.", why=f"{files}.", do=remedy)


def _encodings() -> list[TextEncoding]:
    """Of all families, each once."""
    from limner.models.detect import families  # noqa: PLC0415 - the families' files import what this one does

    found: list[TextEncoding] = []
    for family in families().values():
        if family.text is not None and all(family.text is not one for one in found):
            found.append(family.text)
    return found


def _titles(type: str) -> list[str]:  # noqa: A002
    """The text encoders that a loader's word means, for people."""
    kinds = {name: None for encoding in _encodings() if type in encoding.types for name in sorted(encoding.kinds())}
    return [encoders()[name].title for name in kinds]


def _takes(encoding: TextEncoding, kinds: frozenset[str]) -> bool:
    return bool(kinds) and encoding.required() <= kinds <= encoding.kinds()


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


# -- putting together -------------------------------------------------------------------------------------------------


def _clip(
    found: Mapping[str, Found],
    encoding: TextEncoding,
    memory: MemoryManager,
    embeddings: Sequence[Path],
    vocabularies: Vocabularies,
) -> CLIP:
    parts: dict[str, tuple[EncoderKind, Any]] = {}
    tensors: dict[str, LazyTensor] = {}
    text_encoders = []
    for spec in encoding.parts:
        if spec.encoder not in found:
            continue
        one = found[spec.encoder]
        config = one.kind.config(one.header.shapes(), overrides(one.file, spec.encoder))
        parts[spec.encoder] = (one.kind, config)
        encoder = _encoder(spec, one, config, vocabularies)
        tensors |= {encoder.prefix + name: entry for name, entry in one.header.tensors.items()}
        text_encoders.append(encoder)
    files = list(dict.fromkeys(found[encoder.name].file.identity for encoder in text_encoders))
    source = NetworkSource("text encoder", partial(TextNetworks, parts), tensors, "+".join(files), said=_said(found))
    return CLIP(text_encoders, encoding, source, memory, embeddings)


def _encoder(spec: TextPart, found: Found, config: Any, vocabularies: Vocabularies) -> TextEncoder:
    """A text encoder whose vocabulary is looked for when the first prompt comes."""
    told = overrides(found.file, spec.encoder)
    kind = spec.settings.special(found.kind.special)
    start = None if kind.start is None else int(told.get("bos_token_id", kind.start))
    end = None if kind.end is None else int(told.get("eos_token_id", kind.end))
    pad = told.get("pad_token_id", end if kind.pad == kind.end else kind.pad)
    special = Special(start, end, int(pad))
    options = _options(found.file, spec.encoder)

    def make_tokenizer() -> RowTokenizer:
        vocabulary = vocabularies.find(found.kind.vocabulary, found.file, spec.encoder)
        _refuse_larger(vocabulary, found, config)
        rows = spec.rows
        longest = getattr(config, "max_position_embeddings", None) or rows.max_length
        tokenizer = RowTokenizer(
            vocabulary,
            special.start,
            special.end,
            special.pad,
            max_length=None if rows.max_length is None else longest,
            min_length=rows.min_length,
            pad_to_max=rows.pad_to_max,
            pad_left=rows.pad_left,
            weights=rows.weights,
        )
        return tokenizer.with_options(options)

    return TextEncoder(spec, found.kind, make_tokenizer, spec.settings.with_special(special))


def _refuse_larger(vocabulary: Vocabulary, found: Found, config: Any) -> None:
    """Raise BadInput where a vocabulary has tokens for which the encoder has no vectors: it is another encoder's."""
    highest = max((token for token in vocabulary.entries().values() if token != found.kind.picture), default=0)
    if highest >= config.vocab_size:
        raise BadInput(
            f"{found.file.path.name} has vectors for {config.vocab_size} tokens, the vocabulary that was found for it "
            f"counts up to {highest}.",
            why=f"It is the vocabulary of {found.kind.vocabulary.title}, and this encoder has one of its own.",
            do=f"Put the encoder's own tokenizer.json into its file's metadata as {found.kind.name}.tokenizer_json.",
        )


def _options(file: CheckpointHeader, name: str) -> dict[str, Any]:
    """What a file's config says of a tokenizer: `tokenizer` with OPTION for all, ENCODER_OPTION for one."""
    told = said(file, "tokenizer").get("tokenizer", {}) if "tokenizer" in components(file) else {}
    return {option: told[key] for option in OPTIONS for key in (option, f"{name}_{option}") if key in told}


def _said(found: Mapping[str, Found]) -> dict[str, Any]:
    """What the files say beside their tensors, to be written with them again."""
    told: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name, one in found.items():
        named = ("tokenizer",) if "tokenizer" in components(one.file) else ()
        told |= said(one.file, name, *named)
        for key in (f"{name}.tokenizer_json", "tokenizer_json"):
            if key in one.file.metadata:
                texts[name] = one.file.metadata[key]
                break
    if len(set(texts.values())) == 1 and len(texts) == len(found):
        return told | {"tokenizer_json": next(iter(texts.values()))}
    return told | {f"{name}.tokenizer_json": text for name, text in texts.items()}
