"""Every platform's form of an operation computes what the plain one does: values, first and second derivatives."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import ResNet
from resnet_jax.models.deferred import norm_of, pooled_norm_of
from resnet_jax.models.forms import (
    PLATFORMS,
    dilated,
    forms_of,
    forms_of_this_machine,
    in_halves,
    pointwise,
)
from resnet_jax.models.layers import Conv, kept_relu, relu
from resnet_jax.models.norms import BatchNorm
from resnet_jax.models.pooling import max_pool

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("compile_quickly")

# Below the tolerances of parity in float64: 1e-10 for gradients, 1e-12 for running statistics.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def derivatives(function, arguments, directions):
    """Value, gradient and Hessian-vector product (forward over reverse) of a scalar made of what `function` gives."""

    def scalar(*arguments):
        leaves = jax.tree.leaves(function(*arguments))
        return sum(jnp.sum(jnp.sin(leaf + 0.3 * i)) for i, leaf in enumerate(leaves))

    gradient = jax.grad(scalar, argnums=tuple(range(len(arguments))))
    # One program: without `jit` each operation is compiled by itself.
    return jax.jit(lambda arguments, directions: (function(*arguments), *jax.jvp(gradient, arguments, directions)))(
        arguments, directions
    )


def compare(a, b, **close):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{**CLOSE, **close}), a, b)


@pytest.fixture(params=PLATFORMS)
def platform(request):
    """Everything is computed with this platform's forms."""
    with jax.enable_x64(True), forms_of(request.param):
        yield request.param


def test_pointwise(platform):
    rng = np.random.default_rng(0)
    arguments, directions = ((rng.normal(size=(2, 3, 5, 4, 6)), rng.normal(size=(6, 5))) for _ in range(2))
    plain = lambda x, kernel: jnp.einsum("gnhwk,kc->gnhwc", x, kernel)
    compare(*(derivatives(lambda *a, f=f: f(*a), arguments, directions) for f in (pointwise, plain)))


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_in_halves(platform, classes):
    rng = np.random.default_rng(0)
    arguments, directions = ((rng.normal(size=(3, 6)), rng.normal(size=(6, classes))) for _ in range(2))
    halves = lambda x, kernel: in_halves(x, kernel, (((1,), (0,)), ((), ())))
    compare(*(derivatives(f, arguments, directions) for f in (halves, jnp.matmul)))


# A tap sees the middle, or none of it; both ends meet; a side as long as the dilation, or shorter.
DILATED = [((19, 11), 8), ((16, 9), 8), ((8, 23), 8), ((13, 12), 12)]
PLAIN = {}


