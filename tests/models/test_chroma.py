"""Chroma: recognised in each of its layouts, told by its table of rows, looked into by packs."""

import pytest
import torch

from limner.errors import BadInput
from limner.models import chroma
from limner.models.chroma import ROWS, Chroma, ChromaConfig
from limner.models.detect import detect
from limner.models.layers.streams import ModulationOut
from limner.models.load import model_of
from limner.weights import CheckpointHeader
from limner.weights.targets import Part, swap_halves
from tests.models.checkpoints import memory, real_header

TINY = ChromaConfig(
    context_in_dim=20, hidden_size=64, num_heads=2, depth=2, depth_single_blocks=3, axes_dim=(4, 14, 14),
    in_dim=64, hidden_dim=24, n_layers=2,
)  # fmt: skip


def tiny() -> Chroma:
    torch.manual_seed(0)
    network = Chroma(TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network.eval()


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(2, 16, 6, 9),
        "timesteps": torch.tensor([0.7, 0.2]),
        "context": torch.randn(2, 5, 20),
        "guidance": torch.zeros(2),
    }


@torch.inference_mode()
def output(network, /, changed=None, **options):
    return network(**inputs() | (changed or {}), transformer_options=options)


def in_older_names(state):
    """The approximator in a list of one."""
    guider = f"{chroma.GUIDER}."
    return {name.replace(guider, f"{guider}0.", 1): value for name, value in state.items()}


def in_diffusers_names(state):
    """The same tensors as the diffusers library has them."""
    found = {}
    for theirs, target in chroma.chroma_targets(2, 3, 64, 256, 2).items():
        part = target if isinstance(target, Part) else Part(target)
        if part.name in state:
            rows = state[part.name] if part.length is None else state[part.name].narrow(0, part.start, part.length)
            found[theirs] = swap_halves(rows) if part.swapped else rows
    ends = (f"{chroma.GUIDER}.in_proj.", f"{chroma.GUIDER}.out_proj.")
    return found | {name: value for name, value in state.items() if name.startswith(ends)}


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_published_file_is_recognised_and_its_dimensions_read():
    model = model_of(real_header("chroma"), memory())
    assert model.family.name == "chroma"
    assert model.config == ChromaConfig()
    assert model.model.concat_keys == ()


@pytest.mark.parametrize("layout", [dict, in_older_names, in_diffusers_names])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_file_is_the_same_network_in_each_layout(layout, prefix):
    state = {prefix + name: value for name, value in layout(tiny().state_dict()).items()}
    model = model_of(CheckpointHeader.of(state), memory())
    assert (model.family.name, model.config) == ("chroma", TINY)
    with torch.inference_mode(), model.loaded() as network:
        assert torch.equal(network(**inputs()), output(tiny()))


@pytest.mark.parametrize("lost", [f"{chroma.GUIDER}.in_proj.weight", "final_layer.linear.weight", "img_in.weight"])
def test_a_truncated_file_is_named_as_chroma_and_what_it_lacks(lost):
    state = {name: value for name, value in tiny().state_dict().items() if name != lost}
    with pytest.raises(BadInput, match="no known diffusion model") as caught:
        detect(CheckpointHeader.of(state))
    assert caught.value.why.startswith("Closest is Chroma (")
    assert caught.value.why.endswith(f"lacking: {lost}).")


@pytest.mark.parametrize("said", [{"hidden_dim": 48}, {"n_layers": 5}, {"in_channels": 16}, {"depth": 3}], ids=str)
def test_a_config_that_contradicts_the_shapes_is_refused(said):
    with pytest.raises(BadInput, match=next(iter(said))):
        ChromaConfig.from_state(CheckpointHeader.of(tiny().state_dict()).shapes(), said)


def test_a_config_counts_the_channels_of_a_patch():
    said = {"in_channels": 64, "out_channels": 64}
    assert ChromaConfig.from_state(CheckpointHeader.of(tiny().state_dict()).shapes(), said) == TINY


