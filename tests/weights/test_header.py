import mmap
import resource

import pytest
import torch
from safetensors.torch import save_file

from limner.errors import BadInput, NotFound
from limner.weights import CheckpointHeader, save
from tests.weights.make import entry, safetensors

DATA = bytes(16)
HOSTILE = {
    "empty file": b"",
    "shorter than its length field": b"\x01\x02",
}
BROKEN = {
    "header longer than the file": ({"a": entry()}, DATA, 1 << 20),
    "header longer than any": ({"a": entry()}, DATA, 1 << 62),
    "header over the limit": ({"a": entry()}, DATA, 100 * 1024 * 1024 + 1),
    "not JSON": (b"{nonsense", DATA, None),
    "not UTF-8": (b"{\xff\xfe}", DATA, None),
    "a list": ([1, 2], DATA, None),
    "nested beyond reason": (b'{"a":' + b"[" * 200_000, DATA, None),
    "a number of a million digits": (b'{"a":' + b"9" * 1_000_000 + b"}", DATA, None),
    "a name twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', DATA, None),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, DATA, None),
    "an entry that is a number": ({"a": 5}, DATA, None),
    "unknown dtype": ({"a": entry("F128")}, DATA, None),
    "a dtype that is no text": ({"a": entry(["F32"])}, DATA, None),
    "negative shape": ({"a": entry(shape=[-2])}, DATA, None),
    "fractional shape": ({"a": entry(shape=[2.0])}, DATA, None),
    "true as a size": ({"a": entry(shape=[True], offsets=[0, 4])}, DATA, None),
    "shape that is no list": ({"a": entry(shape=2)}, DATA, None),
    "negative offset": ({"a": entry(offsets=[-8, 0])}, DATA, None),
    "offsets backwards": ({"a": entry(offsets=[8, 0])}, DATA, None),
    "one offset": ({"a": entry(offsets=[0])}, DATA, None),
    "past the end": ({"a": entry(offsets=[12, 20])}, DATA, None),
    "truncated data": ({"a": entry(shape=[400], offsets=[0, 1600])}, DATA, None),
    "too few bytes for its shape": ({"a": entry(shape=[4])}, DATA, None),
    "a shape that overflows": ({"a": entry(shape=[1 << 40, 1 << 40])}, DATA, None),
    "overlapping tensors": ({"a": entry(), "b": entry(offsets=[4, 12])}, DATA, None),
    "metadata that is no object": ({"__metadata__": [], "a": entry()}, DATA, None),
    "metadata of numbers": ({"__metadata__": {"x": 1}, "a": entry()}, DATA, None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_header_is_refused_with_a_reason(tmp_path, name):
    header, data, length = BROKEN[name]
    with pytest.raises(BadInput) as caught:
        CheckpointHeader.read(safetensors(tmp_path, header, data, length))
    assert caught.value.why
    assert caught.value.do


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_without_a_header_is_refused(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(BadInput):
        CheckpointHeader.read(path)


def test_a_lying_header_allocates_nothing(tmp_path):
    path = safetensors(tmp_path, {"a": entry(shape=[1 << 36], offsets=[0, 1 << 38])}, DATA)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput):
        CheckpointHeader.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        CheckpointHeader.read(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    ],
)
def test_what_people_download_by_mistake_is_named(tmp_path, content, word):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content + bytes(100))
    with pytest.raises(BadInput, match=word):
        CheckpointHeader.read(path)


def tensors():
    return {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.ones(3, dtype=torch.bfloat16),
        "c": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "half": torch.ones(2, 2, dtype=torch.float16),
        "eight": torch.ones(5).to(torch.float8_e4m3fn),
    }


@pytest.mark.parametrize("use_mmap", [True, False])
def test_tensors_come_back_as_they_were_saved(tmp_path, use_mmap):
    save_file(tensors(), tmp_path / "x.safetensors", {"note": "hello"})
    header = CheckpointHeader.read(tmp_path / "x.safetensors", use_mmap)
    assert header.metadata == {"note": "hello"}
    for name, expected in tensors().items():
        assert header.dtype(name) == expected.dtype
        assert header.shape(name) == tuple(expected.shape)
        assert torch.equal(header.tensor(name).float(), expected.float())


def test_our_own_files_are_read_by_safetensors(tmp_path):
    from safetensors.torch import load_file

    save(tmp_path / "x.safetensors", tensors(), {"note": "hello"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors().keys()
    assert torch.equal(found["a"], tensors()["a"])
    assert CheckpointHeader.read(tmp_path / "x.safetensors").metadata == {"note": "hello"}


def test_a_failed_save_leaves_no_file(tmp_path):
    with pytest.raises(BadInput):
        save(tmp_path / "x.safetensors", {"a": torch.zeros(1, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())


def test_writing_into_a_mapped_tensor_never_reaches_the_file(tmp_path):
    save(tmp_path / "x.safetensors", {"a": torch.zeros(4)})
    CheckpointHeader.read(tmp_path / "x.safetensors").tensor("a").add_(1)
    assert CheckpointHeader.read(tmp_path / "x.safetensors").tensor("a").sum() == 0


def test_released_pages_come_back_from_the_file(tmp_path):
    expected = torch.arange(4 * mmap.PAGESIZE, dtype=torch.float32)
    save(tmp_path / "x.safetensors", {"a": expected})
    entry_of_a = CheckpointHeader.read(tmp_path / "x.safetensors").tensors["a"]
    entry_of_a.read().sum()
    entry_of_a.release()
    assert torch.equal(entry_of_a.read(), expected)


def test_select_takes_a_prefix_away_and_count_counts_numbers(tmp_path):
    header = CheckpointHeader.of({f"m.blocks.{i}.w": torch.zeros(1) for i in (0, 1, 10)} | {"other": torch.zeros(1)})
    part = header.select("m.")
    assert set(part) == {"blocks.0.w", "blocks.1.w", "blocks.10.w"}
    assert part.count("blocks.{}.w") == 3
    assert part.count("blocks.{}.v") == 0


def test_an_unknown_tensor_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"no tensor 'b'"):
        CheckpointHeader.of({"a": torch.zeros(1)}).tensor("b")


def test_the_same_file_keeps_its_identity_until_it_changes(tmp_path):
    path = tmp_path / "x.safetensors"
    save(path, {"a": torch.zeros(4)})
    first = CheckpointHeader.read(path).identity
    assert CheckpointHeader.read(path).identity == first
    save(path, {"a": torch.zeros(5)})
    assert CheckpointHeader.read(path).identity != first
