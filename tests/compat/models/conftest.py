"""ComfyUI's names over a folder with a small checkpoint; sampling as the node KSampler does it."""

import pytest
import torch

from limner.models.load import load_checkpoint
from limner.sampling import ksample
from tests.compat.using import place
from tests.models.checkpoints import memory


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    with place(folder):
        yield folder


@pytest.fixture(scope="module")
def file(base):
    return base / "models" / "checkpoints" / "tiny.safetensors"


@pytest.fixture(scope="module")
def parts(file):
    """Model, CLIP, VAE, loaded by Limner itself."""
    return load_checkpoint(file, memory())


def text(value, **entries):
    return [[torch.full((1, 3, 8), float(value)), {"pooled_output": torch.zeros(1, 8), **entries}]]


def sampled(model, steps=2, sampler="euler", scheduler="normal", cfg=2.0, positive=None, negative=None, **latent):
    """What KSampler makes of a blank latent of 8 × 8 cells."""
    start = {"samples": torch.zeros(1, 4, 8, 8), **latent}
    positive, negative = positive or text(1), negative or text(0)
    return ksample(model, 3, steps, cfg, sampler, scheduler, positive, negative, start)["samples"]


@pytest.fixture
def replaced():
    """replaced(module, name, value): assigned as packs do, and put back at the end."""
    before = []

    def replace(module, name, value):
        before.append((module, name))
        original = getattr(module, name, None)
        setattr(module, name, value)
        return original

    yield replace
    for module, name in reversed(before):
        delattr(module, name)