# -- what the network is told -----------------------------------------------------------------------------------------


def test_every_block_is_told_by_rows_of_its_own():
    """Blocks of one stream come first, then the patches' and the text's of two; the last layer has the last two."""
    network = tiny()
    table = torch.arange(ROWS, dtype=torch.float32).view(1, ROWS, 1)

    def rows(told):
        if isinstance(told, ModulationOut):
            return [int(one) for one in told]
        return [row for each in told for row in rows(each)]

    singles = [row for number in range(3) for row in rows(network.single_told(table, number))]
    images, texts = zip(*(network.double_told(table, number) for number in range(2)), strict=True)
    assert singles + rows(images) + rows(texts) == list(range(3 * 3 + 2 * 6 * 2))
    assert [int(one) for one in network.last_told(table)] == [ROWS - 2, ROWS - 1]


def test_as_many_rows_are_made_as_of_the_published_depth_and_time_and_guidance_change_them():
    network, time = tiny(), torch.tensor([0.7, 0.2])
    with torch.inference_mode():
        plain = network.told(time, None, None, torch.float32)
        assert plain.shape == (2, 344, 64)
        assert torch.equal(network.told(time, torch.ones(2, 768), torch.zeros(2), torch.float32), plain)
        other = network.told(time, None, torch.tensor([0.0, 3.5]), torch.float32)
    assert torch.equal(other[0], plain[0])
    assert not torch.allclose(other[1], plain[1], atol=1e-3)
    assert not torch.allclose(plain[0], plain[1], atol=1e-3)


def test_conditions_have_no_guidance_unless_a_node_says_so_and_no_vector():
    model = model_of(CheckpointHeader.of(tiny().state_dict()), memory())
    noise, text = torch.randn(1, 16, 4, 4), torch.zeros(1, 3, 20)
    found = model.extra_conds(cross_attn=text, noise=noise, pooled_output=torch.ones(1, 768))
    assert found["guidance"].tolist() == [0.0]
    assert "y" not in found
    assert model.extra_conds(cross_attn=text, noise=noise, guidance=3.0)["guidance"].tolist() == [3.0]


def test_padding_is_hidden_from_text_and_patches():
    network, given = tiny(), inputs()
    mask = torch.zeros(2, 20, 20)
    mask[:, :, 3:5] = -torch.inf
    other = given["context"].clone()
    other[:, 3:] = 7
    hidden = [output(network, {"context": text, "attention_mask": mask}) for text in (given["context"], other)]
    assert torch.allclose(*hidden, atol=1e-5)
    assert not torch.allclose(output(network), output(network, {"context": other}), atol=1e-3)


# -- packs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["double_block", "single_block"])
def test_a_replaced_block_is_handed_its_rows(kind):
    network, seen = tiny(), []

    def replace(args, extra):
        seen.append(args["vec"])
        return extra["original_block"](args)

    found = output(network, patches_replace={"dit": {(kind, 1): replace}})
    assert torch.equal(found, output(network))
    (told,) = seen
    first = told if kind == "single_block" else told[0][0]
    assert isinstance(first, ModulationOut)
    assert first.gate.shape == (2, 1, 64)


@pytest.mark.parametrize("kind", ["double_block", "single_block"])
def test_a_skipped_block_changes_nothing_of_its_streams(kind):
    network = tiny()
    blocks = network.double_blocks if kind == "double_block" else network.single_blocks
    skipped = output(network, patches_replace={"dit": {(kind, 1): lambda args, _: args}})
    assert not torch.allclose(skipped, output(network), atol=1e-3)
    blocks[1].over = lambda *streams: streams[:2] if kind == "double_block" else streams[0]
    assert torch.equal(skipped, output(network))


def test_gradients_reach_every_weight():
    network = tiny()
    network(**inputs()).square().mean().backward()
    without = {name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()}
    assert without == set()
