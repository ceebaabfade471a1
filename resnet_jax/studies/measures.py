"""Measures that studies have in common: gradients by depth, memory, trained parameters."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from resnet_jax import data
from resnet_jax.cost.forecast import forecast
from resnet_jax.models.forms import forms_of_this_machine
from resnet_jax.run.evaluate import batching
from resnet_jax.studies.results import Finished
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks.assemble import groups_and_phases
from resnet_jax.training.frozen import frozen_names
from resnet_jax.training.state import split_key
from resnet_jax.training.step import step_key


def gradients_before_training(one: Finished) -> list[float]:
    """The L2 norm of the loss's gradient by the kernel of each convolution along the main path, from the image to the
    head, in the first step of the run: the parameters and the batch are those that its seed gives.

    Shortcuts' own convolutions are left out, so that a network with them has as many numbers as one without.
    """
    init_key, run_key = split_key(jax.random.key(one.seed))
    return _gradients(one, one.task.init(init_key), run_key)


def gradients_after_training(one: Finished) -> list[float]:
    """As `gradients_before_training`, with the trained parameters, and the same batch."""
    return _gradients(one, one.run.state.variables, split_key(jax.random.key(one.seed))[1])


def memory_of_a_step(one: Finished) -> float:
    """Bytes that a step takes on a device, of the compiled program (`train.py --dry-run` says more)."""
    return float(forecast(one.config, jax.local_devices()).peak_bytes)


def trained_parameters(one: Finished) -> float:
    """How many parameters are trained at some time in the run."""
    params = jax.eval_shape(one.task.init, jax.random.key(0))["params"]
    frozen = frozen_names(params, groups_and_phases(one.config, one.task)[0])
    return float(sum(leaf.size for name, leaf in by_name(params).items() if name not in frozen))


def _gradients(one: Finished, variables: PyTree[Array], run_key: Array) -> list[float]:
    config, task = one.config, one.task
    source = data.load_source(config.data, config.data.train_split)
    fill, size = task.fills[0], config.batch_size
    batch: dict[str, Any] = next(data.train_batches(source, config.data, seed=one.seed, fill=fill, **batching(size)))
    batch = {**batch, "position": jnp.arange(size)}

    def loss(params: PyTree[Array]) -> Array:
        return jnp.mean(task.loss(params, variables["batch_stats"], batch, step_key(run_key, 0), None).loss)

    with forms_of_this_machine():
        found = by_name(jax.jit(jax.grad(loss))(variables["params"]))
    kernels = sorted((name for name in found if found[name].ndim >= 4 and "downsample" not in name), key=depth_of)
    return [float(np.linalg.norm(np.asarray(found[name], np.float64))) for name in kernels]


def depth_of(name: str) -> tuple[Any, ...]:
    """Sorts the names of kernels from the image to the head: stem, then stages, blocks and convolutions by number."""
    words: list[Any] = [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)]
    return (name.startswith("layer"), *words)
