import pytest
import torch

from limner.weights import ops

MADE = {
    ops.Linear: (4, 3),
    ops.Conv1d: (4, 3, 1),
    ops.Conv2d: (4, 3, 1),
    ops.Conv3d: (4, 3, 1),
    ops.GroupNorm: (2, 4),
    ops.LayerNorm: (4,),
    ops.RMSNorm: (4,),
    ops.Embedding: (5, 4),
}


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_a_layer_without_storage_is_not_given_numbers(kind, monkeypatch):
    asked = []

    def note(layer):
        asked.append(layer)

    monkeypatch.setattr(kind.__mro__[2], "reset_parameters", note)
    with torch.device("meta"):
        kind(*MADE[kind])
    assert not asked
    made = kind(*MADE[kind])
    assert asked == [made]


@pytest.mark.parametrize("kind", [ops.GroupNorm, ops.LayerNorm], ids=lambda kind: kind.__name__)
def test_a_norm_without_weights_can_be_made_anywhere(kind):
    for device in ("cpu", "meta"):
        with torch.device(device):
            made = kind(*MADE[kind], **{"affine" if kind is ops.GroupNorm else "elementwise_affine": False})
        assert made.weight is None
