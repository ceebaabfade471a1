"""The stems: of any image, and space-to-depth, which is the 7x7 convolution in another layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import ResNet, create_model, init, list_models, space_to_depth_kernel

from ..depth import BLOCKS
from .test_options import SMALL, TINY, apply, draw, shapes_of


@pytest.mark.parametrize("channels", [1, 7])
@pytest.mark.parametrize("stem", ["imagenet", "cifar", "deep", "deep_tiered", "space_to_depth"])
def test_any_number_of_channels(channels, stem):
    model = ResNet(**SMALL | {"stem": stem})
    variables = jax.eval_shape(lambda key: init(model, key, channels=channels), jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 33, 32, channels), jnp.float32)
    assert jax.eval_shape(lambda variables, x: model.apply(variables, x, train=False), variables, x).shape == (2, 3)


NOT_DEEP = [name for name in list_models(task="classify") if sum(create_model(name).stage_sizes) <= BLOCKS]


@pytest.mark.parametrize("name", [name for name in NOT_DEEP if not name.startswith("cifar")])
def test_every_imagenet_net_takes_the_cifar_stem(name):
    model = create_model(name, stem="cifar", num_classes=10)
    out, _ = shapes_of(model)
    assert out["stem"].shape[:3] == (1, 32, 32)
    assert out["stage4"].shape[:3] == (1, 4, 4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (13, 18)])
def test_the_space_to_depth_stem_gives_the_same_logits(height, width, float64):
    model = ResNet(**SMALL | {"stem": "imagenet"}, param_dtype=jnp.float64)
    folded = model.clone(stem="space_to_depth")
    variables = draw(model, dtype=np.float64)
    kernel = space_to_depth_kernel(variables["params"]["conv1"]["kernel"])
    transformed = variables | {"params": variables["params"] | {"conv1": {"kernel": kernel}}}
    x = np.random.default_rng(0).normal(size=(2, height, width, 3))
    expected = apply(model, variables, x)
    assert expected.dtype == jnp.float64
    np.testing.assert_allclose(apply(folded, transformed, x), expected, rtol=1e-12, atol=1e-13)


def test_the_space_to_depth_stem_starts_as_the_7x7_one():
    kernels = [
        init(ResNet(**TINY | {"stem": stem, "width": 64}), jax.random.key(0))["params"]["conv1"]["kernel"]
        for stem in ("imagenet", "space_to_depth")
    ]
    a, b = map(np.asarray, kernels)
    assert np.count_nonzero(b) == a.size
    assert np.std(b[b != 0]) == pytest.approx(np.std(a), rel=0.05)
