"""Where vocabularies come from: the file, beside it, the models' folder, a package, the hub."""

import hashlib
import io
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceTrainer

from limner.cli import main
from limner.errors import BadInput, LimnerError, NotFound
from limner.models.load_text import load_clip
from limner.models.text import vocabulary
from limner.models.text.hub import Pin, fetch
from limner.models.text.vocabulary import CLIP, QWEN, T5, Vocabularies
from limner.weights import CheckpointHeader, save
from tests.models.checkpoints import memory
from tests.models.make import tiny_bpe, tiny_t5, tiny_words

JSON = tiny_words().to_str()
PIN = Pin("someone/model", "0123abc", "tokenizer/tokenizer.json", hashlib.sha256(JSON.encode()).hexdigest())


@pytest.fixture
def bare(tmp_path):
    """The header of a T5's file that carries no vocabulary."""
    folder = tmp_path / "models" / "text_encoders"
    folder.mkdir(parents=True)
    save(folder / "t5.safetensors", tiny_t5().state_dict())
    return CheckpointHeader.read(folder / "t5.safetensors")


@contextmanager
def hub(answers):
    """A hub on this machine that serves these bytes by path; yields its address and the paths asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b""))

        def log_message(self, *_):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def pieces() -> bytes:
    """A SentencePiece model that knows a little."""
    model = io.BytesIO()
    text = ["a cat on a mat", "a dog on a mat", "the cat sat"] * 20
    SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=24, hard_vocab_limit=False, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def test_a_file_carries_its_vocabulary_as_a_tensor_or_in_its_metadata():
    words = torch.frombuffer(bytearray(JSON.encode()), dtype=torch.uint8)
    for header in (
        CheckpointHeader.of({"tokenizer_json": words}),
        CheckpointHeader.of({}, {"t5xxl.tokenizer_json": JSON, "tokenizer_json": "{"}),
        CheckpointHeader.of({}, {"tokenizer_json": JSON}),
    ):
        assert Vocabularies().find(T5, header, "t5xxl").ids("a cat") == [3, 4]
    model = torch.frombuffer(bytearray(pieces()), dtype=torch.uint8)
    found = Vocabularies().find(T5, CheckpointHeader.of({"spiece_model": model}), "t5xxl")
    assert found.entries()["</s>"] == 1
    assert all(number in found.entries().values() for number in found.ids("a cat"))


def test_a_vocabulary_lies_beside_the_file_or_in_the_models_folder(bare):
    where = Vocabularies.beside([bare.path.parent])
    folder = bare.path.parent.parent / "tokenizers" / "t5"
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(pieces())
    assert "</s>" in where.find(T5, bare, "t5xxl").entries()
    (bare.path.parent / "tokenizer.json").write_text(JSON)
    assert where.find(T5, bare, "t5xxl").ids("a cat") == [3, 4]
    # one of another encoder in the same folder is passed over
    (bare.path.parent / "tokenizer.json").write_text(tiny_bpe().to_str())
    assert where.find(T5, bare, "t5xxl").ids("a cat") != [3, 4]


def test_a_pair_of_entries_and_merges_is_a_vocabulary_too(tmp_path):
    (tmp_path / "vocab.json").write_text('{"c": 0, "a": 1, "ca": 2, "Ġ": 3, "<|im_start|>": 4}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\n")
    header = replace(CheckpointHeader.of({}), path=tmp_path / "x.safetensors")
    found = Vocabularies().find(QWEN, header, "qwen25_7b")
    assert found.ids("ca c") == [2, 3, 0]
    assert found.ids("<|im_start|>a") == [4, 1]


def test_installed_packages_carry_those_of_clip_and_qwen():
    nowhere = CheckpointHeader.of({})
    assert Vocabularies().find(CLIP, nowhere, "clip_l").ids("a photo of a cat") == [320, 1125, 539, 320, 2368]
    qwen = Vocabularies().find(QWEN, nowhere, "qwen25_7b")
    assert qwen.ids("<|im_start|>user\nCafe\u0301 🦊") == [151644, 872, 198, 34, 2577, 963, 11162, 99, 232]
    assert qwen.entries()["<|image_pad|>"] == 151655


def test_a_missing_vocabulary_names_the_places_looked_at_and_the_remedy(bare, monkeypatch):
    with pytest.raises(NotFound) as caught:
        Vocabularies.beside([bare.path.parent]).find(T5, bare, "t5xxl")
    for place in ("t5.safetensors itself", str(bare.path.parent), str(bare.path.parent.parent / "tokenizers" / "t5")):
        assert place in caught.value.why
    assert "limner models fetch-tokenizers" in caught.value.do
    assert "models/tokenizers/t5/" in caught.value.do
    absent = replace(CLIP, installed=replace(CLIP.installed, module="no_such_package"))
    with pytest.raises(NotFound, match="pip install openai-clip"):
        Vocabularies().find(absent, CheckpointHeader.of({}), "clip_l")


def test_a_file_loads_without_its_vocabulary_and_the_first_prompt_says_what_is_missing(bare):
    clip = load_clip([bare.path], "sd3", memory())
    with pytest.raises(NotFound, match="The vocabulary of T5 is not there"):
        clip.tokenize("a cat")


@pytest.mark.parametrize("data", ["{}", "no json"])
def test_what_is_no_vocabulary_is_refused_by_name(bare, data):
    (bare.path.parent / "tokenizer.json").write_text(data)
    with pytest.raises(BadInput, match=r"tokenizer\.json is not a tokenizer"):
        Vocabularies().find(T5, bare, "t5xxl")
    (bare.path.parent / "tokenizer.json").unlink()
    (bare.path.parent / "spiece.model").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"spiece\.model is not a vocabulary"):
        Vocabularies().find(T5, bare, "t5xxl")


# -- the hub ----------------------------------------------------------------------------------------------------------

AT = "/someone/model/resolve/0123abc/tokenizer/tokenizer.json"


def test_the_hub_is_asked_once_and_what_it_gives_is_kept(bare):
    with hub({AT: JSON.encode()}) as (address, asked):
        where = Vocabularies.beside([bare.path.parent], address)
        source = replace(T5, pin=PIN)
        for _ in range(2):
            assert where.find(source, bare, "t5xxl").ids("a cat") == [3, 4]
        assert asked == [AT]
    assert (bare.path.parent.parent / "tokenizers" / "t5" / "tokenizer.json").read_text() == JSON


def test_a_file_with_another_hash_is_never_used(bare, tmp_path):
    with hub({AT: b"something else"}) as (address, _):
        with pytest.raises(LimnerError, match="not the file that was expected"):
            fetch(PIN, address, tmp_path / "t5")
        with pytest.raises(NotFound, match="the model hub"):
            Vocabularies((tmp_path,), address).find(replace(T5, pin=PIN), bare, "t5xxl")
    assert not (tmp_path / "t5").exists()


def test_a_hub_that_does_not_answer_or_is_no_web_address_says_so(tmp_path):
    with hub({}) as (address, _), pytest.raises(LimnerError, match="404"):
        fetch(PIN, address, tmp_path)
    for wrong in ("file:///etc", "http://models.invalid"):
        with pytest.raises(LimnerError, match="begins with https"):
            fetch(PIN, wrong, tmp_path)


def test_without_a_hub_nothing_is_asked(bare):
    with hub({AT: JSON.encode()}) as (_, asked):
        with pytest.raises(NotFound):
            Vocabularies.beside([bare.path.parent]).find(replace(T5, pin=PIN), bare, "t5xxl")
        assert asked == []


def test_the_command_fetches_what_no_package_carries(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(vocabulary, "SOURCES", (CLIP, replace(T5, pin=PIN)))
    place = ("--base-directory", str(tmp_path))
    with hub({AT: JSON.encode()}) as (address, _):
        assert main(["models", "fetch-tokenizers", *place, "--model-hub", address]) == 0
    out = capsys.readouterr().out
    assert "clip: comes with the package openai-clip" in out
    found = Path(tmp_path) / "models" / "tokenizers" / "t5" / "tokenizer.json"
    assert f"t5: {found}" in out
    assert found.read_text() == JSON
    assert main(["models", "fetch-tokenizers", *place, "--offline"]) == 1
    assert "offline" in capsys.readouterr().err
    assert main(["models", "make-tea", *place]) == 1
    assert "fetch-tokenizers" in capsys.readouterr().err
