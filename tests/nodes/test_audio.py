"""Sound as numbers, and as files."""

import json
import math

import numpy as np
import pytest
import torch

from limner.errors import BadInput, Forbidden, NotFound
from limner.nodes import audio, audio_files
from limner.store.audio import decode_audio, tags
from tests.nodes.make import run_in

PROMPT = {"1": {"class_type": "A", "inputs": {}}}
EXTRA = {"workflow": {"nodes": [1]}}


@pytest.fixture
def run(tmp_path):
    return run_in(tmp_path)


def sound(values, rate=10, channels=1):
    return {"waveform": torch.tensor(values, dtype=torch.float32).expand(1, channels, -1).clone(), "sample_rate": rate}


def tone(rate=24000, seconds=0.5, hertz=440, channels=2):
    time = torch.arange(round(rate * seconds)) / rate
    return {"waveform": 0.5 * torch.sin(2 * math.pi * hertz * time).expand(1, channels, -1), "sample_rate": rate}


def samples(value):
    return value["waveform"][0].tolist()


def test_silence_has_its_length_rounded():
    made = audio.empty(1.55, 10, 2)
    assert made["waveform"].shape == (1, 2, round(15.5))
    assert not made["waveform"].any()


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [(0, 0.3, [0, 1, 2]), (0.2, 0.2, [2, 3]), (-0.3, 9, [7, 8, 9]), (-99, 0.1, [0]), (99, 1, [9])],
)
def test_a_part_begins_within_the_sound(start, duration, expected):
    assert samples(audio.trim(sound(range(10)), start, duration)) == [expected]


def test_nothing_left_is_refused():
    with pytest.raises(BadInput, match="Nothing is left"):
        audio.trim(sound(range(10)), 0.5, 0)


def test_two_sides_are_split_and_only_two():
    stereo = {"waveform": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "sample_rate": 10}
    left, right = audio.split(stereo)
    assert samples(left) == [[1, 2]]
    assert samples(right) == [[3, 4]]
    with pytest.raises(BadInput, match="1 channels"):
        audio.split(left)


def test_sounds_are_joined_in_stereo():
    made = audio.concat(sound([1, 2]), sound([3, 4], channels=2), "after")
    assert samples(made) == [[1, 2, 3, 4]] * 2
    assert samples(audio.concat(sound([1]), sound([2]), "before")) == [[2, 1]] * 2


def test_the_lower_rate_is_raised_to_the_higher():
    low, high = tone(8000), tone(16000)
    made = audio.concat(low, high)
    assert made["sample_rate"] == 16000
    assert made["waveform"].shape[-1] == pytest.approx(16000, abs=40)
    first = made["waveform"][0, 0, 1000:7000]
    crossings = (first[:-1] * first[1:] < 0).sum().item()
    assert crossings == pytest.approx(2 * 440 * 6000 / 16000, abs=3)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("add", [0.6, 0.1, 0.5]),
        ("subtract", [-0.2, 0.9, 0.5]),
        ("multiply", [0.08, -0.2, 0]),
        ("mean", [0.3, 0.05, 0.25]),
    ],
)
def test_a_mix_is_as_long_as_the_first(method, expected):
    for second in ([0.4, -0.4], [0.4, -0.4, 0.0, 0.9]):
        made = audio.merge(sound([0.2, 0.5, 0.5]), sound(second), method)
        assert samples(made)[0] == pytest.approx(expected)


def test_a_mix_that_would_be_cut_off_is_made_quieter():
    assert samples(audio.merge(sound([0.8, -0.4]), sound([0.8, 0.0]), "add"))[0] == pytest.approx([1.0, -0.25])


def test_twenty_decibels_are_ten_times():
    value = sound([0.01, -0.02])
    assert audio.adjust_volume(value, 0) is value
    assert samples(audio.adjust_volume(value, 20))[0] == pytest.approx([0.1, -0.2])
    assert samples(audio.adjust_volume(value, -20))[0] == pytest.approx([0.001, -0.002])


