"""How long a step takes here, of one run and of several side by side."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.cost.programs import IMAGES
from resnet_jax.cost.speed import compile_for, repeating, time_in_turns
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.studies.cells import Cell
from resnet_jax.studies.seeds import together
from resnet_jax.tasks.assemble import Training, assemble

Turn = Callable[[int], float]


def alone(cell: Cell) -> tuple[Turn, float]:
    """Seconds per step, measured over a number of steps on images of zeros; and the seconds of compiling it."""
    training = _training(cell)
    state, batch = training.init_state(jax.random.key(0)), _zeros(training)
    compiled, seconds = compile_for(training.train_step, state, batch)
    return _turn(repeating(compiled, state, batch)), seconds


def beside(cell: Cell, runs: int) -> tuple[Turn, float]:
    """As `alone`, for a common step of several runs."""
    training = _training(cell)
    states = [training.init_state(jax.random.key(seed)) for seed in range(runs)]
    batches = [_zeros(training) for _ in range(runs)]
    compiled, seconds = compile_for(together(training.train_step), states, batches)

    def step(states: Any, batches: Any) -> tuple[Any, Any]:
        found = compiled(states, batches)
        return [state for state, _ in found], [metrics for _, metrics in found]

    return _turn(repeating(step, states, batches)), seconds


def is_faster_beside(cell: Cell, runs: int) -> tuple[bool, str]:
    """Whether several runs of a cell are trained faster in one program than one after the other; and the measurement in
    words."""
    if cell.config.distil.teacher:
        return False, "a run with a teacher is not measured, so its seeds are trained one after the other"
    turns = {"alone": alone(cell)[0], "beside": beside(cell, runs)[0]}
    seconds = time_in_turns(turns)
    apart, joined = runs * seconds["alone"], seconds["beside"]
    words = f"{runs} steps take {1000 * joined:.0f} ms in one program, and {1000 * apart:.0f} ms one after the other"
    return joined < apart, words


def _training(cell: Cell) -> Training:
    return assemble(cell.config, cell.task(), make_mesh(), num_images=IMAGES)


def _zeros(training: Training) -> dict[str, Any]:
    return {
        name: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding) for name, leaf in training.batch.items()
    }


def _turn(launch: Callable[[], Any]) -> Turn:
    import time

    def turn(launches: int) -> float:
        started = time.perf_counter()
        for _ in range(launches):
            out = launch()
        jax.block_until_ready(out)
        return (time.perf_counter() - started) / launches

    return turn
