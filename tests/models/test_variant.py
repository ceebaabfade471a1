"""A row in a table is all that a new variant takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.cost.count import count_macs, count_parameters, summary
from resnet_jax.models import Block, create, create_model, init, list_models

pytestmark = pytest.mark.usefixtures("compile_quickly")


def test_a_made_up_row_works_end_to_end(monkeypatch):
    row = {
        "block": "bottleneck_v1",
        "stage_sizes": (1, 1),
        "width": 16,
        "stem": "deep",
        "shortcut": "average_pool",
        "groups": 2,
        "base_width": 32,
        "se_ratio": 8,
        "antialias": True,
        "act": "silu",
        "pool": "catavgmax",
        "num_classes": 5,
    }
    monkeypatch.setitem(create.VARIANTS, "seresnextblur8d_2x32d", row)
    assert list_models("seresnextblur*") == ["seresnextblur8d_2x32d"]
    model = create_model("seresnextblur8d_2x32d")
    variables = init(model, jax.random.key(0))
    assert count_parameters(model) == sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count_macs(model, image_size=32) > 0
    assert "layer2_0/se/fc1" in summary(model, image_size=32)

    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    labels = jnp.arange(8) % 5

    @jax.jit
    def step(variables):
        def loss(params):
            logits, updates = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), labels]), updates

        (value, updates), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.05 * g, variables["params"], gradient)
        return {"params": params, **updates}, value, gradient

    new, before, gradient = step(variables)
    dead = [path for path, g in jax.tree_util.tree_leaves_with_path(gradient) if not np.abs(g).max() > 0]
    assert not dead, f"parameters that nothing depends on: {dead}"
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (new, variables)), strict=True))
    _, after, _ = step(new)
    assert after < before


def test_a_block_of_ones_own_is_told_its_place_in_the_network():
    """Widths, strides, dilations and drop rates come with the base class."""
    seen = []

    class Spy(Block):
        expansion = 2

        def __call__(self, x):
            seen.append((self.width, self.stride, self.dilations, round(self.drop_rate, 3), x.shape))
            return jnp.zeros((*x[:, :: self.stride, :: self.stride].shape[:3], 2 * self.width))

    model = create_model("resnet18", block=Spy, output_stride=16, stochastic_depth=0.7)
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 64, 64, 3)))
    assert seen == [
        (64, 1, (1, 1), 0.0, (1, 16, 16, 64)),
        (64, 1, (1, 1), 0.1, (1, 16, 16, 128)),
        (128, 2, (1, 1), 0.2, (1, 16, 16, 128)),
        (128, 1, (1, 1), 0.3, (1, 8, 8, 256)),
        (256, 2, (1, 1), 0.4, (1, 8, 8, 256)),
        (256, 1, (1, 1), 0.5, (1, 4, 4, 512)),
        (512, 1, (1, 2), 0.6, (1, 4, 4, 512)),
        (512, 1, (2, 2), 0.7, (1, 4, 4, 1024)),
    ]
