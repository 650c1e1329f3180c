import collections
import os
import pickle
import zipfile

import numpy
import pytest
import torch

from limner.errors import BadInput
from limner.weights import CheckpointHeader
from tests.weights.make import Reducing, checkpoint, pickled_zip


def state():
    shared = torch.arange(12, dtype=torch.float32)
    return {"a": shared[:6].reshape(2, 3), "b": shared[6:], "t": torch.ones(2, 3).t(), "h": torch.ones(3).half()}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("use_mmap", [True, False])
def test_tensors_come_back_as_torch_saved_them(tmp_path, legacy, use_mmap):
    header = CheckpointHeader.read(checkpoint(tmp_path, state(), legacy), use_mmap)
    for name, expected in state().items():
        assert header.dtype(name) == expected.dtype
        assert torch.equal(header.tensor(name), expected)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_nested_state_dict_is_taken_out(tmp_path, legacy):
    contents = {"state_dict": collections.OrderedDict(state()), "epoch": 3, "lr": 1e-4, "names": ["x"]}
    assert set(CheckpointHeader.read(checkpoint(tmp_path, contents, legacy))) == set(state())


def test_parameters_and_a_modules_state_dict_are_read(tmp_path):
    module = torch.nn.Linear(3, 2)
    found = CheckpointHeader.read(checkpoint(tmp_path, {**module.state_dict(), "p": module.weight}))
    assert torch.equal(found.tensor("weight"), module.weight)
    assert torch.equal(found.tensor("p"), module.weight)


def test_a_textual_inversion_keeps_its_vectors(tmp_path):
    contents = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 4)}, "name": "x", "step": 5}
    assert CheckpointHeader.read(checkpoint(tmp_path, contents)).shape("string_to_param.*") == (2, 4)


def test_numpy_numbers_of_a_training_script_are_passed_over(tmp_path):
    found = CheckpointHeader.read(checkpoint(tmp_path, {"state_dict": state(), "best": numpy.float64(0.5)}))
    assert set(found) == set(state())


EXECUTABLE = {
    "posix.system": lambda: Reducing(os.system, "true"),
    "builtins.eval": lambda: Reducing(eval, "1"),
    "builtins.getattr": lambda: Reducing(getattr, "x", "y"),
    "subprocess.Popen": lambda: Reducing(__import__("subprocess").Popen, "true"),
    "torch.hub.load": lambda: Reducing(torch.hub.load, "x", "y"),
    "torch.load": lambda: Reducing(torch.load, "x"),
}


@pytest.mark.parametrize("name", EXECUTABLE)
def test_an_executable_pickle_is_refused_by_name(tmp_path, name):
    path = pickled_zip(tmp_path, {"state_dict": EXECUTABLE[name]()})
    shown = (
        name.replace("builtins", "__builtin__")
        if "builtins" in name
        else name.replace("torch.load", "torch.serialization.load")
    )
    with pytest.raises(BadInput, match=shown.rpartition(".")[2]) as caught:
        CheckpointHeader.read(path)
    assert "refused" in caught.value.what
    assert "safetensors" in caught.value.do


def test_an_executable_legacy_pickle_is_refused_by_name(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(Reducing(os.system, "true"), protocol=2))
    with pytest.raises(BadInput, match="system"):
        CheckpointHeader.read(path)


def test_nothing_of_a_refused_pickle_is_run(tmp_path):
    mark = tmp_path / "ran"
    path = pickled_zip(tmp_path, [Reducing(os.mkdir, str(mark))])
    with pytest.raises(BadInput):
        CheckpointHeader.read(path)
    assert not mark.exists()


def test_a_trainers_callback_is_refused_by_name(tmp_path):
    # GLOBAL 'pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint', as in old checkpoints
    data = (
        b"\x80\x02}q\x00X\x01\x00\x00\x00cq\x01cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\nq\x02s."
    )
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(BadInput, match=r"pytorch_lightning\.callbacks\.model_checkpoint\.ModelCheckpoint"):
        CheckpointHeader.read(path)


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """BUILD sets attributes on what a global gave; it must give something of no consequence."""
    from limner.weights import pickles

    before = dict(vars(pickles))
    data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb."
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(BadInput):
        CheckpointHeader.read(path)
    assert not hasattr(pickles._tensor, "x")
    assert dict(vars(pickles)) == before


@pytest.mark.parametrize("keep", [10, 100, 0.5, 0.9], ids=str)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep, legacy):
    path = checkpoint(tmp_path, {"a": torch.zeros(1000)}, legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(BadInput):
        CheckpointHeader.read(path)


def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path):
    path = checkpoint(tmp_path, {"a": torch.zeros(10)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    assert b"K\x0a" in members[pickled]
    members[pickled] = members[pickled].replace(b"K\x0a\x85", b"K\xff\x85")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(BadInput):
        CheckpointHeader.read(path)


def test_a_huge_memo_index_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(BadInput):
        CheckpointHeader.read(path)


@pytest.mark.parametrize("contents", [5, [torch.zeros(2)], "text"], ids=["number", "list", "text"])
def test_a_pickle_that_is_no_dictionary_is_refused(tmp_path, contents):
    with pytest.raises(BadInput):
        CheckpointHeader.read(checkpoint(tmp_path, contents))
