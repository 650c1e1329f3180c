"""The starter model's own tokenizer: byte-level BPE as CLIP's, with 2,048 entries instead of 49,408.

Every word of the captions is one token; other words fall into pieces, and any byte can be written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from captions import all_captions
from common import DATA
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

SIZE = 2048
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
LENGTH = 77


def empty(model: models.Model) -> Tokenizer:
    """CLIP's clean-up and word splitting around a model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def corpus() -> Iterator[str]:
    """All captions many times, the names of all other emoji once."""
    counted = Counter(word for caption in all_captions() for word in caption.split())
    for word in sorted(counted):
        yield from [word] * 200
    for entry in json.loads((DATA / "index.json").read_text("utf8")):
        yield entry["name"]


def train() -> Tokenizer:
    """Learn the merges; then number as CLIP does: bytes, bytes that end a word, merges, START, END."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = empty(models.BPE(end_of_word_suffix="</w>"))
    wanted = SIZE - 2 * len(alphabet) - 2
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(corpus(), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:wanted]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    numbered = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = empty(models.BPE(numbered, merges, end_of_word_suffix="</w>"))
    tokenizer.add_special_tokens([START, END])
    return tokenizer


def encode(tokenizer: Tokenizer, caption: str) -> list[int]:
    """A caption as 77 ids: START, its tokens, END to the end of the row."""
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    ids = [start, *tokenizer.encode(caption, add_special_tokens=False).ids][: LENGTH - 1]
    return ids + [end] * (LENGTH - len(ids))


def main() -> None:
    """Train, save data/tokenizer.json, and say how captions come out."""
    tokenizer = train()
    (DATA / "tokenizer.json").write_text(tokenizer.to_str(), "utf8")
    words = sorted({word.strip(",") for caption in all_captions() for word in caption.split()})
    broken = [word for word in words if len(tokenizer.encode(word).tokens) > 1]
    print(f"{tokenizer.get_vocab_size()} entries; {len(words)} words, in pieces: {broken}")
    for text in ("a red apple, 3d style", "Ein grünes Zebra 🦓!"):
        print(tokenizer.encode(text).tokens)


if __name__ == "__main__":
    main()
