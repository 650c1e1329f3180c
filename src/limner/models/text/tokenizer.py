"""CLIP's byte-pair tokenizer, and prompts as rows of weighted tokens.

The vocabulary is not part of this package: it comes from the checkpoint, from a tokenizer.json in a model folder, or
with the installed package `openai-clip`, whose data file is found without importing it.
"""

from __future__ import annotations

import gzip
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from limner.errors import BadInput, NotFound
from limner.models.text.weighting import parse_weights

log = logging.getLogger(__name__)

Token: TypeAlias = tuple[int | Tensor, float, int]  # id or vector (D,), weight, word (1 …; 0 for start, end, padding)
Row: TypeAlias = list[Token]
FindEmbedding: TypeAlias = Callable[[str], Tensor | None]  # name → vectors (D,) or (count, D)

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48_894  # of the file's lines, how many are used: 49,408 entries less 2 · 256 bytes and 2 special tokens
# Radford et al. 2021: contractions, runs of letters, single digits, runs of anything else that is not a space
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
EMBEDDING = "embedding:"
LONG_WORD = 8  # tokens; a shorter word is not split between two rows


def byte_letters() -> list[str]:
    """The letter that stands for each of the 256 bytes, in the vocabulary's order: printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]


def clip_bpe(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The byte-pair encoder of CLIP with these merges, in order of their rank."""
    letters = byte_letters()
    entries = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    bpe = BPE(
        vocab={entry: number for number, entry in enumerate(entries)},
        merges=list(merges),
        end_of_word_suffix="</w>",
        continuing_subword_prefix="",
        unk_token=END,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (START, END)])
    return tokenizer


def installed_vocabulary() -> Path:
    """The data file of the installed package `openai-clip`. Raises NotFound where it is not installed."""
    spec = importlib.util.find_spec("clip")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / VOCABULARY
        if path.is_file():
            return path
    raise NotFound(
        "The vocabulary of CLIP's tokenizer is not there.",
        why=f"The package openai-clip, whose file {VOCABULARY} holds it, is not installed.",
        do="Install it (`pip install openai-clip`) or put a tokenizer.json into models/tokenizers/clip/.",
    )


def read_vocabulary(path: Path) -> Tokenizer:
    """The byte-pair encoder of a vocabulary file: a tokenizer.json, or OpenAI's gzipped list of merges."""
    if path.suffix == ".json":
        return parse_tokenizer(path.read_text(encoding="utf-8"), str(path))
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    return clip_bpe([(first, second) for first, _, second in (line.partition(" ") for line in lines)])


def parse_tokenizer(data: str, source: str) -> Tokenizer:
    """The encoder of the JSON of a `tokenizers` tokenizer, such as a checkpoint's `tokenizer_json`."""
    try:
        return Tokenizer.from_str(data)
    except Exception as error:  # the library raises bare Exception
        raise BadInput(f"{source} is not a tokenizer.", why=str(error), do="It must be a `tokenizers` JSON.") from error


@dataclass(frozen=True)
class ClipTokenizer:
    """Prompts to rows of tokens, as long as the text encoder takes them.

    A row is a start token, tokens of the prompt, an end token, then padding (or the padding first). A prompt that is
    too long for one row goes on in the next.
    """

    bpe: Tokenizer
    start: int = 49406
    end: int = 49407
    pad: int = 49407  # 0 for CLIP-G and CLIP-H
    max_length: int = 77  # tokens in a row, with start and end
    min_length: int = 0  # a row is padded to this
    pad_to_max: bool = True  # or to max_length
    pad_left: bool = False  # padding stands before the prompt instead of behind it

    @classmethod
    def installed(cls, pad: int = 49407) -> ClipTokenizer:
        """The tokenizer of OpenAI's CLIP, with the vocabulary of the installed package."""
        return cls(read_vocabulary(installed_vocabulary()), pad=pad)

    def rows(self, prompt: str, find_embedding: FindEmbedding | None = None) -> list[Row]:
        """The prompt as rows of (id, weight, word), at least one row.

        find_embedding: gives the vectors of `embedding:NAME` in the prompt, None for a name it does not know; that
        name is then left out with a warning. Without it `embedding:NAME` is text like any other.
        """
        words = [
            [(token, weight) for token in tokens]
            for text, weight in parse_weights(prompt)
            for tokens in self._words(text, find_embedding)
        ]
        return self._chunks(words)

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        return list(self.bpe.encode(text, add_special_tokens=False).ids)

    def empty_row(self, length: int) -> list[int]:
        """The ids of a row without text: start, end, padding."""
        return [self.start, self.end, *[self.pad] * (length - 2)][:length]

    def _words(self, text: str, find_embedding: FindEmbedding | None) -> Iterator[Sequence[int | Tensor]]:
        """The tokens of each word of a text; a word is what stands between embeddings, however long."""
        if find_embedding is None:
            yield self.ids(text)
            return
        for piece in re.split(rf"[ \n](?={EMBEDDING})", text):
            rest = piece
            if piece.startswith(EMBEDDING):
                name, _, rest = piece.removeprefix(EMBEDDING).partition(" ")
                vectors, comma = _look_up(name, find_embedding)
                rest = f"{comma} {rest}" if comma else rest
                if vectors is not None:
                    yield list(vectors if vectors.dim() > 1 else vectors[None])
            if rest:
                yield self.ids(rest)

    def _chunks(self, words: list[list[tuple[int | Tensor, float]]]) -> list[Row]:
        """Words laid into rows: a long one is cut where its row ends, a short one that does not fit starts the next."""
        rows: list[Row] = [[(self.start, 1.0, 0)]]
        last = self.max_length - 1  # the end token's place in a full row
        for number, word in enumerate(words, 1):
            tokens = [(token, weight, number) for token, weight in word]
            while tokens:
                room = last - len(rows[-1])
                if len(tokens) <= room:
                    rows[-1] += tokens
                    break
                if len(word) >= LONG_WORD:
                    rows[-1] += tokens[:room]
                    tokens = tokens[room:]
                rows.append([(self.start, 1.0, 0)])
        for row in rows:
            row.append((self.end, 1.0, 0))
            length = self.max_length if self.pad_to_max else self.min_length
            padding: Row = [(self.pad, 1.0, 0)] * (length - len(row))
            row[:] = [*padding, *row] if self.pad_left else [*row, *padding]
        return rows


def _look_up(name: str, find_embedding: FindEmbedding) -> tuple[Tensor | None, str]:
    """The vectors of a name, and what was written right behind it: `embedding:name,` means `name` and a comma."""
    vectors = find_embedding(name)
    bare = name.rstrip(",")
    if vectors is not None or bare == name:
        comma = ""
    else:
        vectors, comma = find_embedding(bare), name[len(bare) :]
    if vectors is None:
        log.warning("embedding:%s does not exist and is left out.", bare)
    return vectors, comma
