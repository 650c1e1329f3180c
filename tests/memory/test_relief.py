"""Real networks that run out of memory in the middle: room is made, one more try, the same numbers, or a clear error."""

from __future__ import annotations

import pytest
import torch

from limner.errors import OutOfMemory
from limner.memory import DefaultSettings, MemoryManager
from limner.models.base import BaseModel
from limner.models.load import load_checkpoint, load_diffusion_model
from limner.sampling import ksample
from tests.models.checkpoints import checkpoint, memory
from tests.models.test_load import prediction
from tests.models.vision.make import clip_vision

CONDS = [[torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1)), {}]]
LATENT = {"samples": torch.zeros(1, 4, 8, 8)}


class Failing:
    """A forward pass that runs out of memory at its first calls, whatever there is. rows: of each call's batch."""

    def __init__(self, forward, fails=1):
        self.forward, self.fails, self.rows = forward, fails, []

    def __call__(self, *args, **kwargs):
        self.rows.append(len(args[0]))
        if len(self.rows) <= self.fails:
            raise torch.OutOfMemoryError
        return self.forward(*args, **kwargs)


def sampled(model):
    return ksample(model, 1, 3, 2.0, "euler", "normal", CONDS, CONDS, LATENT)["samples"]


@pytest.fixture
def manager():
    """Of a CPU that keeps weights in bfloat16: copies, not views of the file."""
    return MemoryManager(DefaultSettings(cpu=True, bf16_unet=True))


def failing(monkeypatch, model, fails=1):
    with model.loaded() as network:
        made = Failing(network.forward, fails)
        monkeypatch.setattr(network, "forward", made)
    return made


def test_sampling_goes_on_with_streamed_weights_and_gives_the_same_picture(tmp_path, manager, monkeypatch):
    model = load_diffusion_model(checkpoint(tmp_path), manager)
    other = load_diffusion_model(checkpoint(tmp_path, name="other.safetensors"), manager)
    alone = model.clone()
    want = sampled(alone)
    prediction(other)
    network = failing(monkeypatch, model)
    monkeypatch.setattr(BaseModel, "memory_required", lambda _, shape, cond_shapes=None: 20_000 * shape[0])
    asked = []
    relieve = MemoryManager.relieve

    def watched(self, source, nbytes, device=None):
        relieve(self, source, nbytes, device)
        asked.append((nbytes, self.holding(model.source).streamed, self.holds(other.source)))

    monkeypatch.setattr(MemoryManager, "relieve", watched)
    found = sampled(model)
    assert torch.allclose(found, want, atol=0.05)  # other batches, in bfloat16
    assert network.rows == [2, 1, 1, 1, 1, 1, 1]
    ((nbytes, streamed, other_is_there),) = asked
    assert nbytes == 20_000 <= streamed
    assert not other_is_there


def test_a_second_time_is_an_error_that_says_what_was_asked_and_what_is_there(tmp_path, manager, monkeypatch):
    model = load_diffusion_model(checkpoint(tmp_path), manager)
    failing(monkeypatch, model, fails=2)
    with pytest.raises(OutOfMemory) as caught:
        sampled(model)
    error = caught.value
    assert "asked for" in error.why
    assert "resident: " in error.why
    assert "batch smaller" in error.do
    assert not any(one.in_use for one in manager.held())


def test_what_is_too_much_is_forgotten_after_the_run(tmp_path, manager, monkeypatch):
    model = load_diffusion_model(checkpoint(tmp_path), manager)
    network = failing(monkeypatch, model)
    sampled(model)
    network.rows.clear()
    network.fails = 0
    sampled(model)
    assert network.rows == [2, 2, 2]


def test_rows_of_text_are_encoded_one_by_one_with_the_same_result(tmp_path, monkeypatch):
    clip = load_checkpoint(checkpoint(tmp_path), memory()).clip
    text = "(cat:1.3) dog " * 60
    want = clip.encode(text)
    with clip.loaded() as network:
        inside = network.get_submodule(clip.encoders[0].prefix.rstrip(".")) if clip.encoders[0].prefix else network
        made = Failing(inside.forward)
        monkeypatch.setattr(inside, "forward", made)
    assert torch.allclose(clip.encode(text), want, atol=1e-5)
    assert made.rows[0] > 1
    assert set(made.rows[1:]) == {1}


def test_pictures_are_looked_at_one_by_one_with_the_same_result(monkeypatch):
    encoder, pictures = clip_vision(), torch.rand(3, 20, 30, 3, generator=torch.Generator().manual_seed(1))
    want = encoder.encode_image(pictures)
    made = Failing(encoder.model.forward)
    monkeypatch.setattr(encoder.model, "forward", made)
    found = encoder.encode_image(pictures)
    assert made.rows == [3, 1, 1, 1]
    for part in ("last_hidden_state", "image_embeds"):
        assert torch.allclose(found[part], want[part], atol=1e-5)


def test_a_decoder_that_runs_out_goes_on_in_tiles(tmp_path, monkeypatch):
    vae = load_checkpoint(checkpoint(tmp_path), memory()).vae
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    tiled = vae.decode_tiled(latent)
    made = Failing(vae._decode)
    monkeypatch.setattr(vae, "_decode", lambda network, part: made(part, network=network))
    made.forward = lambda part, network: type(vae)._decode(vae, network, part)
    assert torch.equal(vae.decode(latent), tiled)
    assert len(made.rows) > 1
