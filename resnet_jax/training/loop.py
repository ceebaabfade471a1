"""The training loop. There is one: other losses, frozen parts and the like enter as arguments, not as copies."""

from collections import deque
from typing import Any, Protocol

from jax.sharding import NamedSharding

from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluate import Evaluate
from resnet_jax.training.mesh import put_batch
from resnet_jax.training.metrics import RunLog
from resnet_jax.training.optim import Plan
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import Batch, TrainStep

STEPS_IN_FLIGHT = 2  # the host prepares this many steps ahead; more would only hold batches in device memory


class Batches(Protocol):
    """Endless batches with a position that can be saved, such as `resnet_jax.data.train_batches` gives."""

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...


def fit(
    state: TrainState,
    batches: Batches,
    sharding: NamedSharding,
    train_step: TrainStep,
    evaluate: Evaluate,
    plan: Plan,
    checkpoints: Checkpoints,
    log: RunLog,
) -> TrainState:
    """Trains from `state.step` to `plan.total`.

    Raises:
      NonFiniteLossError: with the range of steps; nothing has been saved since the loss was last seen finite.
    """
    in_flight: deque = deque()
    for step in range(int(state.step) + 1, plan.total + 1):
        batch: Batch = put_batch(next(batches), sharding)
        state, metrics = train_step(state, batch)
        log.collect(step, metrics)
        in_flight.append(metrics["loss"])
        if len(in_flight) > STEPS_IN_FLIGHT:
            in_flight.popleft().block_until_ready()
        if plan.is_due("log", step):
            log.write_train(step, lr=plan.lr(step))
        if plan.is_due("eval", step):
            report = evaluate(state.variables)
            log.write_eval(step, report)
        if plan.is_due("save", step):
            checkpoints.save(step, state, batches.get_state(), report)
    checkpoints.wait()
    return state
