"""Models saved by nodes load again as what they were."""

import json
from types import SimpleNamespace

import pytest
import torch

from limner.errors import BadInput
from limner.models.load import load_checkpoint, load_diffusion_model
from limner.models.load_text import load_clip
from limner.models.load_vae import load_vae
from limner.models.lora import load_lora
from limner.nodes import model_files, model_merging
from limner.sampling import make_sampling
from limner.weights import CheckpointHeader
from limner.weights.lora_extract import factors
from tests.models.checkpoints import checkpoint, memory, tensors, text_files
from tests.nodes.make import run_in

WEIGHT = "diffusion_model.out.2.weight"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return load_checkpoint(checkpoint(tmp_path_factory.mktemp("tiny")), memory())


@pytest.fixture
def run(tmp_path):
    return run_in(tmp_path)


def same(first, second):
    assert set(first.source.tensors) == set(second.source.tensors)
    return all(torch.equal(first.source.patched(name), second.source.patched(name)) for name in first.source.tensors)


def saved(tmp_path, name):
    return tmp_path / "output" / f"{name}_00001_.safetensors"


def test_a_checkpoint_is_what_it_was_with_its_patches_in_place(parts, run, tmp_path):
    model = parts.model.clone()
    model.add_patches({WEIGHT: ("diff", (torch.ones(4, 8, 3, 3),))}, 0.5)
    made = model_files.save_checkpoint(run, model, parts.clip, parts.vae, "a/mine", prompt={"1": {}})
    assert made.ui == {}
    path = saved(tmp_path, "a/mine")
    again = load_checkpoint(path, memory())
    assert same(again.model, model)
    assert same(again.clip, parts.clip)
    assert same(again.vae, parts.vae)
    assert not again.model.patches
    assert again.clip.tokenize("cat") == parts.clip.tokenize("cat")
    assert again.model.config == parts.model.config


def test_a_checkpoint_tells_what_it_is(parts, run, tmp_path):  # rule H4
    """Rule H4."""
    extra = {"workflow": {"nodes": []}}
    model_files.save_checkpoint(run, parts.model, parts.clip, parts.vae, "mine", {"1": {}}, extra)
    header = CheckpointHeader.read(saved(tmp_path, "mine"))
    told = header.metadata
    assert told["modelspec.sai_model_spec"] == "1.0.0"
    assert told["modelspec.architecture"] == "stable-diffusion-v1"
    assert told["modelspec.implementation"] == "sgm"
    assert told["modelspec.title"] == "mine 1"
    assert told["modelspec.predict_key"] == "epsilon"
    assert json.loads(told["prompt"]) == {"1": {}}
    assert json.loads(told["workflow"]) == {"nodes": []}
    assert "v_pred" not in header


@pytest.mark.parametrize(("zsnr", "marks"), [(False, {"v_pred"}), (True, {"v_pred", "ztsnr"})])
def test_a_velocity_model_is_marked_and_loads_as_one(parts, run, tmp_path, zsnr, marks):  # rule H4
    """Rule H4."""
    model = parts.model.clone()
    model.add_object_patch("model_sampling", make_sampling("v", zsnr=zsnr))
    model_files.save_model(run, model, "v")
    header = CheckpointHeader.read(saved(tmp_path, "v"))
    assert {name for name in header if name in ("v_pred", "ztsnr")} == marks
    assert header.metadata["modelspec.predict_key"] == "v"
    again = load_diffusion_model(saved(tmp_path, "v"), memory())
    assert again.sampling.sigma_max == pytest.approx(model.sampling.sigma_max)
    assert type(again.sampling.prediction) is type(model.sampling.prediction)


def test_continuous_velocity_is_marked_by_its_ends(parts, run, tmp_path):  # rule H4
    """Rule H4."""
    model = parts.model.clone()
    model.add_object_patch("model_sampling", make_sampling("v_edm", sigma_max=50.0))
    model_files.save_model(run, model, "edm")
    header = CheckpointHeader.read(saved(tmp_path, "edm"))
    assert float(header.tensor("edm_vpred.sigma_max")) == pytest.approx(50.0)
    assert float(header.tensor("edm_vpred.sigma_min")) == pytest.approx(0.002)


