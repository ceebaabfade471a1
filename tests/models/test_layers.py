"""BatchNorm and the other layers against PyTorch's, as the independent oracle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.layers import Conv
from resnet_jax.models.moments import moments
from resnet_jax.models.norms import BatchNorm
from resnet_jax.models.pooling import max_pool

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("compile_quickly")


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2))))


def nhwc(x):
    return np.transpose(x.detach().numpy(), (0, 2, 3, 1))


def random_variables(channels, rng):
    draw = lambda low, high: rng.uniform(low, high, channels).astype(np.float32)
    return {
        "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 3)},
    }


def train(norm, variables, x):
    """What the norm gives, and its new statistics, in one program."""
    return jax.jit(partial(norm.apply, mutable=["batch_stats"]))(variables, x)


def torch_batch_norm(variables):
    module = torch.nn.BatchNorm2d(len(variables["params"]["scale"]))
    tensors = {
        "weight": variables["params"]["scale"],
        "bias": variables["params"]["bias"],
        "running_mean": variables["batch_stats"]["mean"],
        "running_var": variables["batch_stats"]["var"],
        "num_batches_tracked": np.int64(0),
    }
    module.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
    return module


@pytest.mark.parametrize("shape", [(6, 5, 7, 3), (2, 1, 1, 4), (1, 2, 3, 1)])
def test_batch_norm_trains_as_torch(shape):
    rng = np.random.default_rng(0)
    variables = random_variables(shape[-1], rng)
    module = torch_batch_norm(variables).train()
    step = jax.jit(partial(BatchNorm(use_batch_stats=True, update_stats=True).apply, mutable=["batch_stats"]))
    for _ in range(4):  # the running averages differ from PyTorch's only after several steps if momentum is misread
        x = rng.normal(2, 3, shape).astype(np.float32)
        got, updates = step(variables, x)
        np.testing.assert_allclose(got, nhwc(module(nchw(x))), rtol=2e-5, atol=2e-5)
        variables = {**variables, **updates}
    np.testing.assert_allclose(variables["batch_stats"]["mean"], module.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], module.running_var.numpy(), rtol=1e-5)


def test_batch_norm_evaluates_as_torch():
    rng = np.random.default_rng(1)
    variables = random_variables(5, rng)
    x = rng.normal(2, 3, (3, 4, 5, 5)).astype(np.float32)
    got = jax.jit(BatchNorm(use_batch_stats=False, update_stats=False).apply)(variables, x)
    np.testing.assert_allclose(got, nhwc(torch_batch_norm(variables).eval()(nchw(x))), rtol=1e-5, atol=1e-5)


def test_batch_norm_gradients_are_torchs():
    rng = np.random.default_rng(2)
    variables = random_variables(3, rng)
    x, weight = rng.normal(1, 2, (2, 4, 3, 5, 3)).astype(np.float32)
    norm = BatchNorm(use_batch_stats=True, update_stats=False)
    loss = lambda params, x: jnp.sum(weight * norm.apply({**variables, "params": params}, x))
    params, image = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], x)
    module, tensor = torch_batch_norm(variables).train(), nchw(x).requires_grad_()
    (module(tensor) * nchw(weight)).sum().backward()
    np.testing.assert_allclose(image, nhwc(tensor.grad), atol=1e-5)
    np.testing.assert_allclose(params["scale"], module.weight.grad.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["bias"], module.bias.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", [1, 3, 5])
def test_a_group_is_a_batch_of_its_own(group):
    """Each group is what PyTorch makes of those images alone; the running statistics are the mean over groups."""
    rng = np.random.default_rng(3)
    variables = random_variables(4, rng)
    x = rng.normal(1, 2, (15, 3, 5, 4)).astype(np.float32)
    norm = BatchNorm(use_batch_stats=True, update_stats=True, group_size=group)
    got, updates = train(norm, variables, x)
    modules = [torch_batch_norm(variables).train() for _ in range(15 // group)]
    outputs = [nhwc(module(nchw(part))) for module, part in zip(modules, np.split(x, 15 // group), strict=True)]
    np.testing.assert_allclose(got, np.concatenate(outputs), rtol=2e-5, atol=2e-5)
    for name in ("mean", "var"):
        expected = np.mean([getattr(module, f"running_{name}").numpy() for module in modules], axis=0)
        np.testing.assert_allclose(updates["batch_stats"][name], expected, rtol=1e-5)


@pytest.mark.parametrize(("use", "update"), [(True, False), (False, True)])
def test_use_and_update_are_independent(use, update):
    rng = np.random.default_rng(4)
    variables = random_variables(3, rng)
    x = rng.normal(1, 2, (6, 4, 4, 3)).astype(np.float32)
    both = BatchNorm(use_batch_stats=True, update_stats=True, group_size=2)
    neither = BatchNorm(use_batch_stats=False, update_stats=False)
    mixed = BatchNorm(use_batch_stats=use, update_stats=update, group_size=2)
    trained, moved = train(both, variables, x)
    got, stats = train(mixed, variables, x)
    np.testing.assert_array_equal(got, trained if use else jax.jit(neither.apply)(variables, x))
    expected = moved["batch_stats"] if update else variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, stats["batch_stats"], expected)


def test_statistics_of_bfloat16_activations_are_float32():
    rng = np.random.default_rng(5)
    x = rng.normal(100, 1, (64, 8, 8, 1)).astype(np.float32)
    variables = random_variables(1, rng)
    variables["batch_stats"]["mean"] = np.full(1, 97, np.float32)  # one pass loses digits where it is far off
    norm = BatchNorm(use_batch_stats=True, update_stats=True, momentum=0.0, dtype=jnp.bfloat16)
    low = x.astype(jnp.bfloat16)
    got, updates = train(norm, variables, low)
    exact = np.asarray(low, np.float64)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["batch_stats"]["mean"], exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact.var(ddof=1), rtol=1e-5)


def test_a_variance_far_from_zero_mean_is_not_lost():
    """E[x^2] - E[x]^2, flax's default, has no correct digit left here."""
    x = np.random.default_rng(6).normal(3000, 0.1, (16, 8, 8, 1)).astype(np.float32)
    variables = random_variables(1, np.random.default_rng(0))
    norm = BatchNorm(use_batch_stats=True, update_stats=True, momentum=0.0)
    _, updates = train(norm, variables, x)
    np.testing.assert_allclose(updates["batch_stats"]["var"], x.astype(np.float64).var(ddof=1), rtol=1e-3)


