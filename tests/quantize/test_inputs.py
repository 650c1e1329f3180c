"""What inputs are like, and the scales that fit them."""

import pytest
import torch

from limner.errors import BadInput
from limner.quantize.inputs import BINS, Inputs, known_of, scale_of
from limner.quantize.samples import latent_of
from limner.quantize.watch import Watch, repeated, watched
from limner.weights.lazy import LazyTensor
from limner.weights.quant import REGISTRY, QuantizedTensor, computing
from tests.quantize.make import QUICK, small, starter, watched_starter

INT8, FP8 = REGISTRY["int8_tensorwise"], REGISTRY["float8_e4m3fn"]


def seen(*passes: torch.Tensor) -> Inputs:
    inputs = Inputs()
    for one in passes:
        inputs.add(one)
    return inputs


def outliers() -> torch.Tensor:
    x = torch.randn(1 << 15, generator=torch.Generator().manual_seed(0))
    x[0] = 200.0
    return x[:, None]


def test_the_largest_is_of_all_passes_and_of_each_column() -> None:
    inputs = seen(torch.tensor([[1.0, -2.0]]), torch.tensor([[-3.0, 0.5]]))
    assert inputs.amax == 3.0
    assert inputs.columns is not None
    assert inputs.columns.tolist() == [3.0, 2.0]


def test_a_histogram_that_grows_counts_what_was_there() -> None:
    inputs = seen(torch.full((10, 1), 0.75), torch.full((5, 1), 24.0))
    assert inputs.top == 32.0
    assert inputs.histogram.sum() == 15
    assert inputs.histogram[int(0.75 / 32 * BINS)] == 10


def test_undefined_and_infinite_inputs_do_not_count() -> None:
    inputs = seen(torch.tensor([[float("nan"), 1.0], [float("inf"), 2.0]]))
    assert inputs.amax == 2.0
    assert torch.isfinite(inputs.histogram).all()


def test_outliers_are_left_out_by_percentile_and_by_least_squares_only() -> None:
    inputs = seen(outliers())
    assert inputs.largest("amax", INT8) == 200.0
    assert 3.0 < inputs.largest("percentile", INT8) < 6.0
    assert inputs.largest("mse", INT8) < 200.0


def test_the_least_squared_scale_rounds_with_the_least_error() -> None:
    x, inputs = outliers(), seen(outliers())

    def error(largest: float) -> float:
        scale = scale_of(largest, INT8)
        return float(((x / scale).round().clamp(-127, 127) * scale - x).square().sum())

    assert error(inputs.largest("mse", INT8)) <= min(error(200.0 * part) for part in (1.0, 0.9, 0.5, 0.1, 0.03)) * 1.02


def test_an_unknown_observer_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="'median' does not choose scales"):
        seen(torch.ones(1, 1)).largest("median", INT8)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [INT8, FP8], ids=repr)
def test_an_input_beyond_the_fixed_scale_is_clipped(layout) -> None:
    weight = torch.eye(16)
    inputs = seen(torch.full((4, 16), 2.0))
    made = QuantizedTensor.from_float(weight, layout, **known_of(inputs, layout, LazyTensor.of(weight)))
    with computing(emulate=True):
        out = torch.nn.functional.linear(torch.full((1, 16), 1e30), made)
    torch.testing.assert_close(out, torch.full((1, 16), 2.0), rtol=1e-3, atol=0)


def test_smoothing_divides_between_inputs_and_weights() -> None:
    weight, layout = torch.full((8, 4), 0.25), REGISTRY["int8_smooth"]
    known = known_of(seen(torch.tensor([[4.0, 1.0, 16.0, 64.0]])), layout, LazyTensor.of(weight))
    torch.testing.assert_close(known["pre_quant_scale"], torch.tensor([0.25, 0.5, 0.125, 0.0625]))


@pytest.mark.parametrize("name", ["nf4", "int4_groups", "mxfp8"])
def test_a_layout_that_rounds_no_inputs_by_a_fixed_scale_keeps_none(name: str) -> None:
    assert known_of(seen(torch.ones(2, 16)), REGISTRY[name], LazyTensor.of(torch.ones(16, 16))) == {}


def test_a_watched_network_tells_what_its_layers_are_given_and_which_are_given_nothing() -> None:
    network, watch, x = small(), Watch(keep=2), torch.arange(32.0).reshape(1, 2, 4, 4)
    with watch.on(network):
        for scale in (1.0, 2.0, 3.0):
            network(x, scale=scale)
    assert watch.unreached == ["idle"]
    picture = watch.inputs["picture"].columns
    assert picture is not None
    assert picture.tolist() == [15.0, 31.0]
    assert watch.inputs["matrix"].columns.shape == (4,)
    assert (watch.seen, len(watch.passes)) == (3, 2)
    assert not network._forward_pre_hooks
    assert not network.matrix._forward_pre_hooks
    for one in watch.passes:
        assert torch.equal(repeated(network, one), one.output)


def test_q29_every_layer_of_the_starter_model_gets_a_finite_positive_scale() -> None:
    inputs = watched_starter().inputs
    scales = [scale_of(one.largest("amax", FP8), FP8) for one in inputs.values()]
    assert len(scales) > 100
    assert all(bool(scale.isfinite()) and float(scale) > 0 for scale in scales)


def test_watching_changes_nothing_of_what_is_sampled() -> None:
    plain = latent_of(starter().model, starter().clip, QUICK)
    seen_too = latent_of(watched(starter().model, Watch(keep=1)), starter().clip, QUICK)
    assert torch.equal(plain, seen_too)
