import pytest
import torch

from limner.errors import BadInput
from limner.nodes import conditioning as nodes
from tests.nodes.make import ramp


def entry(tokens=2, value=1.0, **options):
    return [torch.full((1, tokens, 3), value), options]


class Clip:
    """Writes down what it is asked."""

    def __init__(self, layer=None):
        self.layer = layer

    def clone(self):
        return Clip(self.layer)

    def clip_layer(self, layer):
        self.layer = layer

    def tokenize(self, text):
        return text.split()

    def encode_from_tokens_scheduled(self, tokens):
        return [[tokens, {"layer": self.layer}]]


def test_a_text_is_tokenized_and_encoded():
    assert nodes.encode_text("a fox", Clip()) == [[["a", "fox"], {"layer": None}]]


def test_a_missing_text_encoder_is_refused():
    with pytest.raises(BadInput, match="no text encoder"):
        nodes.encode_text("a fox", None)


def test_clip_skip_changes_a_copy():
    clip = Clip()
    assert nodes.set_last_layer(clip, -2).layer == -2
    assert clip.layer is None


def test_combining_is_joining_lists():
    one, two = [entry()], [entry(), entry()]
    assert nodes.combine(one, two) == one + two


def test_an_average_weighs_to_and_pads_from():
    to, other = [entry(3, 1.0, area="kept")], [entry(2, 3.0)]
    ((mixed, options),) = nodes.average(to, other, 0.75)
    assert mixed[0, :, 0].tolist() == [1.5, 1.5, 0.75]
    assert options == {"area": "kept"}


def test_an_average_cuts_what_is_longer():
    ((mixed, _),) = nodes.average([entry(1)], [entry(4, 3.0)], 0.0)
    assert mixed.tolist() == [[[3.0, 3.0, 3.0]]]


@pytest.mark.parametrize(
    ("to", "other", "expected"),
    [
        ({"pooled_output": 2.0}, {"pooled_output": 4.0}, 3.0),
        ({}, {"pooled_output": 4.0}, 4.0),
        ({"pooled_output": None}, {"pooled_output": 4.0}, 4.0),
        ({"pooled_output": 2.0}, {"pooled_output": None}, 2.0),
        ({"pooled_output": 2.0}, {}, 2.0),
    ],
)
def test_an_average_mixes_pooled_vectors_where_both_have_one(to, other, expected):
    ((_, options),) = nodes.average([entry(**to)], [entry(**other)], 0.5)
    assert options["pooled_output"] == expected


def test_concatenation_uses_only_the_first_of_from(caplog):
    made = nodes.concat([entry(1, a=1), entry(2)], [entry(3), entry(4)])
    assert [tensor.shape[1] for tensor, _ in made] == [4, 5]
    assert made[0][1] == {"a": 1}
    assert "only the first" in caplog.text


def test_an_area_is_in_latent_cells():
    given = [entry()]
    ((tensor, options),) = nodes.set_area(given, 64, 128, 16, 8, strength=0.5)
    assert options == {"area": (16, 8, 1, 2), "strength": 0.5, "set_area_to_bounds": False}
    assert tensor is given[0][0]
    assert given[0][1] == {}


def test_an_area_may_be_in_parts():
    ((_, options),) = nodes.set_area_percentage([entry()], 0.5, 0.25, 0.1, 0.2)
    assert options["area"] == ("percentage", 0.25, 0.5, 0.2, 0.1)


def test_strength_alone_can_be_set():
    assert nodes.set_area_strength([entry(area="kept")], 2.0)[0][1] == {"area": "kept", "strength": 2.0}


def test_a_mask_gets_a_batch_axis():
    ((_, options),) = nodes.set_mask([entry()], ramp(2, 3), 0.5, set_cond_area="mask bounds")
    assert options["mask"].shape == (1, 2, 3)
    assert (options["mask_strength"], options["set_area_to_bounds"]) == (0.5, True)
    assert nodes.set_mask([entry()], ramp(1, 2, 3), set_cond_area="default")[0][1]["set_area_to_bounds"] is False


def test_a_range_of_steps_is_kept_in_parts():
    assert nodes.set_timestep_range([entry()], 0.25, 0.5)[0][1] == {"start_percent": 0.25, "end_percent": 0.5}


def test_zeroing_keeps_all_other_options():
    given = [entry(pooled_output=torch.ones(1, 3), conditioning_lyrics=None, area="kept")]
    ((tensor, options),) = nodes.zero_out(given)
    assert not tensor.any()
    assert not options["pooled_output"].any()
    assert (options["conditioning_lyrics"], options["area"]) == (None, "kept")
    assert given[0][1]["pooled_output"].all()
