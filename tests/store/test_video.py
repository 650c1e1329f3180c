"""Videos: from pictures to files and back, whole and in parts."""

import io
import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from limner.errors import BadInput
from limner.store.audio import tags
from limner.store.video import (
    VideoCodec,
    VideoComponents,
    VideoContainer,
    VideoFromComponents,
    VideoFromFile,
    VideoInput,
    write_video,
)


def ramp(frames: int = 12, height: int = 32, width: int = 48) -> torch.Tensor:
    images = torch.zeros(frames, height, width, 3)
    images[..., 0] = torch.linspace(0, 1, frames)[:, None, None]
    images[:, :, : width // 2, 1] = 0.5
    return images


def made(frames: int = 12, sound: bool = True, **size: int) -> VideoFromComponents:
    t = torch.arange(16000) / 16000
    audio = {"waveform": 0.5 * torch.sin(2 * torch.pi * 440 * t)[None, None], "sample_rate": 16000} if sound else None
    return VideoFromComponents(VideoComponents(ramp(frames, **size), Fraction(12), audio))


def saved(video: VideoInput, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    video.save_to(buffer, **options)
    return buffer


def test_a_video_of_pictures_knows_its_measures() -> None:
    video = made()
    assert video.get_dimensions() == (48, 32)
    assert (video.get_frame_count(), video.get_frame_rate(), video.get_duration()) == (12, Fraction(12), 1.0)


def test_a_saved_video_gives_back_its_pictures_and_its_sound() -> None:
    video = VideoFromFile(saved(made()))
    parts = video.get_components()
    assert video.get_dimensions() == (48, 32)
    assert (video.get_frame_count(), video.get_frame_rate(), video.get_duration()) == (12, Fraction(12), 1.0)
    assert "mp4" in video.get_container_format().split(",")
    assert parts.images.shape == (12, 32, 48, 3)
    assert (parts.images - ramp()).abs().max() < 0.05
    assert parts.audio is not None
    assert parts.audio["sample_rate"] == 16000
    spectrum = torch.fft.rfft(parts.audio["waveform"][0, 0]).abs()
    assert abs(int(spectrum.argmax()) * 16000 / parts.audio["waveform"].shape[-1] - 440) < 5


def test_metadata_is_written_as_json_and_read_back_as_values() -> None:
    # rule H3
    prompt, workflow = {"1": {"class_type": "Füchse"}}, {"nodes": []}
    file = saved(made(sound=False), metadata={"prompt": prompt, "workflow": workflow})
    assert json.loads(tags(file)["prompt"]) == prompt
    metadata = VideoFromFile(file).get_components().metadata
    assert metadata is not None
    assert (metadata["prompt"], metadata["workflow"]) == (prompt, workflow)


def test_sound_longer_than_the_pictures_is_cut_to_them() -> None:
    parts = VideoFromFile(saved(made(frames=6))).get_components()
    assert parts.audio is not None
    assert abs(parts.audio["waveform"].shape[-1] - 8000) <= 2048


def test_odd_sides_lose_their_last_row_and_column() -> None:
    assert VideoFromFile(saved(made(sound=False, height=33, width=49))).get_dimensions() == (48, 32)


def test_a_file_saved_again_keeps_every_picture_bit_for_bit_and_adds_metadata() -> None:
    first = VideoFromFile(saved(made(), metadata={"prompt": {}}))
    again = saved(first, metadata={"workflow": {"nodes": [1]}})
    assert torch.equal(VideoFromFile(again).get_components().images, first.get_components().images)
    assert tags(again)["prompt"] == "{}"
    assert json.loads(tags(again)["workflow"]) == {"nodes": [1]}


def test_a_part_of_a_file_holds_the_pictures_of_that_time() -> None:
    part = VideoFromFile(saved(made())).as_trimmed(0.5, 0.25)
    assert part is not None
    images = part.get_components().images
    assert part.get_duration() == pytest.approx(0.25)
    assert images.shape[0] == part.get_frame_count() == 3
    assert torch.allclose(images[:, 20, 40, 0], torch.tensor([6 / 11, 7 / 11, 8 / 11]), atol=0.03)
    assert VideoFromFile(saved(part)).get_frame_count() == 3


def test_a_part_of_pictures_takes_its_sound_along() -> None:
    part = made().as_trimmed(0.25, 0.5)
    assert part is not None
    parts = part.get_components()
    assert parts.images.shape[0] == 6
    assert parts.audio is not None
    assert parts.audio["waveform"].shape[-1] == 8000


@pytest.mark.parametrize("video", [made(sound=False), VideoFromFile(saved(made(sound=False)))])
def test_a_strict_duration_that_is_not_there_gives_nothing(video: VideoInput) -> None:
    assert video.as_trimmed(0.5, 5.0, strict_duration=True) is None
    assert video.as_trimmed(7.0) is None


def test_a_webm_is_coded_anew_where_mp4_is_asked_for() -> None:
    frames = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(6)]
    webm = io.BytesIO()
    write_video(webm, frames, Fraction(24), container="webm", codec="libvpx-vp9", options={"crf": "32"}, bit_rate=0)
    video = VideoFromFile(webm)
    assert (video.get_container_format(), video.get_frame_count()) == ("matroska,webm", 6)
    as_mp4 = VideoFromFile(saved(video, format=VideoContainer.MP4, codec=VideoCodec.H264))
    assert "mp4" in as_mp4.get_container_format()
    assert as_mp4.get_components().images.shape == (6, 32, 48, 3)


def test_a_subclass_needs_only_its_parts_and_its_saving() -> None:
    class Grey(VideoInput):
        def get_components(self) -> VideoComponents:
            return VideoComponents(torch.full((4, 16, 16, 3), 0.5), Fraction(8))

        def save_to(self, path, *how, **named) -> None:
            VideoFromComponents(self.get_components()).save_to(path, *how, **named)

    assert (Grey().get_dimensions(), Grey().get_duration()) == ((16, 16), 0.5)
    assert VideoFromFile(Grey().get_stream_source()).get_frame_count() == 4


def test_a_file_stays_a_path_and_a_buffer_is_given_at_its_start(tmp_path) -> None:
    path = tmp_path / "fox.mp4"
    made(sound=False).save_to(str(path))
    assert VideoFromFile(str(path)).get_stream_source() == str(path)
    buffer = io.BytesIO(path.read_bytes())
    buffer.read()
    assert VideoFromFile(buffer).get_stream_source() is buffer
    assert buffer.tell() == 0


def test_what_is_no_video_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "fox.mp4").write_bytes(b"no video")
    with pytest.raises(BadInput, match=r"fox\.mp4"):
        VideoFromFile(str(tmp_path / "fox.mp4")).get_components()


def test_the_choices_of_a_node_are_the_values() -> None:
    assert (VideoContainer.as_input(), VideoCodec.as_input()) == (["auto", "mp4"], ["auto", "h264"])
    assert VideoContainer.get_extension("auto") == VideoContainer.get_extension(VideoContainer.MP4) == "mp4"
