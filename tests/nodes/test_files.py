"""Pictures and latents from and to files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from limner.errors import BadInput, Interrupted, NotFound
from limner.nodes import image_files, latent_files
from limner.weights import CheckpointHeader
from limner.weights import save as save_tensors
from tests.nodes.make import ramp, run_in


@pytest.fixture
def run(tmp_path):
    return run_in(tmp_path)


def put(run, name, picture, **options):
    picture.save(run.store.files.root("input") / name, **options)
    return name


def of(values, mode=None):
    picture = Picture.fromarray(np.array(values, np.uint8))
    return picture if mode is None else picture.convert(mode)


RGBA = [[[10, 20, 30, 255], [40, 50, 60, 51]]]


def test_transparency_becomes_the_mask(run):
    pixels, mask = image_files.load_image(run, put(run, "a.png", of(RGBA)))
    assert torch.equal(pixels, torch.tensor(RGBA, dtype=torch.float32)[None, ..., :3] / 255)
    assert torch.allclose(mask, torch.tensor([[[0.0, 0.8]]]))


def test_a_picture_without_alpha_has_a_small_blank_mask(run):
    pixels, mask = image_files.load_image(run, put(run, "a.png", of([[1, 2, 3]])))
    assert pixels.shape == (1, 1, 3, 3)
    assert mask.shape == (1, 64, 64)
    assert not mask.any()


def test_a_palette_with_transparency_has_a_mask(run):
    picture = of([[0, 1]])
    picture = Picture.frombytes("P", (2, 1), b"\x00\x01")
    picture.putpalette([0, 0, 0, 255, 0, 0])
    _, mask = image_files.load_image(run, put(run, "a.png", picture, transparency=1))
    assert mask.tolist() == [[[0.0, 1.0]]]


def test_a_transparent_colour_of_a_plain_picture_gives_none(run):
    _, mask = image_files.load_image(run, put(run, "a.png", of([[[1, 2, 3]]]), transparency=(1, 2, 3)))
    assert mask.shape == (1, 64, 64)


def test_greys_of_sixteen_bits_are_scaled(run):
    picture = Picture.fromarray(np.array([[0, 25500, 65535]], np.uint16))
    pixels, _ = image_files.load_image(run, put(run, "a.png", picture))
    assert (pixels[0, 0, :, 0] * 255).tolist() == [0, 100, 255]


def test_a_photograph_is_turned_upright(run):
    exif = Picture.Exif()
    exif[0x0112] = 6
    pixels, _ = image_files.load_image(run, put(run, "a.png", of([[0, 255]]), exif=exif))
    assert pixels.shape[1:3] == (2, 1)


def test_frames_become_a_batch(run):
    frames = [of([[[value] * 3] * 4]) for value in (0, 80, 160)]
    name = put(run, "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    pixels, mask = image_files.load_image(run, name)
    assert (pixels[:, 0, 0, 0] * 255).tolist() == [0, 80, 160]
    assert mask.shape == (3, 64, 64)


def test_a_file_that_is_not_there_or_no_picture_is_refused(run):
    with pytest.raises(NotFound, match=r"nothing\.png"):
        image_files.load_image(run, "nothing.png")
    (run.store.files.root("input") / "text.png").write_text("not a picture")
    with pytest.raises(BadInput, match=r"text\.png"):
        image_files.load_image(run, "text.png")


def test_a_cut_off_file_is_read_as_far_as_it_goes(run, caplog):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    name = put(run, "a.jpg", of(noise), quality=95)
    path = run.store.files.root("input") / name
    path.write_bytes(path.read_bytes()[:-800])
    assert image_files.load_image(run, name)[0].shape == (1, 64, 64, 3)
    assert "cut off" in caplog.text


def test_a_result_is_stale_when_the_file_changed(run):
    name = put(run, "a.png", of([[1]]))
    before = image_files.load_image.companions["changes_when"](run, name)
    put(run, name, of([[1, 2]]))
    assert image_files.load_image.companions["changes_when"](run, name) != before


@pytest.mark.parametrize(("channel", "expected"), [("red", [10, 40]), ("blue", [30, 60]), ("alpha", [0, 204])])
def test_a_channel_becomes_a_mask(run, channel, expected):
    made = image_files.load_mask(run, put(run, "a.png", of(RGBA)), channel)
    assert (made[0, 0] * 255).round().tolist() == expected


def test_an_opaque_picture_has_an_empty_alpha_mask_of_its_size(run):
    made = image_files.load_mask(run, put(run, "a.png", of([[1, 2]])), "alpha")
    assert made.tolist() == [[[0.0, 0.0]]]


def saved(run, shown):
    entry = shown["images"][0]
    return Picture.open(run.store.files.resolve(entry["type"], entry["subfolder"], entry["filename"]))


def test_pictures_are_cut_to_8_bits_and_numbered(run):
    images = torch.tensor([0.999, -1.0, 2.0]).view(1, 1, 3, 1).expand(2, -1, -1, 3)
    shown = image_files.save_image(run, images, "sub/fox_%width%x%height%_%batch_num%").ui
    assert shown["images"] == [
        {"filename": "fox_3x1_0_00001_.png", "subfolder": "sub", "type": "output"},
        {"filename": "fox_3x1_1_00002_.png", "subfolder": "sub", "type": "output"},
    ]
    assert np.asarray(saved(run, shown))[0, :, 0].tolist() == [254, 0, 255]


def test_the_next_save_goes_on_counting(run):
    images = torch.zeros(1, 1, 1, 3)
    image_files.save_image(run, images, "fox")
    assert image_files.save_image(run, images, "fox").ui["images"][0]["filename"] == "fox_00002_.png"


def test_pictures_carry_prompt_and_workflow(run):
    shown = image_files.save_image(
        run, torch.zeros(1, 1, 1, 3), "fox", prompt={"1": "é"}, extra_pnginfo={"workflow": {"nodes": []}}
    ).ui
    text = saved(run, shown).text
    assert json.loads(text["prompt"]) == {"1": "é"}
    assert json.loads(text["workflow"]) == {"nodes": []}


def test_metadata_can_be_left_out(tmp_path):
    run = run_in(tmp_path, disable_metadata=True)
    shown = image_files.save_image(run, torch.zeros(1, 1, 1, 4), "fox", prompt={"1": 2}).ui
    assert saved(run, shown).text == {}


def test_previews_go_to_the_temp_folder(run):
    (entry,) = image_files.preview_image(run, torch.zeros(1, 1, 1, 3)).ui["images"]
    assert entry["type"] == "temp"
    assert entry["filename"].startswith("ComfyUI_temp_")
    (entry,) = image_files.preview_mask(run, torch.zeros(2, 2)).ui["images"]
    assert entry["type"] == "temp"


def test_saving_stops_between_pictures_when_interrupted(run):
    run.sink.stop = Interrupted()
    with pytest.raises(Interrupted):
        image_files.save_image(run, torch.zeros(1, 1, 1, 3), "fox")


def test_a_latent_comes_back_as_it_was(run):
    samples = ramp(1, 4, 2, 2)
    (entry,) = latent_files.save_latent(run, {"samples": samples}, "x", prompt={"1": 2}, extra_pnginfo={"w": 3}).ui[
        "latents"
    ]
    assert entry == {"filename": "x_00001_.latent", "subfolder": "", "type": "output"}
    header = CheckpointHeader.read(run.store.files.root("output") / "x_00001_.latent")
    assert dict(header.metadata) == {"prompt": '{"1": 2}', "w": "3"}
    assert header.shape("latent_format_version_0") == (0,)
    loaded = latent_files.load_latent(run, "x_00001_.latent [output]")
    assert set(loaded) == {"samples"}
    assert torch.equal(loaded["samples"], samples)


def test_an_old_latent_is_scaled(run):
    save_tensors(run.store.files.root("input") / "old.latent", {"latent_tensor": torch.ones(1).half()})
    loaded = latent_files.load_latent(run, "old.latent")["samples"]
    assert loaded.dtype == torch.float32
    assert torch.allclose(loaded, torch.tensor([1 / 0.18215]))
