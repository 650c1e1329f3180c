"""Models made of two: every weight is the sum that the arithmetic says."""

import pytest
import torch

from limner.models.load import load_checkpoint
from limner.nodes import model_merging, model_merging_families
from tests.models.checkpoints import checkpoint, memory, tensors


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two checkpoints; every weight of the second is three times the first's plus one."""
    folder, manager = tmp_path_factory.mktemp("pair"), memory()
    second = {name: value * 3 + 1 if value.is_floating_point() else value for name, value in tensors().items()}
    return (
        load_checkpoint(checkpoint(folder), manager),
        load_checkpoint(checkpoint(folder, second, "second.safetensors"), manager),
    )


def expected(model, name, ratio):
    weight = model.source.tensors[name].read()
    return weight * ratio + (weight * 3 + 1) * (1 - ratio)


OUT = "out.2.weight"


def test_a_simple_merge_is_a_weighted_mean_and_leaves_both_alone(pair):
    first, second = (one.model for one in pair)
    merged = model_merging.simple(first, second, 0.25)
    assert torch.allclose(merged.source.patched(OUT), expected(first, OUT, 0.25), atol=1e-5)
    assert not first.patches
    assert not second.patches


def test_ratio_one_is_the_first_model(pair):
    first, second = (one.model for one in pair)
    merged = model_merging.simple(first, second, 1.0)
    assert torch.equal(merged.source.patched(OUT), first.source.patched(OUT))


def test_a_difference_added_to_the_second_gives_the_first(pair):
    first, second = (one.model for one in pair)
    difference = model_merging.subtract(first, second, 1.0)
    again = model_merging.add(second, difference)
    for name in (OUT, "time_embed.0.bias"):
        assert torch.allclose(again.source.patched(name), first.source.patched(name), atol=1e-5)


def test_the_second_models_own_patches_come_first(pair):
    first, second = (one.model for one in pair)
    patched = second.clone()
    patched.add_patches({f"diffusion_model.{OUT}": ("diff", (torch.ones(4, 8, 3, 3),))})
    merged = model_merging.simple(first, patched, 0.5)
    assert torch.allclose(merged.source.patched(OUT), expected(first, OUT, 0.5) + 0.5, atol=1e-5)


def test_blocks_take_the_longest_name_and_others_the_first_ratio(pair):
    first, second = (one.model for one in pair)
    merged = model_merging.blocks(first, second, 0.1, 0.5, 0.9)
    for name, ratio in (
        ("input_blocks.0.0.weight", 0.1),
        ("middle_block.0.in_layers.0.weight", 0.5),
        ("output_blocks.0.0.in_layers.0.weight", 0.9),
        ("out.0.bias", 0.9),
        ("time_embed.0.weight", 0.1),
    ):
        assert torch.allclose(merged.source.patched(name), expected(first, name, ratio), atol=1e-5), name


def test_a_familys_merge_has_a_ratio_for_each_block(pair):
    first, second = (one.model for one in pair)
    names = [port.name for port in model_merging_families.sd1.schema.inputs if port.kind == "FLOAT"]
    ratios = {name: place / len(names) for place, name in enumerate(names)}
    merged = model_merging_families.sd1(first, second, **ratios)
    for name in ("input_blocks.1.0.in_layers.0.weight", "out.2.bias", "time_embed.2.bias"):
        prefix = max((one for one in names if name.startswith(one)), key=len)
        assert torch.allclose(merged.source.patched(name), expected(first, name, ratios[prefix]), atol=1e-5), name


def test_text_encoders_are_merged_alike(pair):
    first, second = (one.clip for one in pair)
    name = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    merged = model_merging.clip_simple(first, second, 0.25)
    assert torch.allclose(merged.source.patched(name), expected(first, name, 0.25), atol=1e-5)
    difference = model_merging.clip_subtract(second, first, 2.0)
    assert torch.allclose(difference.source.patched(name), 2 * (first.source.patched(name) * 2 + 1), atol=1e-4)
    total = model_merging.clip_add(first, second)
    assert torch.allclose(total.source.patched(name), first.source.patched(name) * 4 + 1, atol=1e-5)