SAVES = {"flac": audio_files.save_flac, "mp3": audio_files.save_mp3, "opus": audio_files.save_opus}


def path_of(run, entry):
    return run.store.files.resolve(entry["type"], entry["subfolder"], entry["filename"])


@pytest.mark.parametrize("form", SAVES)
def test_a_sound_file_carries_prompt_and_workflow(run, form):  # rules H3, F4, F5
    shown = SAVES[form](run, tone(), prompt=PROMPT, extra_pnginfo=EXTRA).ui["audio"]
    assert shown == [{"filename": f"ComfyUI_00001_.{form}", "subfolder": "audio", "type": "output"}]
    found = {key.lower(): value for key, value in tags(path_of(run, shown[0])).items()}
    assert json.loads(found["prompt"]) == PROMPT
    assert json.loads(found["workflow"]) == EXTRA["workflow"]


@pytest.mark.parametrize("form", SAVES)
def test_a_sound_file_can_be_saved_without(tmp_path, form):  # rule H2
    run = run_in(tmp_path, disable_metadata=True)
    shown = SAVES[form](run, tone(seconds=0.1), prompt=PROMPT, extra_pnginfo=EXTRA).ui["audio"]
    assert not {"prompt", "workflow"} & {key.lower() for key in tags(path_of(run, shown[0]))}


def test_every_sound_of_a_batch_gets_a_file(run):
    both = {"waveform": torch.zeros(2, 1, 4000), "sample_rate": 8000}
    names = [entry["filename"] for entry in audio_files.save_flac(run, both, "x/%batch_num%").ui["audio"]]
    assert names == ["0_00001_.flac", "1_00002_.flac"]


def test_a_saved_sound_is_loaded_as_it_was(run):
    value = tone(seconds=0.2)
    entry = audio_files.save_flac(run, value, "a").ui["audio"][0]
    loaded = audio_files.load(run, f"{entry['filename']} [output]")
    assert loaded["sample_rate"] == 24000
    assert loaded["waveform"].shape == value["waveform"].shape
    assert torch.allclose(loaded["waveform"], value["waveform"], atol=1e-4)
    assert torch.equal(audio_files.record(run, f"{entry['filename']} [output]")["waveform"], loaded["waveform"])


@pytest.mark.parametrize(("form", "quality"), [("mp3", "V0"), ("mp3", "128k"), ("opus", "64k")])
def test_a_lossy_file_sounds_alike(run, form, quality):
    entry = SAVES[form](run, tone(48000, 0.5), "a", quality).ui["audio"][0]
    made, rate = decode_audio(path_of(run, entry))
    middle = made[0, rate // 8 : rate // 8 + rate // 4]
    loudest = np.abs(np.fft.rfft(middle)).argmax() * rate / len(middle)
    assert loudest == pytest.approx(440, abs=8)


def test_a_preview_goes_to_the_temp_folder(run):  # rule F3
    entry = audio_files.preview(run, tone(seconds=0.1), prompt=PROMPT).ui["audio"][0]
    assert entry["type"] == "temp"
    assert entry["filename"].startswith("ComfyUI_temp_")
    assert path_of(run, entry).suffix == ".flac"


def test_a_result_is_stale_when_the_file_changed(run):
    for companion in (audio_files.load.companions["changes_when"], audio_files.record.companions["changes_when"]):
        path = run.store.files.root("input") / "a.wav"
        path.write_bytes(b"1")
        before = companion(run, "a.wav")
        path.write_bytes(b"22")
        assert companion(run, "a.wav") != before


@pytest.mark.parametrize("load", [audio_files.load, audio_files.record])
def test_what_is_not_there_or_elsewhere_or_no_sound_is_refused(run, load):
    with pytest.raises(NotFound, match="nothing"):
        load(run, "nothing.wav")
    with pytest.raises(Forbidden):
        load(run, "../../etc/passwd")
    (run.store.files.root("input") / "text.wav").write_text("not a sound")
    with pytest.raises(BadInput, match=r"text\.wav"):
        load(run, "text.wav")
