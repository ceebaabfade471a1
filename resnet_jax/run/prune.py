"""A run whose network loses channels, and becomes a run with a smaller network."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from resnet_jax import data
from resnet_jax.config import Config, Start
from resnet_jax.config_files import save_config
from resnet_jax.cost.count import count_macs_of
from resnet_jax.files import write_atomically
from resnet_jax.logs.run_log import FILE_NAME as LOG
from resnet_jax.models.headed import resnet_in
from resnet_jax.run.environment import append_session, describe_environment
from resnet_jax.run.evaluate import batching, evaluate, key, shown_names
from resnet_jax.run.predict import CLASS_NAMES, Run, open_checkpoints
from resnet_jax.run.result import write_result
from resnet_jax.run.start import Beginning
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks import assemble
from resnet_jax.tasks.table import task_of
from resnet_jax.tasks.task import Task
from resnet_jax.training.frozen import fixed_norms
from resnet_jax.training.step import step_key


class Measured(NamedTuple):
    """Attributes:
    parameters: how many there are.
    macs: multiply-accumulates of the prediction for one example.
    report: of the run's evaluations.
    """

    parameters: int
    macs: int
    report: Mapping[str, float]


def with_widths(run: Run, model: Any) -> Config:
    """The run's config with the widths of `model`. The smaller network starts from nothing else."""
    widths = resnet_in(model).widths
    return replace(run.config, model=replace(run.config.model, widths=widths), start=Start())


def macs_of(task: Task) -> int:
    """Multiply-accumulates of the prediction for one example as evaluation sees it."""
    variables = jax.eval_shape(task.init, jax.random.key(0))
    one = {name: jax.ShapeDtypeStruct((1, *shape), dtype) for name, (shape, dtype) in task.fills[1].leaves.items()}
    return count_macs_of(task.predict, variables, one)


def measured(run: Run) -> Measured:
    """What a run's network costs, and how right it is."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    return Measured(parameters, macs_of(run.task), evaluate(run.config, run.state))


def gradients_of(run: Run, batches: int) -> list[PyTree[Array]]:
    """The gradients of the run's loss for the first batches of its training, one tree each.

    Norms use their running statistics: the gradients are those of the network that is evaluated.
    """
    config, task, variables = run.config, run.task, run.state.eval_variables
    source = data.load_source(config.data, config.data.train_split)
    stream = data.train_batches(
        source, config.data, seed=config.seed, fill=task.fills[0], **batching(config.batch_size)
    )
    norms = frozenset(name.rpartition("/")[0] for name in by_name(variables["batch_stats"]))

    @jax.jit
    def gradient(params: PyTree[Array], batch: Mapping[str, Array], step: Array) -> PyTree[Array]:
        seen = {**batch, "position": jnp.arange(config.batch_size)}

        def loss(params: PyTree[Array]) -> Array:
            with fixed_norms(norms):
                now = step_key(jax.random.key(config.seed), step)
                found = task.loss(params, variables["batch_stats"], seen, now, None)
            weight = jnp.ones_like(found.loss) if found.weight is None else found.weight
            return jnp.sum(found.loss) / jnp.maximum(jnp.sum(weight), 1)

        return jax.grad(loss)(params)

    return [jax.device_get(gradient(variables["params"], next(stream), jnp.int32(step))) for step in range(batches)]


def smaller_run(run: Run, model: Any, variables: PyTree[Array]) -> Run:
    """The run with another network: its optimizer begins anew, and its averages are the variables."""
    config = with_widths(run, model)
    task = task_of(config)
    groups, _ = assemble.groups_and_phases(config, task)
    arrays = {name: np.asarray(array) for name, array in by_name(variables).items()}
    state = assemble.init_state_of(config, task, make_mesh())(jax.random.key(config.seed))
    state = Beginning("", arrays, (), groups).begin(state).replace(step=run.state.step)
    return Run(config=config, task=task, state=state, class_names=run.class_names)


def write_run(run: Run, folder: Path, report: Mapping[str, float], **facts: Any) -> None:
    """Writes a run that is not trained further, as if it had ended here.

    Args:
      folder: exists, and is empty.
      report: of its evaluations.
      facts: further entries of `result.json`.
    """
    config, step, best = run.config, int(run.state.step), key(run.config.evaluations[0].name, run.task.best)
    line = {"kind": "eval", "step": step, "epoch": config.epochs, "seconds": 0.0, **report}
    with open_checkpoints(config, folder, best) as checkpoints:
        checkpoints.save(step, run.state, {"data": {}, "log": []}, dict(report))
    write_atomically(folder / CLASS_NAMES, json.dumps(run.class_names))
    write_atomically(folder / LOG, json.dumps(line) + "\n")
    append_session(folder, describe_environment(seed=config.seed, from_step=step, data={}))
    write_result(
        config, folder, best, shown_names(config, run.task), seconds=0.0, devices=jax.device_count(), broken={}, **facts
    )
    save_config(config, folder)  # last: a folder with a config is a run
