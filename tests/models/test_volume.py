"""The forms of a convolution over space and time: the same numbers, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.forms import forms_of
from resnet_jax.models.layers import Conv

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.mark.parametrize(
    "fields",
    [
        {"kernel_size": 3, "stride": 2, "groups": 2},
        {"kernel_size": 3, "dilation": 2, "border_in_time": True},
        {"kernel_size": 3, "features": 4},
        {"kernel_size": 3, "features": 4, "dilation": 4},
        {"kernel_size": 3, "features": 2, "groups": 2, "stride": (1, 2, 2)},
        {"kernel_size": (3, 1, 1), "features": 3, "border_in_time": True},
        {"kernel_size": (3, 1, 1), "stride": (2, 1, 1)},
        {"kernel_size": (1, 3, 3), "stride": (1, 2, 2)},
        {"kernel_size": (3, 7, 7), "stride": (1, 2, 2), "border_in_time": True},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=str,
)
def test_all_forms_compute_the_same(fields):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, conv = rng.normal(size=(2, 5, 8, 7, 4)), Conv(**{"features": 6, "param_dtype": jnp.float64, **fields})
        with forms_of("cuda"):
            variables = conv.init(jax.random.key(0), x)
        found = {}
        for platform in ("cpu", "cuda"):
            with forms_of(platform):
                text = str(jax.make_jaxpr(conv.apply)(variables, x))
                assert ("'NDHWC'" in text or "(0, 4, 1, 2, 3)" in text) == (platform == "cuda"), text
                y, back = jax.vjp(conv.apply, variables, x)
                # Where nothing is differentiated, a CPU has another form.
                found[platform] = [conv.apply(variables, x), y, *jax.tree.leaves(back(jnp.sin(y)))]
        for ours, theirs in zip(found["cpu"], found["cuda"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)
