"""States to be saved, of which every number tells the step, and how to look at what was restored."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.survival.checkpoint import Checkpoints

ACCURACY = {1: 0.5, 2: 0.9, 3: 0.3, 4: 0.2, 5: 0.1}


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    rng: jax.Array


def make_state(step, rows=8):
    """A state whose every number depends on the step; the kernel is large enough to get a file of its own."""
    keys = jax.random.split(jax.random.key(step), 4)
    params = {
        "conv1": {"kernel": jax.random.normal(keys[0], (rows, 300))},
        "bn1": {"scale": jax.random.normal(keys[1], (3,))},
    }
    optimiser = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(lambda count: 0.1 / (1 + count), momentum=0.9))
    gradients = jax.tree.map(lambda p: jnp.sin(p), params)
    _, opt_state = optimiser.update(gradients, optimiser.init(params), params)
    stats = {"bn1": {"mean": jax.random.normal(keys[2], (3,)), "var": jnp.ones(3, jnp.bfloat16) * step}}
    return State(jnp.int32(step), params, stats, opt_state, jax.random.key_data(keys[3]))


def position(step):
    return {"next_index": 64 * step, "epochs": [0, step], "version": "x"}


def open_checkpoints(folder, keep_last=2, keep_best=1):
    return Checkpoints(folder, keep_last=keep_last, keep_best=keep_best, best="top1")


def save_steps(folder, accuracies=ACCURACY, **keep):
    with open_checkpoints(folder, **keep) as checkpoints:
        for step, top1 in accuracies.items():
            checkpoints.save(step, make_state(step), position(step), {"top1": top1})


def assert_is_step(restored, step):
    assert restored is not None
    assert restored.step == step
    assert restored.memory == position(step)
    want = make_state(step)
    assert jax.tree.structure(restored.state) == jax.tree.structure(want)
    for got, wanted in zip(jax.tree.leaves(restored.state), jax.tree.leaves(want), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def folders(folder):
    return sorted(path.name for path in folder.iterdir())