def test_batch_norm_refuses_what_has_no_statistics():
    variables = random_variables(3, np.random.default_rng(0))
    norm = BatchNorm(use_batch_stats=True, update_stats=True, group_size=4)
    with pytest.raises(ValueError, match="6 images is not divisible into groups of 4"):
        norm.apply(variables, jnp.ones((6, 2, 2, 3)), mutable=["batch_stats"])
    with pytest.raises(ValueError, match=r"group of 1 image\(s\) of 1x1"):
        norm.clone(group_size=1).apply(variables, jnp.ones((6, 1, 1, 3)), mutable=["batch_stats"])


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "dilation"), [(7, 2, 1, 1), (3, 2, 1, 1), (3, 1, 4, 2), (1, 2, 1, 1), (1, 1, 2, 1)]
)
def test_conv_is_torchs(size, kernel, stride, groups, dilation):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(2, *size, 8)).astype(np.float32)
    conv = Conv(12, kernel, stride, groups, dilation)
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    weight = torch.from_numpy(np.array(variables["params"]["kernel"].transpose(3, 2, 0, 1)))
    padding = (kernel - 1) // 2 * dilation
    expected = torch.nn.functional.conv2d(nchw(x), weight, None, stride, padding, dilation, groups)
    np.testing.assert_allclose(jax.jit(conv.apply)(variables, x), nhwc(expected), rtol=1e-4, atol=1e-5)


def test_convolutions_start_as_he_proposed():
    kernel = Conv(256, 3).init(jax.random.key(0), jnp.ones((1, 4, 4, 64)))["params"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (256 * 9)), rel=0.02)
    assert np.abs(kernel).max() > 3 * np.std(kernel), "a normal distribution, not a truncated or uniform one"


