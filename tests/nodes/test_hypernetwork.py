from types import SimpleNamespace

import pytest
import torch

from limner.errors import BadInput
from limner.models.hypernetwork import load_hypernetwork
from limner.models.load import load_diffusion_model
from limner.nodes import hypernetwork
from tests.models.checkpoints import checkpoint, memory
from tests.nodes.make import run_in
from tests.nodes.test_guidance import painted

WIDTH = 6  # of the small model's context


def stack(scale, **more):
    """x → 2·scale·x, in two layers of which the first doubles."""
    return {
        "linear.0.weight": torch.eye(WIDTH) * 2,
        "linear.0.bias": torch.zeros(WIDTH),
        "linear.1.weight": torch.eye(WIDTH) * scale,
        "linear.1.bias": torch.zeros(WIDTH),
        **more,
    }


def written(folder, content):
    torch.save(content, folder / "h.pt")
    return folder / "h.pt"


X = torch.tensor([[[-1.0, 1.0, 2.0, 0.0, 0.5, -3.0]]])


def test_keys_and_values_go_through_stacks_of_their_own(tmp_path):
    patch = load_hypernetwork(written(tmp_path, {WIDTH: [stack(1.0), stack(2.0)], "step": 7}), 0.5)
    q, k, v = patch(X, X, X, {})
    assert q is X
    assert torch.allclose(k, X * 2)  # x + 0.5 · 2x
    assert torch.allclose(v, X * 3)


def test_other_widths_are_left_alone(tmp_path):
    patch = load_hypernetwork(written(tmp_path, {WIDTH: [stack(1.0), stack(1.0)]}), 1.0)
    other = torch.ones(1, 2, 5)
    assert patch(other, other, other, {})[1] is other


def test_the_last_layer_is_activated_only_when_said(tmp_path):
    pair = [stack(-1.0), stack(-1.0)]
    for last_too, expected in ((True, X), (False, X - X.clamp(min=0) * 2)):
        content = {WIDTH: pair, "activation_func": "relu", "activate_output": last_too}
        assert torch.allclose(load_hypernetwork(written(tmp_path, content), 1.0)(X, X, X, {})[1], expected)


def test_layers_may_be_normalised_and_have_old_names(tmp_path):
    norm = {"linear.2.weight": torch.ones(WIDTH), "linear.2.bias": torch.zeros(WIDTH)}
    old = {"linear1.weight": torch.eye(WIDTH), "linear2.weight": torch.eye(WIDTH)}
    _, k, v = load_hypernetwork(written(tmp_path, {WIDTH: [stack(1.0, **norm), old]}), 1.0)(X, X, X, {})
    assert torch.allclose(k - X, torch.nn.functional.layer_norm(2 * X, (WIDTH,)))
    assert torch.allclose(v, 2 * X)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"a": 1}, "no hypernetwork"),
        ({6: [1, 2]}, "no hypernetwork"),
        ([1], "no hypernetwork"),
        ({6: [stack(1.0), stack(1.0)], "activation_func": "magic"}, "magic"),
    ],
)
def test_what_is_no_hypernetwork_is_refused(tmp_path, content, what):
    with pytest.raises(BadInput, match=what):
        load_hypernetwork(written(tmp_path, content), 1.0)


def test_a_file_that_is_no_pickle_is_refused(tmp_path):
    (tmp_path / "h.pt").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read"):
        load_hypernetwork(tmp_path / "h.pt", 1.0)


def test_a_hypernetwork_changes_what_is_painted(tmp_path):
    run = run_in(tmp_path)
    path = written(tmp_path, {WIDTH: [stack(1.0), stack(1.0)]})
    run.store.folders = SimpleNamespace(path=lambda _key, _name: path)
    model = load_diffusion_model(checkpoint(tmp_path), memory())
    plain = painted(model)
    assert torch.allclose(painted(hypernetwork.load(run, model, "h.pt", 0.0)), plain, atol=1e-5)
    assert not torch.allclose(painted(hypernetwork.load(run, model, "h.pt", 1.0)), plain, atol=1e-3)