def test_without_metadata_only_what_loading_needs_is_written(parts, tmp_path):
    run = run_in(tmp_path, disable_metadata=True)
    model_files.save_vae(run, parts.vae, "v", {"1": {}})
    assert set(CheckpointHeader.read(saved(tmp_path, "v")).metadata) == {"config"}


def test_each_text_encoder_is_saved_in_a_file_named_after_it(run, tmp_path):
    files = text_files(tmp_path)
    clip = load_clip([files["l"], files["t5"]], "flux", memory())
    model_files.save_clip(run, clip, "clip/mine")
    paths = [saved(tmp_path, f"clip/mine_{name}") for name in ("t5xxl", "clip_l")]
    assert same(load_clip(paths, "flux", memory()), clip)
    assert set(CheckpointHeader.read(paths[0])) == set(CheckpointHeader.read(files["t5"]))


def test_parts_are_saved_by_themselves(parts, run, tmp_path):
    model_files.save_clip(run, parts.clip, "clip/mine")
    model_files.save_vae(run, parts.vae, "vae/mine")
    assert same(load_clip([saved(tmp_path, "clip/mine_clip_l")], "stable_diffusion", memory()), parts.clip)
    assert same(load_vae(saved(tmp_path, "vae/mine"), memory()), parts.vae)


def test_factors_are_the_nearest_of_their_rank_with_the_largest_numbers_cut_off():
    difference = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    up, down = factors(difference, 2)
    assert (up.shape, down.shape) == ((6, 2, 1, 1), (2, 4, 3, 3))
    assert factors(difference, 100)[0].shape == (6, 4, 1, 1)
    best = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    exact_up, exact_down = best.U[:, :2] * best.S[:2], best.Vh[:2]
    bound = max(up.abs().max(), down.abs().max())
    signs = (up.flatten(1) * exact_up).sum(0).sign()
    assert torch.allclose(up.flatten(1), (exact_up * signs).clamp(-bound, bound), atol=1e-5)
    assert torch.allclose(down.flatten(1), (exact_down * signs[:, None]).clamp(-bound, bound), atol=1e-5)
    kept = torch.cat([exact_up.flatten(), exact_down.flatten()]).abs() <= bound
    assert 0.9 < kept.float().mean() < 1


@pytest.fixture(scope="module")
def difference(tmp_path_factory, parts):
    """Another checkpoint less the first, whose weights are all those of the first plus 0.01."""
    other = {name: value + 0.01 if value.is_floating_point() else value for name, value in tensors().items()}
    changed = load_checkpoint(checkpoint(tmp_path_factory.mktemp("other"), other), memory())
    return SimpleNamespace(
        changed=changed,
        model=model_merging.subtract(changed.model, parts.model, 1.0),
        clip=model_merging.clip_subtract(changed.clip, parts.clip, 1.0),
    )


@pytest.mark.parametrize("kind", ["standard", "full_diff"])
def test_an_extracted_lora_turns_one_model_into_the_other(parts, difference, run, tmp_path, kind):
    model_files.save_lora(
        run, "loras/mine", 1, lora_type=kind, bias_diff=True,
        model_diff=difference.model, text_encoder_diff=difference.clip,
    )  # fmt: skip
    model, clip = load_lora(saved(tmp_path, "loras/mine"), parts.model, parts.clip, 1.0, 1.0)
    for loaded, wanted in ((model, difference.changed.model), (clip, difference.changed.clip)):
        for name in loaded.source.tensors:
            if "embed" not in name:  # so long and thin that its few large numbers are cut off
                found = loaded.source.patched(name)
                assert torch.allclose(found, wanted.source.patched(name), atol=2e-4), name
    assert run.sink.seen


def test_biases_are_left_out_when_not_asked_for(difference, run, tmp_path):
    model_files.save_lora(run, "l", 2, lora_type="standard", bias_diff=False, model_diff=difference.model)
    names = list(CheckpointHeader.read(saved(tmp_path, "l")))
    assert names
    assert not [name for name in names if name.endswith((".diff", ".diff_b"))]


def test_a_lora_of_nothing_is_refused(run):
    with pytest.raises(BadInput, match="no difference"):
        model_files.save_lora(run, "l", 2, lora_type="standard")
