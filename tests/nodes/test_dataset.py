"""Folders of pictures as batches."""

import pytest
import torch
from PIL import Image as Picture

from limner.engine.files import StoreFiles
from limner.errors import BadInput, Forbidden
from limner.graph import Port
from limner.nodes import dataset
from tests.nodes.make import run_in


class Words:
    """A text encoder: the length of a text."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.tensor([[float(len(tokens))]]), {"text": tokens}]]


@pytest.fixture
def run(tmp_path):
    return run_in(tmp_path)


def put(run, name, size=(4, 3), grey=0):
    path = run.store.files.root("input") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.new("RGB", size, (grey,) * 3).save(path)
    return path


def firsts(batch):
    return (batch[:, 0, 0, 0] * 255).round().tolist()


def test_a_folder_is_a_batch_in_order_with_repeats(run):
    put(run, "set/b.png", grey=2)
    put(run, "set/a.png", grey=1)
    put(run, "set/2_fox/c.webp", grey=0)
    put(run, "set/plain/d.png", grey=4)
    (run.store.files.root("input") / "set" / "notes.md").write_text("no picture")
    assert firsts(dataset.load_images(run, "set")) == [1, 2, 0, 0, 4]


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("Stretch", [[0, 255, 255, 0]] * 2),
        ("Crop", [[255, 255, 255, 255]] * 2),
        # all of 8×2 in 4×2: one row of it, the other is left black
        ("Pad", [[0, 255, 255, 0], [0, 0, 0, 0]]),
    ],
)
def test_pictures_of_another_size_are_fitted(run, fit, expected):
    put(run, "set/a.png", (4, 2))
    wide = Picture.new("RGB", (8, 2))
    wide.paste((255, 255, 255), (2, 0, 6, 2))
    wide.save(run.store.files.root("input") / "set" / "b.png")
    made = dataset.load_images(run, "set", fit)[1, ..., 0] * 255
    assert made.round().tolist() == expected


def test_without_a_method_another_size_is_refused(run):
    put(run, "set/a.png", (4, 2))
    put(run, "set/b.png", (5, 2))
    with pytest.raises(BadInput, match=r"b\.png is 5×2, not 4×2"):
        dataset.load_images(run, "set")


def test_texts_beside_pictures_become_conditioning(run):
    put(run, "set/a.png").with_suffix(".txt").write_text(" a fox \n")
    put(run, "set/b.png")
    made = dataset.load_captioned(run, "set", Words(), "Stretch", 8, 6)
    assert made.IMAGE.shape == (2, 6, 8, 3)
    assert [options["text"] for _, options in made.CONDITIONING] == ["a fox", ""]


def test_an_empty_folder_and_one_elsewhere_are_refused(run):
    (run.store.files.root("input") / "none").mkdir()
    with pytest.raises(BadInput, match="no pictures in none"):
        dataset.load_images(run, "none")
    with pytest.raises(Forbidden):
        dataset.load_images(run, "../output")


def test_folders_and_models_below_a_folder_are_offered_and_accepted(run):
    put(run, "set/a.png")
    models = run.store.files.root("input") / "3d" / "inner"
    models.mkdir(parents=True)
    (models / "fox.glb").write_bytes(b"")
    (models / "fox.txt").write_bytes(b"")
    (models.parent / "owl.OBJ").write_bytes(b"")
    files = StoreFiles(run.store)
    folders = Port("folder", "COMBO", file_in="input", suffixes=("/",))
    assert list(files.choices(folders)) == ["3d", "set"]
    assert files.accepts(folders, "set")
    assert not files.accepts(folders, "set/a.png")
    model = Port("model_file", "COMBO", file_in="input", suffixes=(".glb", ".obj"), below="3d")
    assert list(files.choices(model)) == ["3d/inner/fox.glb", "3d/owl.OBJ"]
    assert files.accepts(model, "3d/inner/fox.glb")
    assert not files.accepts(model, "../3d/inner/fox.glb")
