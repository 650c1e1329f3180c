"""Video containers: frames, rates, sound, and the texts inside."""

import io
import json
from fractions import Fraction

import av
import pytest
import torch

from limner.errors import BadInput, Forbidden, Interrupted, NotFound
from limner.nodes import video
from limner.store.audio import tags
from limner.store.video import VideoFromComponents, VideoFromFile
from tests.nodes.make import run_in

PROMPT = {"1": {"class_type": "A", "inputs": {}}}
EXTRA = {"workflow": {"nodes": [1]}}


@pytest.fixture
def run(tmp_path):
    return run_in(tmp_path)


def greys(*values, height=32, width=48):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, height, width, 3).clone()


def path_of(run, shown):
    entry = shown["images"][0]
    return run.store.files.resolve(entry["type"], entry["subfolder"], entry["filename"])


def carried(path):
    return {key.lower(): value for key, value in tags(path).items()}


@pytest.mark.parametrize(("codec", "name"), [("vp9", "vp9"), ("av1", "av1")])
def test_a_webm_has_its_codec_rate_frames_and_texts(run, codec, name):  # rule H3
    shown = video.save_webm(
        run, greys(0.2, 0.5, 0.8), "clip", codec=codec, fps=12.5, crf=20.0, prompt=PROMPT, extra_pnginfo=EXTRA
    ).ui
    assert shown["images"] == [{"filename": "clip_00001_.webm", "subfolder": "", "type": "output"}]
    assert list(shown["animated"]) == [True]
    path = path_of(run, shown)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert name in (stream.codec_context.name, stream.codec_context.codec.canonical_name)
        assert stream.average_rate == Fraction(25, 2)
        means = [frame.to_ndarray(format="rgb24").mean() / 255 for frame in container.decode(stream)]
    assert means == pytest.approx([0.2, 0.5, 0.8], abs=0.02)
    assert json.loads(carried(path)["prompt"]) == PROMPT
    assert json.loads(carried(path)["workflow"]) == EXTRA["workflow"]


def test_a_saved_video_carries_prompt_and_workflow(run):  # rules H3, F5
    made = video.create(greys(0.2, 0.8), 10.0)
    shown = video.save_video(run, made, prompt=PROMPT, extra_pnginfo=EXTRA).ui
    assert shown["images"] == [{"filename": "ComfyUI_00001_.mp4", "subfolder": "video", "type": "output"}]
    found = carried(path_of(run, shown))
    assert json.loads(found["prompt"]) == PROMPT
    assert json.loads(found["workflow"]) == EXTRA["workflow"]


def test_metadata_can_be_left_out(tmp_path):  # rule H2
    run = run_in(tmp_path, disable_metadata=True)
    texts = {"prompt": PROMPT, "extra_pnginfo": EXTRA}
    for shown in (
        video.save_webm(run, greys(0.0), codec="vp9", **texts).ui,
        video.save_video(run, video.create(greys(0.0), 10.0), **texts).ui,
    ):
        assert not {"prompt", "workflow"} & set(carried(path_of(run, shown)))


def test_the_size_of_a_video_fills_its_name_in(run):
    shown = video.save_video(run, video.create(greys(0.0), 5.0), "%width%x%height%").ui
    assert shown["images"][0]["filename"] == "48x32_00001_.mp4"


def test_a_video_comes_apart_as_it_was_put_together(run):
    sound = {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 8000}
    made = video.create(greys(0.1, 0.9), 24.0, audio=sound)
    assert isinstance(made, VideoFromComponents)
    images, audio, fps = video.components(made)
    assert images.shape == (2, 32, 48, 3)
    assert audio is sound
    assert fps == 24.0
    shown = video.save_video(run, made).ui["images"][0]
    loaded = video.load(run, f"{shown['subfolder']}/{shown['filename']} [output]")
    images, audio, fps = video.components(loaded)
    assert images.mean((1, 2, 3)).tolist() == pytest.approx([0.1, 0.9], abs=0.02)
    assert audio["sample_rate"] == 8000
    assert fps == 24.0


def test_a_file_that_fails_leaves_nothing_behind(run):
    run.sink.stop = Interrupted()
    with pytest.raises(Interrupted):
        video.save_webm(run, greys(0.0, 0.1), codec="vp9")
    assert list(run.store.files.root("output").iterdir()) == []


def test_a_video_is_stale_when_its_file_changed_and_refused_when_it_is_none(run):
    path = run.store.files.root("input") / "a.mp4"
    path.write_bytes(b"no video")
    companion = video.load.companions["changes_when"]
    before = companion(run, "a.mp4")
    with pytest.raises(BadInput, match=r"a\.mp4"):
        video.components(video.load(run, "a.mp4"))
    path.write_bytes(b"still no video")
    assert companion(run, "a.mp4") != before
    with pytest.raises(NotFound):
        video.load(run, "b.mp4")
    with pytest.raises(Forbidden):
        video.load(run, "../output/../../x.mp4")


def test_compression_costs_detail_and_keeps_the_picture():
    picture = torch.rand(1, 33, 49, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    assert video.compress(picture, 0) is picture
    errors = []
    for factor in (5, 45):
        made = video.compress(picture, factor)
        assert made.shape == (1, 32, 48, 3)
        errors.append((made - picture[:, :32, :48]).abs().mean().item())
    assert errors[0] < errors[1] < 0.1


def test_a_file_in_memory_is_a_video_too(run):
    buffer = io.BytesIO()
    video.create(greys(0.5), 5.0).save_to(buffer)
    shown = video.save_video(run, VideoFromFile(buffer), "copy").ui
    assert path_of(run, shown).stat().st_size > 0


def test_grey_and_transparent_pictures_are_films_too_and_none_are_refused(run):
    for channels in (1, 4):
        shown = video.save_webm(run, torch.full((2, 16, 16, channels), 0.5), codec="vp9").ui
        images = VideoFromFile(str(path_of(run, shown))).get_components().images
        assert images.mean().item() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(BadInput, match="no pictures"):
        video.save_webm(run, greys(0.5)[:0], codec="vp9")
