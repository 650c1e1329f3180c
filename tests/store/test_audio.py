"""Sound files: what goes in comes out, with its tags."""

import numpy as np
import pytest

from limner.errors import BadInput, NotFound
from limner.store.audio import bits, decode_audio, encode_audio, resample, tags


def tone(rate: int = 22050, seconds: float = 0.4, channels: int = 2) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * (i + 1) * t) for i in range(channels)]).astype(np.float32)


def loudest(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


@pytest.mark.parametrize("form", ["flac", "wav"])
def test_a_lossless_form_gives_back_every_sample_to_a_step_of_sixteen_bits(form: str) -> None:
    sound = tone()
    back, rate = decode_audio(encode_audio(sound, 22050, form))
    assert (rate, back.shape) == (22050, sound.shape)
    assert np.abs(back - sound).max() < 2**-15


@pytest.mark.parametrize(("form", "quality"), [("mp3", "V0"), ("mp3", "128k"), ("opus", "64k")])
def test_a_lossy_form_gives_back_the_tone_of_each_channel(form: str, quality: str) -> None:
    back, rate = decode_audio(encode_audio(tone(), 22050, form, quality))
    assert rate == (48000 if form == "opus" else 22050)
    assert [round(loudest(channel, rate), -1) for channel in back] == [440, 880]


@pytest.mark.parametrize("form", ["flac", "mp3", "opus"])
def test_texts_are_kept_as_tags_of_the_container(form: str) -> None:
    # rule H3
    texts = {"prompt": '{"1": "Füchse"}', "workflow": '{"nodes": []}'}
    assert texts.items() <= tags(encode_audio(tone(), 22050, form, "128k", texts)).items()


def test_resampling_keeps_the_tone_and_the_length_in_seconds() -> None:
    other = resample(tone(44100), 44100, 16000)
    assert abs(other.shape[1] - 6400) < 64
    assert abs(loudest(other[0], 16000) - 440) < 5


@pytest.mark.parametrize("quality", ["128", "k", "-5k", "9999k", "V9"])
def test_a_quality_that_is_none_is_refused(quality: str) -> None:
    with pytest.raises(BadInput):
        bits(quality)


def test_what_is_no_sound_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "fox.flac").write_bytes(b"not a sound at all")
    with pytest.raises(BadInput, match=r"fox\.flac"):
        decode_audio(tmp_path / "fox.flac")
    with pytest.raises(NotFound):
        decode_audio(tmp_path / "none.flac")
    with pytest.raises(BadInput):
        encode_audio(tone(), 22050, "midi")
