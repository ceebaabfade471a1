"""Steps that are learned, beside the formulas of the paper written out in float64; and the integers after training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.compress.quantize import FakeQuantized, Grid, calibrate, fake_quantized, in_float32, quantize
from resnet_jax.compress.quantize.scales import rounded, rounded_kernel, short
from resnet_jax.compress.quantize.steps import shortened, stepped
from resnet_jax.compress.quantize.trained import apart, fake_quantized_network, with_grids
from resnet_jax.config import Qat, QuantizeConfig
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model, init

from ..weights.networks import calm, random_variables

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = {"stage_sizes": (1, 1), "width_multiplier": 0.25, "num_classes": 5}


def lsq(v, s, low, high, n):
    """Esser et al. 2020, equations 1 to 3 and section 2.2: the value, and its derivatives by v and by s."""
    value, by_v, by_s = np.zeros_like(v), np.zeros_like(v), np.zeros_like(v)
    g = 1 / np.sqrt(n * max(high, -low))
    for i, x in np.ndenumerate(v):
        ratio = x / s
        if ratio <= low:
            value[i], by_s[i] = low * s, g * low
        elif ratio >= high:
            value[i], by_s[i] = high * s, g * high
        else:
            value[i], by_v[i], by_s[i] = np.rint(ratio) * s, 1, g * (np.rint(ratio) - ratio)
    return value, by_v, by_s


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (0, 255), (-7, 7), (-3, 12), (-14, 1)])
def test_values_and_derivatives_are_the_papers(low, high):
    rng = np.random.default_rng(high)
    v, s = rng.normal(0, 0.3 * (high - low), (6, 7)) * 0.02, 0.02
    v[0, :3] = 0, 0.5 * s, 1.5 * s  # halves go to the even number
    weight = rng.normal(size=v.shape)
    value, by_v, by_s = lsq(v, s, low, high, 11)
    with jax.enable_x64():
        found, back = jax.vjp(lambda v, s: stepped(v, s, low, high, numbers=11), v, jnp.float64(s))
        of_v, of_s = back(weight)
    np.testing.assert_allclose(found, value, rtol=1e-14, atol=0)
    np.testing.assert_allclose(of_v, weight * by_v, rtol=1e-14)
    np.testing.assert_allclose(of_s, (weight * by_s).sum(), rtol=1e-12)
    assert 0 < by_v.mean() < 1


def test_each_channel_has_a_step_of_its_own():
    rng = np.random.default_rng(0)
    v, s = rng.normal(size=(3, 3, 2, 4)), rng.uniform(0.05, 0.2, 4)
    with jax.enable_x64():
        found, back = jax.vjp(lambda v, s: stepped(v, s.reshape(1, 1, 1, -1), -7, 7, numbers=18), v, jnp.asarray(s))
        of_v, of_s = back(np.ones_like(v))
    for channel in range(4):
        value, by_v, by_s = lsq(v[..., channel], s[channel], -7, 7, 18)
        np.testing.assert_allclose(found[..., channel], value, rtol=1e-14)
        np.testing.assert_allclose(of_v[..., channel], by_v, rtol=1e-14)
        np.testing.assert_allclose(of_s[channel], by_s.sum(), rtol=1e-12)


def test_a_short_step_is_that_of_calibration():
    scales = np.random.default_rng(0).lognormal(-4, 2, 50).astype(np.float32)
    found, back = jax.vjp(shortened, scales)
    np.testing.assert_array_equal(found, np.float32([short(float(scale)) for scale in scales]))
    np.testing.assert_array_equal(back(np.ones_like(scales))[0], 1)


def test_numbers_are_those_of_the_straight_through_form():
    """To the last bit; the derivatives by the numbers are multiplied by a step and divided by it again."""
    x = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
    grid = Grid(jnp.float32(short(0.013)), jnp.int32(77))
    kernel_scale = jnp.float32(np.linspace(0.005, 0.02, 9))
    pairs = [
        (lambda x: stepped(x, grid.scale, -77.0, 178.0, numbers=9), lambda x: rounded(x, grid, 8)),
        (lambda x: stepped(x, kernel_scale[None], -127, 127, numbers=4), lambda x: rounded_kernel(x, kernel_scale, 8)),
    ]
    for ours, theirs in pairs:
        (a, back), (b, other) = jax.vjp(ours, x), jax.vjp(theirs, x)
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(back(x)[0], other(x)[0], rtol=1e-6)


@pytest.fixture(scope="module", params=["cifar_resnet20", "cifar_resnetv2_20"])
def trained(request):
    """A network with calibrated steps, as at the beginning of a run."""
    model = create_model(request.param, **SMALL)
    variables = calm(random_variables(model, channels=1, image=(16, 16)))
    images = np.random.default_rng(0).normal(size=(32, 9, 11, 1)).astype(np.float32)
    fake = fake_quantized_network(model, Qat(images=32))
    folded = in_float32(model, variables)
    scales = calibrate(folded, [images], fake.options)
    return fake, with_grids(folded.variables, dict(scales.tensors), dict(scales.kernels)), images, folded, scales


def test_it_begins_as_the_calibrated_network(trained):
    fake, variables, images, folded, scales = trained
    like = jax.eval_shape(lambda key: init(fake, key, channels=1), jax.random.key(0))
    assert jax.tree.map(jnp.shape, like) == jax.tree.map(jnp.shape, variables)
    expected = jax.jit(lambda v, x: fake_quantized(folded.model, v, scales, x, train=False))(folded.variables, images)
    for train in (False, True):
        found = jax.jit(lambda v, x: fake.apply(v, x, train=train, mutable=["batch_stats"])[0])(variables, images)
        np.testing.assert_array_equal(found, expected)
    assert np.abs(expected - folded.model.apply(folded.variables, images, train=False)).max() > 0


def test_after_training_the_integers_are_those_of_its_steps(trained):
    """Steps and kernels are moved as training does. Nothing is calibrated."""
    fake, variables, images, *_ = trained
    rng = np.random.default_rng(3)
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-1].key in ("zero_point", "var") else leaf * np.float32(rng.uniform(0.9, 1.1)),
        variables,
    )
    done = quantize(fake, moved, lambda: pytest.fail("it looked at images"), QuantizeConfig())
    expected = np.asarray(jax.jit(lambda v, x: fake.apply(v, x, train=False))(moved, images))
    found = np.asarray(jax.jit(lambda v, x: done.model.apply(v, x, train=False))(done.variables, images))
    # An integer that lies between two may become either of them: sums are rounded in float32.
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert done.variables["params"]["conv1"]["kernel"].dtype == np.int8
    own, grids = apart(moved)
    np.testing.assert_array_equal(done.scales.kernels["conv1"], grids["kernels"]["conv1"]["scale"])
    assert float(done.scales.tensors["conv1"].scale) == short(float(grids["tensors"]["conv1"]["scale"]))
    jax.tree.map(np.testing.assert_array_equal, done.float.variables, own)


def test_layers_may_stay_in_floating_point():
    model = create_model("cifar_resnet20", **SMALL)
    fake = fake_quantized_network(model, Qat(images=32, keep_float=("conv1", "layer2_0")))
    grids = jax.eval_shape(lambda key: init(fake, key), jax.random.key(0))["params"]["grids"]
    assert grids["kernels"].keys() == {"layer1_0", "fc"}
    assert "conv1" not in grids["tensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 4}, r"weight_bits = 4 \(trained with 8\); give the values of its config"),
        ({"keep_float": ("fc",)}, r"keep_float = \('fc',\) \(trained with \(\)\)"),
        ({"bias_correction": True}, r"bias_correction = True \(its biases are trained\)"),
    ],
)
def test_it_is_quantised_as_it_was_trained(options, message, trained):
    with pytest.raises(ConfigError, match=message):
        quantize(trained[0], trained[1], list, QuantizeConfig(**options))


def test_a_network_for_integers_is_made_once(trained):
    assert fake_quantized_network(create_model("cifar_resnet20", **SMALL), Qat(images=32)) == FakeQuantized(
        create_model("cifar_resnet20", **SMALL, folded=True, norm="frozen"), Qat(images=32)
    )
