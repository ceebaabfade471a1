"""The training loop. There is one: other losses, frozen parts and the like enter as arguments, not as copies."""

from collections import deque
from typing import Any

from jax.sharding import NamedSharding

from resnet_jax.errors import Preempted
from resnet_jax.files import forgive_failed_write
from resnet_jax.logs.run_log import RunLog
from resnet_jax.runtime.mesh import put_batch
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.non_finite import Batches
from resnet_jax.survival.signals import StopRequest
from resnet_jax.survival.watchdog import PATIENCE, Watchdog
from resnet_jax.training.evaluate import Evaluate
from resnet_jax.training.optim import Plan
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import TrainStep

STEPS_IN_FLIGHT = 2  # the host prepares this many steps ahead; more would only hold batches in device memory


def fit(
    state: TrainState,
    batches: Batches,
    sharding: NamedSharding,
    train_step: TrainStep,
    evaluate: Evaluate,
    plan: Plan,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: StopRequest,
    watchdog: Watchdog,
    *,
    forgive_failed_writes: bool = False,
) -> TrainState:
    """Trains from `state.step` to `plan.total`.

    Raises:
      Preempted: `stop` was asked for; everything needed to go on from this step is saved.
      StorageError: a checkpoint or the log cannot be written, and that is not forgiven, or it was the last one.
      NonFiniteLossError: with the range of steps; nothing has been saved since the loss was last seen finite.
    """

    def save(step: int, report: dict[str, float]) -> None:
        watchdog.expect(f"the checkpoint of step {step}", PATIENCE)
        with forgive_failed_write(forgive_failed_writes):
            checkpoints.wait()  # a failure of the last save must not cost this one
        with forgive_failed_write(forgive_failed_writes and step < plan.total):
            memory = {"log": log.get_state(), "data": batches.get_state()}
            checkpoints.save(step, state, memory, report)

    in_flight: deque[Any] = deque()
    start = int(state.step)
    for step in range(start + 1, plan.total + 1):
        watchdog.expect(f"step {step}", PATIENCE if step <= start + 1 + STEPS_IN_FLIGHT else 1)
        with log.waiting_for_data():
            rows = next(batches)
        batch = put_batch(rows, sharding)
        state, metrics = train_step(state, batch)
        log.collect(step, metrics)
        in_flight.append(metrics["loss"])
        if len(in_flight) > STEPS_IN_FLIGHT:
            in_flight.popleft().block_until_ready()
        if plan.is_due("log", step):
            log.write_train(step)
        report: dict[str, float] = {}
        if plan.is_due("eval", step):
            watchdog.expect(f"the evaluation after step {step}", PATIENCE)
            report = evaluate(state.eval_variables)
            log.write_eval(step, report)
        if plan.is_due("save", step):
            save(step, report)
        if step < plan.total and stop.asked():
            if not plan.is_due("save", step):
                save(step, report)
            with forgive_failed_write(forgive_failed_writes):
                checkpoints.wait()
            raise Preempted(f"stopped after step {step} of {plan.total}; run the same command again to continue")
    watchdog.expect("the last checkpoint", PATIENCE)
    checkpoints.wait()
    return state
