"""Convolutions whose gradients have another form inside of loops, against XLA's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import AugmentConfig, Config, DataConfig, ModelConfig
from resnet_jax.models.convolution import convolve, inside_a_loop
from resnet_jax.models.forms import forms_of
from resnet_jax.models.layers import Conv
from resnet_jax.models.winograd import three_by_three
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.table import task_of

FAST = {"b01f_01io->b01f"}
CASES = {  # size, taps, strides, padding, dilations
    "plain": ((6, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strides": ((7, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "stem": ((12, 15), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)),
    "patches": ((9, 11), (4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1)),
    "dilations": ((9, 8), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)),
    "both": ((11, 10), (3, 3), (2, 1), ((2, 2), (4, 1)), (2, 3)),
    "uneven": ((8, 6), (2, 5), (3, 2), ((0, 1), (3, 1)), (1, 1)),
}


def derivatives(function, arguments, directions):
    """Value, gradients and Hessian-vector products of a scalar made of what `function` gives."""
    gradients = jax.grad(lambda *arguments: jnp.sum(jnp.sin(function(*arguments))), argnums=(0, 1))
    return jax.jit(lambda arguments, directions: (function(*arguments), *jax.jvp(gradients, arguments, directions)))(
        arguments, directions
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_convolutions(name, compile_quickly):
    size, taps, *window = CASES[name]
    rng = np.random.default_rng(len(name))
    arguments, directions = ((rng.normal(size=(2, *size, 3)), rng.normal(size=(*taps, 3, 4))) for _ in range(2))
    with jax.enable_x64(True), forms_of("cpu"):
        plain = derivatives(lambda *both: convolve(*both, *window), arguments, directions)
        with inside_a_loop():
            ours = derivatives(lambda *both: convolve(*both, *window), arguments, directions)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-11), ours, plain)


def axes_of(compiled):
    """The orders of axes of the convolutions of a compiled program. Of maps smaller than the kernel, XLA changes it."""
    return set(re.findall(r"dim_labels=(\S+?),? ", compiled.as_text()))


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"kernel_size": 7, "stride": 2}, {"dilation": 2}])
def test_gradients_in_a_loop_have_the_axes_that_are_fast_on_cpus(options):
    conv = Conv(4, **{"kernel_size": 3, **options})
    x = np.ones((3, 2, 16, 16, 4), np.float32)
    variables = conv.init(jax.random.key(0), x[0])

    def compiled(inside):
        def one(variables, x):
            if not inside:
                return conv.apply(variables, x) ** 2
            with inside_a_loop():
                return conv.apply(variables, x) ** 2

        total = lambda variables, x: jnp.sum(jax.lax.map(lambda x: one(variables, x), x))
        return jax.jit(jax.grad(total, argnums=(0, 1))).lower(variables, x).compile()

    assert axes_of(compiled(True)) == FAST
    assert axes_of(compiled(False)) > FAST, "XLA does it itself: `inside_a_loop` is needed no more"


@pytest.mark.parametrize("model", [{"name": "cifar_resnet20"}, {"name": "resnet18", "stage_sizes": (1, 1)}])
def test_a_step_in_parts_has_them_too(model):
    config = Config(
        model=ModelConfig(**model, width_multiplier=0.25, bn_group_size=2, num_classes=3),
        data=DataConfig(name="synthetic", image_size=32, eval_resize=32, augment=AugmentConfig()),
        batch_size=4,
        accumulate=2,
    )
    training = assemble(config, task_of(config), make_mesh(jax.devices()[:1]), num_images=8)
    assert axes_of(training.lower_step().compile()) <= FAST


def test_rows_in_pairs_are_not_for_loops():
    x, kernel = jax.ShapeDtypeStruct((2, 48, 48, 128), np.float32), jax.ShapeDtypeStruct((3, 3, 128, 128), np.float32)

    def inside(x, kernel):
        with inside_a_loop():
            return three_by_three(x, kernel)

    with forms_of("cpu"):
        assert jax.jit(inside).lower(x, kernel).as_text().count("stablehlo.convolution") == 1
        assert jax.jit(lambda *a: three_by_three(*a)).lower(x, kernel).as_text().count("stablehlo.convolution") == 4