pool = jax.jit(lambda x: max_pool(x))


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_max_pool_is_torchs(size):
    x = -1 - np.random.default_rng(8).random((2, *size, 3)).astype(np.float32)  # zero padding would win here
    expected = torch.nn.functional.max_pool2d(nchw(x), 3, 2, 1)
    np.testing.assert_array_equal(pool(x), nhwc(expected))


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_max_pool_gives_its_gradient_to_whom_torch_gives_it(size):
    """Few values, so that most windows hold the largest several times; the first in reading order has it all."""
    rng = np.random.default_rng(9)
    x = rng.integers(0, 3, (2, *size, 3)).astype(np.float32)
    tensor = nchw(x).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(tensor, 3, 2, 1)
    weight = rng.normal(size=nhwc(pooled).shape).astype(np.float32)
    (pooled * nchw(weight)).sum().backward()
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda x: jnp.sum(weight * max_pool(x))))(x), nhwc(tensor.grad), rtol=1e-5
    )


def test_max_pool_does_not_hide_nan():
    for pixel in ((0, 0), (2, 3), (4, 4)):
        x = np.zeros((1, 5, 5, 1), np.float32)
        x[0, *pixel, 0] = np.nan
        expected = torch.nn.functional.max_pool2d(nchw(x), 3, 2, 1)
        np.testing.assert_array_equal(pool(x), nhwc(expected))


def test_a_1x1_convolution_is_the_plain_one():
    """Values and both gradients in float64, where matrix product and convolution differ by rounding only."""
    rng = np.random.default_rng(10)
    with jax.enable_x64(True):
        for stride, size in ((1, (5, 7)), (2, (5, 7)), (2, (4, 6))):
            x, kernel = rng.normal(size=(3, *size, 6)), rng.normal(size=(1, 1, 6, 5))
            conv = Conv(5, 1, stride, param_dtype=jnp.float64)
            fast = lambda x, kernel: conv.apply({"params": {"kernel": kernel}}, x)
            plain = lambda x, kernel: jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            both = lambda *v: [
                (f(*v), *jax.grad(lambda *v: jnp.sum(jnp.sin(f(*v))), (0, 1))(*v)) for f in (fast, plain)
            ]
            results = jax.jit(both)(x, kernel)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), *results)


def test_derivatives_of_moments_are_those_of_their_definition():
    """First and second derivatives, forward over reverse as Hessian-vector products take them, in float64."""
    rng = np.random.default_rng(11)

    def plain(x):
        mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
        return mean, jnp.mean(jnp.square(x - mean), axis=(1, 2, 3), keepdims=True)

    with jax.enable_x64(True):
        x, direction = rng.normal(1, 2, (2, 2, 3, 2, 3, 4))
        weights = rng.normal(size=(2, 2, 1, 1, 1, 4))

        def scalar(statistics, x):
            mean, var = statistics(x)
            return jnp.sum(weights[0] * jnp.sin(mean)) + jnp.sum(weights[1] * jnp.log(var) * mean)

        def derivatives(statistics, x, direction):
            gradient = jax.grad(lambda x: scalar(statistics, x))
            of_each = jax.vmap(statistics)(x[:, None])
            return statistics(x), gradient(x), jax.jvp(gradient, (x,), (direction,))[1], of_each

        results = [jax.jit(partial(derivatives, statistics))(x, direction) for statistics in (moments, plain)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), *results)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA does on CPUs")
def test_no_mean_is_repeated_in_memory_as_large_as_the_activations():
    """It cost a twentieth of a training step: a compiled gradient must hold no broadcast of that size of its own."""
    norm, x = BatchNorm(use_batch_stats=True, update_stats=True), jnp.ones((8, 12, 12, 16))
    variables = norm.init(jax.random.key(0), x)
    kernels = jnp.ones((2, 1, 1, 16, 16))

    def loss(kernels, x):
        for kernel in kernels:
            x = Conv(16, 1).apply({"params": {"kernel": kernel}}, x)
            x = jax.nn.relu(norm.apply(variables, x, mutable=["batch_stats"])[0])
        return jnp.sum(jnp.square(x))

    compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile().as_text()
    entry = compiled[compiled.index("ENTRY") :].splitlines()
    large = [line for line in entry if "8,12,12,16]" in line]
    assert large
    assert not [line for line in large if "broadcast" in line.split(" = ")[0]]
