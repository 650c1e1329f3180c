from types import SimpleNamespace

import pytest
import torch

from limner.errors import Interrupted
from limner.memory import MemoryManager
from limner.models.vae.taesd import TAESDConfig, TinyDecoder
from limner.nodes import loaders, sampler
from limner.nodes.progress import step_callback
from limner.sampling.latent import LatentFormat
from limner.weights import save
from tests.nodes.make import run_in

MODEL = SimpleNamespace(latent_format=LatentFormat(preview="SD15", taesd="taesd_decoder"))
COMMON = {
    "steps": 4,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "karras",
    "positive": ["+"],
    "negative": ["-"],
    "latent_image": {"samples": 0},
}


@pytest.fixture
def asked(monkeypatch):
    """What the node asks of sampling."""
    calls = []

    def ksample(*positional, callback, **named):
        calls.append((positional, named))
        callback(0, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), 4)
        return {"samples": 1}

    monkeypatch.setattr(sampler, "ksample", ksample)
    return calls


def test_ksampler_asks_for_a_whole_sampling(asked, tmp_path):
    run = run_in(tmp_path)
    made = sampler.ksampler(run, model=MODEL, seed=7, denoise=0.5, **COMMON)
    assert made == {"samples": 1}
    assert asked == [((MODEL, 7, 4, 2.0, "euler", "karras", ["+"], ["-"], {"samples": 0}), {"denoise": 0.5})]
    assert run.sink.seen == [(1, 4, None)]


@pytest.mark.parametrize(("noise", "leftover"), [("enable", "enable"), ("disable", "disable")])
def test_ksampler_advanced_asks_for_some_steps(asked, tmp_path, noise, leftover):
    sampler.ksampler_advanced(
        run_in(tmp_path),
        model=MODEL,
        add_noise=noise,
        noise_seed=7,
        start_at_step=1,
        end_at_step=3,
        return_with_leftover_noise=leftover,
        **COMMON,
    )
    assert asked[0][1] == {
        "denoise": 1.0,
        "disable_noise": noise == "disable",
        "start_step": 1,
        "end_step": 3,
        "force_full_denoise": leftover == "disable",
    }


def test_an_interruption_ends_the_sampling_at_the_next_step(asked, tmp_path):
    run = run_in(tmp_path)
    run.sink.stop = Interrupted()
    with pytest.raises(Interrupted):
        sampler.ksampler(run, model=MODEL, **COMMON)


def report(run, side=2):
    step_callback(run, MODEL)(1, torch.zeros(2, 4, side, side), torch.zeros(2, 4, side, side), 4)
    return run.sink.seen[0]


@pytest.mark.parametrize("method", ["auto", "latent2rgb"])
def test_a_preview_is_the_latent_as_colours(tmp_path, method):
    value, total, preview = report(run_in(tmp_path, preview_method=method))
    assert (value, total) == (2, 4)
    assert preview.size == (2, 2)


def with_folder(run, files):
    """Model folders that hold these files only."""
    folders = SimpleNamespace(list=lambda key: sorted(files), path=lambda key, name: files[name])
    run.store.folders = folders
    return run


def test_a_preview_by_a_tiny_decoder_has_pixels(tmp_path):
    path = tmp_path / "taesd_decoder.safetensors"
    network = TinyDecoder(TAESDConfig(width=8))
    save(path, {name: tensor.detach() for name, tensor in network.state_dict().items()})
    run = with_folder(run_in(tmp_path, preview_method="taesd"), {path.name: path})
    object.__setattr__(run, "memory", MemoryManager())
    assert report(run)[2].size == (16, 16)


def test_without_its_file_a_preview_is_the_latent_as_colours(tmp_path, caplog):
    run = with_folder(run_in(tmp_path, preview_method="taesd"), {})
    assert report(run)[2].size == (2, 2)
    assert "vae_approx" in caplog.text


def test_a_lora_of_no_strength_reads_no_file():
    assert loaders.load_lora_file(None, "model", "clip", "x", strength_model=0, strength_clip=0) == ("model", "clip")
    assert loaders.load_lora_model_only(None, "model", "x", 0) == "model"