@pytest.mark.parametrize(("size", "dilation"), DILATED)
def test_dilated(platform, size, dilation):
    """Value and gradients against torch; second derivatives against XLA's convolution."""
    rng = np.random.default_rng(0)
    arguments, directions = ((rng.normal(size=(2, *size, 3)), rng.normal(size=(3, 3, 3, 4))) for _ in range(2))
    convolve = lambda x, kernel: Conv(4, 3, dilation=dilation).apply({"params": {"kernel": kernel}}, x)
    found = derivatives(convolve, arguments, directions)
    if (size, dilation) not in PLAIN:  # computed once, for all platforms
        plain = partial(
            jax.lax.conv_general_dilated,
            window_strides=(1, 1),
            padding=[(dilation, dilation)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        PLAIN[size, dilation] = derivatives(plain, arguments, directions)
    compare(found, PLAIN[size, dilation])
    x, kernel = (
        torch.tensor(argument.transpose(axes), requires_grad=True)
        for argument, axes in zip(arguments, [(0, 3, 1, 2), (3, 2, 0, 1)], strict=True)
    )
    y = torch.nn.functional.conv2d(x, kernel, padding=dilation, dilation=dilation)
    torch.sin(y).sum().backward()
    compare(found[0], y.detach().numpy().transpose(0, 2, 3, 1))
    compare(found[1], (x.grad.numpy().transpose(0, 2, 3, 1), kernel.grad.numpy().transpose(2, 3, 1, 0)))


def test_dilated_in_16_bits_is_rounded_once(platform):
    rng = np.random.default_rng(1)
    x, kernel = jnp.asarray(rng.normal(size=(1, 19, 11, 64)), jnp.bfloat16), rng.normal(size=(3, 3, 64, 4))
    kernel = jnp.asarray(kernel, jnp.bfloat16)
    convolve = jax.jit(lambda x, kernel: dilated(x, kernel, 8))
    found = convolve(x, kernel)
    assert found.dtype == jnp.bfloat16
    exact = convolve(x.astype(jnp.float64), kernel.astype(jnp.float64))
    np.testing.assert_allclose(found.astype(jnp.float64), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_max_pool(platform, size):
    """Few values, so that most windows hold the largest several times; the first in reading order has the gradient."""
    rng = np.random.default_rng(1)
    x = rng.integers(-3, 1, (2, *size, 3)).astype(np.float64)
    weight = rng.normal(size=(2, -(-size[0] // 2), -(-size[1] // 2), 3))
    tensor = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(tensor, 3, 2, 1)
    (pooled * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()
    weighted = lambda x: (jnp.sum(jnp.asarray(weight) * (found := max_pool(x))), found)
    program = jax.jit(jax.grad(weighted, has_aux=True))
    for dtype in (jnp.float64, jnp.bfloat16, jnp.float16):
        gradient, found = program(jnp.asarray(x, dtype))
        np.testing.assert_array_equal(found, pooled.detach().numpy().transpose(0, 2, 3, 1))
        close = {"rtol": 1e-12} if dtype == jnp.float64 else {"rtol": 1e-2, "atol": 2e-2}
        np.testing.assert_allclose(gradient.astype(float), tensor.grad.numpy().transpose(0, 2, 3, 1), **close)


def test_max_pool_has_second_derivatives(platform):
    rng = np.random.default_rng(2)
    x, direction = rng.normal(size=(2, 2, 7, 9, 3))
    found = derivatives(lambda x: max_pool(x), (x,), (direction,))
    with forms_of("cpu"):
        compare(found, derivatives(lambda x: max_pool(x), (x,), (direction,)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_max_pool_of_what_is_not_finite(platform, dtype):
    special = [np.nan, -np.nan, np.inf, -np.inf, -0.0]
    pool = jax.jit(lambda x: max_pool(x))
    for number in special:
        x = np.full((1, 5, 5, 1), -np.inf if number == -np.inf else -2.0)
        x[0, 2, 3, 0] = number
        expected = torch.nn.functional.max_pool2d(torch.tensor(x.transpose(0, 3, 1, 2)), 3, 2, 1)
        found = pool(jnp.asarray(x, dtype))
        np.testing.assert_array_equal(found.astype(np.float64), expected.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("activation", [relu, kept_relu])
def test_relu(platform, activation):
    rng = np.random.default_rng(3)
    x, direction = rng.normal(size=(2, 4, 5))
    arguments = (np.where(x < -1, 0, x),), (direction,)
    compare(*(derivatives(lambda x, f=f: jnp.square(f(x)), *arguments) for f in (activation, jax.nn.relu)))
    assert np.isnan(activation(jnp.nan))


class Pair:
    """A convolution and the normalisation after it, as functions of their parameters."""

    def __init__(self, conv, *, pool=None, **fields):
        self.conv, self.pool = conv.clone(param_dtype=jnp.float64), pool
        self.norm = BatchNorm(use_batch_stats=True, update_stats=True, param_dtype=jnp.float64, **fields)

    def __call__(self, one_pass, x, kernel, scale, bias, mean, var):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
        conv = self.conv.bind({"params": {"kernel": kernel}})

        def call(norm):
            if self.pool:
                return pooled_norm_of(conv, norm, x, self.pool, relu)
            return norm_of(conv, norm, x)

        return self.norm.clone(one_pass=one_pass).apply(variables, mutable=["batch_stats"], method=call)


def arguments_of(pair, shape, features, seed):
    """Random ones, with scales of both signs, and images whose channels are alike."""
    rng = np.random.default_rng(seed)
    x = 2 + rng.normal(size=shape) + 3 * rng.normal(size=(*shape[:-1], 1))
    kernel = rng.normal(size=(pair.conv.kernel_size, pair.conv.kernel_size, shape[-1] // pair.conv.groups, features))
    scale = rng.uniform(0.5, 2, features) * np.where(np.arange(features) % 3, 1, -1)
    if not pair.pool:
        scale[1] = 0  # before a pool every value of such a channel is a maximum, and which gets the gradient is free
    return x, kernel, scale, rng.normal(size=features), rng.normal(size=features), rng.uniform(0.5, 2, features)


PAIRS = {
    "plain": (partial(Pair, Conv(6, 3)), 6),
    "widening": (partial(Pair, Conv(8, 1)), 8),
    "widening, strided": (partial(Pair, Conv(9, 1, stride=2)), 9),
    "pooled": (partial(Pair, Conv(6, 3, stride=2), pool=max_pool), 6),
}


SOME_PAIRS = [kind if kind in ("widening", "pooled") else pytest.param(kind, marks=pytest.mark.slow) for kind in PAIRS]


@pytest.mark.parametrize("group_size", [pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("kind", SOME_PAIRS)
def test_batch_norm_in_one_pass(platform, kind, group_size):
    """Output, running statistics and all derivatives, against the normalisation of the computed convolution."""
    compare(results_of_pair(kind, group_size, True), plain_pair(kind, group_size), rtol=1e-10, atol=1e-10)


@cache
def plain_pair(kind, group_size):
    """Computed once, for all platforms."""
    with forms_of("cpu"):
        return results_of_pair(kind, group_size, False)


def results_of_pair(kind, group_size, one_pass):
    make, features = PAIRS[kind]
    pair = make(group_size=group_size)
    arguments, directions = (arguments_of(pair, (6, 7, 9, 4), features, seed) for seed in (4, 5))
    return derivatives(lambda *a: pair(one_pass, *a), arguments, directions)


@pytest.mark.parametrize("kind", SOME_PAIRS)
def test_batch_norm_in_one_pass_over_an_axis(platform, kind):
    """Members of an axis share statistics as one batch does."""
    make, features = PAIRS[kind]
    whole, member = make(), make(axis_name="members")
    x, *rest = arguments_of(whole, (6, 7, 9, 4), features, 6)
    weights = jnp.sin(jnp.arange(features))[None, None, None]

    def loss(x, kernel):
        found, stats = jax.vmap(lambda x: member(True, x, kernel, *rest[1:]), axis_name="members")(
            x.reshape(3, 2, *x.shape[1:])
        )
        return jnp.sum(jnp.square(found) * weights[None]), (
            found.reshape(6, *found.shape[2:]),
            jax.tree.map(lambda s: s[0], stats),
        )

    def plain(x, kernel):
        found, stats = whole(False, x, kernel, *rest[1:])
        return jnp.sum(jnp.square(found) * weights), (found, stats)

    arguments = jnp.asarray(x), jnp.asarray(rest[0])
    results = [jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(*arguments) for f in (loss, plain)]
    compare(*results, rtol=1e-10, atol=1e-10)


NETWORKS = {
    "bottleneck": {"block": "bottleneck", "stage_sizes": (1, 2)},
    "basic": {"block": "basic", "stage_sizes": (1, 1)},
    "bottleneck_v1 with gates": {"block": "bottleneck_v1", "stage_sizes": (1, 1), "se_ratio": 4},
    "D": {"block": "bottleneck", "stage_sizes": (1, 1), "stem": "deep", "shortcut": "average_pool"},
    "space to depth, standardised": {
        "block": "bottleneck",
        "stage_sizes": (1, 1),
        "stem": "space_to_depth",
        "weight_standardization": True,
    },
    "blurred, rematerialised": {"block": "bottleneck", "stage_sizes": (1, 1), "antialias": True, "remat": (1, 2)},
    "pre-activation": {"block": "preact_bottleneck", "stage_sizes": (1, 1)},
}


SHORT = ("bottleneck", "basic")


@pytest.mark.parametrize(
    "kind", [kind if kind in SHORT else pytest.param(kind, marks=pytest.mark.slow) for kind in NETWORKS]
)
def test_whole_networks(platform, kind):
    """Logits, gradients and running statistics in float64, in one pass with this platform's forms, and plainly."""
    compare(results_of_network(kind, one_pass=True), plain_network(kind), rtol=1e-9, atol=1e-10)


@cache
def plain_network(kind):
    """Computed once, for all platforms."""
    with forms_of("cpu"):
        return results_of_network(kind, one_pass=False)


def results_of_network(kind, one_pass):
    model = ResNet(num_classes=3, width=8, bn_group_size=2, param_dtype=jnp.float64, **NETWORKS[kind])
    rng = np.random.default_rng(7)
    images = jnp.asarray(rng.normal(size=(4, 37, 41, 3)))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.2, 1, leaf.shape) * rng.choice([-1, 1], leaf.shape)), variables
    )
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])

    def loss(params):
        net = model.clone(norm=partial(BatchNorm, one_pass=one_pass))
        logits, updates = net.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits)), (logits, updates)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize(("deferred", "mean"), [(False, 0), (False, 100), (True, 0), (True, 10)])
def test_one_pass_loses_no_digits_that_16_bits_have(platform, deferred, mean):
    """The variance around a running mean of zero, of numbers whose own mean is far away, against float64."""
    rng = np.random.default_rng(8)
    x = jnp.asarray(rng.normal(mean, 1, (32, 8, 8, 4)), jnp.bfloat16)
    kernel = jnp.asarray(rng.uniform(0.5, 1, (1, 1, 4, 8)), jnp.float32)
    norm = BatchNorm(use_batch_stats=True, update_stats=True, momentum=0.0, dtype=jnp.bfloat16)
    variables = norm.init(jax.random.key(0), jnp.zeros((2, 1, 1, 8 if deferred else 4)))
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
    exact = np.asarray(x, np.float64)
    if deferred:
        conv = Conv(8, 1, dtype=jnp.bfloat16).bind({"params": {"kernel": kernel}})
        exact = exact @ np.asarray(kernel[0, 0], np.float64)
        call = lambda norm: norm_of(conv, norm, x)
    else:
        call = lambda norm: norm(x)
    out, updates = jax.jit(lambda variables: norm.apply(variables, mutable=["batch_stats"], method=call))(variables)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["batch_stats"]["mean"], exact.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact.var((0, 1, 2), ddof=1), rtol=5e-3)


def test_the_form_is_that_of_the_platform_lowered_for():
    """On this machine, whatever it is: a program for a TPU pools by windows, one for a GPU convolves by 1x1."""

    def text(function, platform, *shapes):
        arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()

    pool, product = lambda x: max_pool(x), lambda x, kernel: pointwise(x, kernel)
    convolve = lambda x, kernel, **fields: Conv(8, 3, **fields).apply({"params": {"kernel": kernel}}, x)
    shapes = (2, 4, 4, 8), (8, 16)
    assert "reduce_window" in text(pool, "tpu", shapes[0])
    assert "reduce_window" not in text(pool, "cpu", shapes[0])
    assert "bitcast_convert" in text(jax.grad(lambda x: jnp.sum(pool(x))), "cuda", shapes[0]), "keys, not windows"
    assert "convolution" in text(product, "cuda", *shapes)
    assert "convolution" in text(product, "tpu", *shapes)
    assert "convolution" not in text(product, "cpu", *shapes)
    for platform in PLATFORMS:
        far, near, grouped, strided = (
            "convolution" in text(partial(convolve, **fields), platform, (1, 9, 9, 8), (3, 3, 8 // groups, 8))
            for fields, groups in [
                ({"dilation": 8}, 1),
                ({"dilation": 4}, 1),
                ({"dilation": 8, "groups": 2}, 2),
                ({"dilation": 8, "stride": 2}, 1),
            ]
        )
        assert far == (platform != "cpu")
        assert all((near, grouped, strided))


def test_a_run_on_a_cpu_traces_the_forms_of_cpus_alone():
    images = jnp.ones((1, 5, 5, 4))
    traced = lambda: str(jax.make_jaxpr(lambda x: max_pool(x))(images))
    assert "platform_index" in traced()
    with forms_of_this_machine():
        assert "platform_index" not in traced()
        with forms_of("tpu"):
            assert "reduce_window" in traced()
    with forms_of("tpu"), forms_of_this_machine():
        assert "reduce_window" in traced(), "forms that a test forces stay"
