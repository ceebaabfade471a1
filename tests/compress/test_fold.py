"""Folded networks against the networks that they come from, in float64, with random statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resnet_jax.compress import fold
from resnet_jax.errors import ModelError
from resnet_jax.models import BatchNorm, Block, create_model, list_models, variable_shapes

from ..weights.networks import calm, random_variables

EXACT = 1e-12  # of the largest logit


@pytest.fixture(autouse=True)
def _float64(compile_quickly):
    with jax.enable_x64(True):
        yield


def build(name, **options):
    return create_model(name, param_dtype=jnp.float64, **options)


def in_float64(variables):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)


def sides_of(model, sides):
    """Of images that the network can see; a head that is made for one size sees these alone."""
    if getattr(model, "head", "") == "flat":
        return model.sides
    return (3, *sides) if len(getattr(model, "sides", ())) == 3 else sides


def check(model, sides=(33, 39), channels=3, change=lambda variables: variables):
    """Folds the network; the logits must stay, and the variables must be those that the folded network has."""
    sides = sides_of(model, sides)
    variables = in_float64(change(random_variables(model, channels, image=sides)))
    folded = fold(model, variables)
    images = np.random.default_rng(0).normal(size=(2, *sides, channels))
    apply = lambda net, v: jax.tree.leaves(jax.jit(lambda v, x: net.apply(v, x, train=False))(v, images))
    for before, after in zip(apply(model, variables), apply(folded.model, folded.variables), strict=True):
        assert jnp.max(jnp.abs(after - before)) <= EXACT * jnp.max(jnp.abs(before))
    expected = jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), variable_shapes(folded.model, channels=channels, sides=sides)
    )
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), folded.variables) == expected
    norms = [path for path in flatten_dict(variables.get("params")) if path[-1] == "scale"]
    assert folded.folded + folded.kept == len(norms)
    assert len(flatten_dict(folded.variables.get("batch_stats", {}))) == (2 * folded.kept if folded.folded else 0)
    return folded.folded, folded.kept


SMALL = {"width_multiplier": 0.25}
CASES = {  # what, its options, norms that are folded and that stay
    "resnet18": (SMALL | {"stage_sizes": (1, 2)}, (8, 0)),
    "resnet26": (SMALL | {"stage_sizes": (1, 1)}, (9, 0)),
    "resnet26t": (SMALL | {"se_ratio": 4, "antialias": True, "stage_sizes": (1, 1)}, (11, 0)),
    "resnext50_32x4d": ({"stage_sizes": (1, 1), "width_multiplier": 0.5}, (9, 0)),
    "resnet50_v1": (SMALL | {"stage_sizes": (1, 2)}, (12, 0)),
    "cifar_resnet20": ({"stage_sizes": (1, 1, 1)}, (7, 0)),
    "cifar_resnet20_centred": ({"stage_sizes": (1, 1, 1), "weight_standardization": True}, (7, 0)),
    "cifar_plain20": ({"stage_sizes": (1, 1, 1)}, (7, 0)),
    # The first block's first norm follows the stem's convolution, whose output is the shortcut too.
    "cifar_resnetv2_20": ({"stage_sizes": (1, 1, 1), "weight_standardization": True}, (3, 4)),
    "resnetv2_50": (SMALL | {"stage_sizes": (1, 1), "stem": "deep"}, (6, 3)),
    "resnet18d": (SMALL | {"stem": "space_to_depth", "stage_sizes": (1, 1), "norm": "frozen"}, (6, 0)),
    "cifar_resnet29": ({"stage_sizes": (1,), "norm": partial(nn.GroupNorm, num_groups=4)}, (0, 5)),
    "fcn_resnet18": (SMALL | {"stage_sizes": (1, 1, 1)}, (11, 0)),
    "deeplabv3_resnet18": (SMALL | {"stage_sizes": (1, 1), "aux_loss": False}, (13, 0)),
    "unet_resnetv2_18": (SMALL | {"stage_sizes": (1, 1)}, (8, 3)),
    # A norm before a padded convolution stays, and so do the norms of the head.
    "iresnet18": (SMALL | {"stage_sizes": (2, 1), "sides": (33, 35), "antialias": True}, (9, 5)),
    "embed_resnet26t": (SMALL | {"stage_sizes": (1,), "embedding_size": 6}, (7, 1)),
}


# Those whose layers the others have too.
SLOW = (
    *("resnet26", "resnext50_32x4d", "resnet50_v1", "cifar_resnet20", "cifar_plain20", "fcn_resnet18"),
    "embed_resnet26t",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_a_folded_network_computes_the_same(name):
    options, counts = CASES[name]
    assert check(build(name, **options)) == counts


def test_another_epsilon_and_grey_images():
    norm = partial(BatchNorm, epsilon=0.1)
    assert check(build("cifar_resnetv2_20", stage_sizes=(1,), norm=norm), channels=1) == (1, 2)
    assert check(build("cifar_resnet20", stage_sizes=(1,), norm=norm), channels=1) == (3, 0)


LEFT_OUT = ("cifar_resnet1202", *list_models(task="detect"))  # too deep; refused


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if name not in LEFT_OUT])
def test_every_network_computes_the_same(name):
    folded, kept = check(build(name, **({"width_multiplier": 0.25} if "_gn" not in name else {})), change=calm)
    assert (kept > 0) == any(part in name for part in ("v2", "cifar_wide", "_gn", "iresnet", "embed"))
    assert (folded > 0) == ("_gn" not in name)


def test_numbers_are_rounded_once():
    model = create_model("cifar_resnet20", stage_sizes=(1,))
    variables = random_variables(model)
    single, double = fold(model, variables), fold(model, in_float64(variables))
    for (path, leaf), exact in zip(
        flatten_dict(single.variables).items(), flatten_dict(double.variables).values(), strict=True
    ):
        assert leaf.dtype == jnp.float32, path
        assert np.array_equal(leaf, exact.astype(jnp.float32)), path


def test_a_folded_network_is_not_folded_again():
    model = build("cifar_resnetv2_20", stage_sizes=(1,))
    once = fold(model, in_float64(random_variables(model)))
    assert fold(once.model, once.variables) == (once.model, once.variables, 0, 2)


class Own(Block):
    @nn.compact
    def __call__(self, x):
        y = self.parts.conv(self.width, 3, name="conv1")(x)
        return y + self.parts.norm(name="bn1")(y)  # the norm cannot be folded


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            lambda: build("cifar_resnet20", block=Own, shortcut="none"),
            "layer1_0 is Own, .*choose a block by name: basic",
        ),
        (
            lambda: build("cifar_resnet20", shortcut=lambda block, x, features: None),
            "the shortcut of layer1_0 is <lambda>, .*choose a shortcut by name: zero_pad, ",
        ),
        (lambda: nn.Dense(3), "Dense is no network of create_model, .*pass a ResNet"),
    ],
)
def test_own_parts_are_refused(model, text):
    with pytest.raises(ModelError, match=text):
        fold(model(), {})


def test_folded_needs_batch_normalisation():
    with pytest.raises(ModelError, match="norm = 'group' is none; pass folded=False"):
        build("resnet50_gn", folded=True)
