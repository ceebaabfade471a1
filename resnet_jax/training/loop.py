"""The training loop. There is only one: other losses or frozen parts enter as arguments, not as copies of the loop."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.sharding import NamedSharding

from resnet_jax.errors import Preempted
from resnet_jax.files import forgive_failed_write
from resnet_jax.logs.run_log import RunLog
from resnet_jax.runtime.mesh import put_batch
from resnet_jax.runtime.programs import shapes_of
from resnet_jax.survival.checkpoint import Checkpoints
from resnet_jax.survival.non_finite import Batches
from resnet_jax.survival.signals import Asked
from resnet_jax.survival.watchdog import PATIENCE, Watchdog
from resnet_jax.training.evaluate import Evaluate
from resnet_jax.training.optim import Plan
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import TrainStep

STEPS_IN_FLIGHT = 2  # the host prepares this many steps ahead; more would only hold batches in device memory


@dataclass(frozen=True)
class Loop:
    """Everything that a run needs besides its state and its log.

    Attributes:
      sharding: how a batch is split over the devices.
      train_steps: the step of each phase of the run, with the number of updates before the phase.
      evaluations: each is `variables -> report`. `plan.evaluations_due` gives their numbers.
      to_save: the part of a state that a checkpoint holds.
      remembered: what each checkpoint remembers besides the log and the position in the data; JSON.
      forgive_failed_writes: if a checkpoint or the log cannot be written, warn and go on.
    """

    batches: Batches
    sharding: NamedSharding
    train_steps: Sequence[tuple[int, TrainStep]]
    evaluations: Sequence[Evaluate]
    plan: Plan
    checkpoints: Checkpoints
    stop: Asked
    watchdog: Watchdog
    to_save: Callable[[TrainState], TrainState] = lambda state: state
    remembered: Mapping[str, Any] = field(default_factory=dict)
    forgive_failed_writes: bool = False


def fit(state: TrainState, loop: Loop, log: RunLog) -> TrainState:
    """Trains from `state.step` to `loop.plan.total`.

    Raises:
      Preempted: `loop.stop` was asked for. Everything needed to continue from this step is saved.
      StorageError: a checkpoint or the log cannot be written, and that is not forgiven, or it was the last one.
      NonFiniteLossError: with the range of steps. Nothing has been saved since the loss was last seen finite.
    """
    plan, checkpoints, watchdog, forgive = loop.plan, loop.checkpoints, loop.watchdog, loop.forgive_failed_writes

    def save(step: int, report: dict[str, float]) -> None:
        watchdog.expect(f"the checkpoint of step {step}", PATIENCE)
        with forgive_failed_write(forgive):
            checkpoints.wait()  # reports a failure of the last save, which must not prevent this one
        with forgive_failed_write(forgive and step < plan.total):
            memory = {**loop.remembered, "log": log.get_state(), "data": loop.batches.get_state()}
            checkpoints.save(step, loop.to_save(state.replace(fixed=None)), memory, report)

    in_flight: deque[Any] = deque()
    start = int(state.step)
    known: set[Any] = set()
    since = start
    for step in range(start + 1, plan.total + 1):
        phase, train_step = next(one for one in reversed(loop.train_steps) if one[0] < step)
        compiles = step <= max(since, phase) + 1 + STEPS_IN_FLIGHT
        watchdog.expect(f"step {step}", PATIENCE if compiles else 1)
        with log.waiting_for_data():
            rows = next(loop.batches)
        if (program := (phase, shapes_of(rows))) not in known:  # images of another size: a program of their own
            watchdog.expect(f"step {step}", PATIENCE)
            known.add(program)
            since = step
        batch = put_batch(rows, loop.sharding)
        state, metrics = train_step(state, batch)
        log.collect(step, metrics)
        in_flight.append(metrics["loss"])
        if len(in_flight) > STEPS_IN_FLIGHT:
            in_flight.popleft().block_until_ready()
        if plan.is_due("log", step):
            log.write_train(step)
        report: dict[str, float] = {}
        for number in plan.evaluations_due(step):
            watchdog.expect(f"the evaluation after step {step}", PATIENCE)
            report |= loop.evaluations[number](state.eval_variables)
        if report:
            log.write_eval(step, report)
        if plan.is_due("save", step):
            save(step, report)
        if step < plan.total and loop.stop.asked():
            if not plan.is_due("save", step):
                save(step, report)
            with forgive_failed_write(forgive):
                checkpoints.wait()
            raise Preempted(f"stopped after step {step} of {plan.total}; run the same command again to continue")
    watchdog.expect("the last checkpoint", PATIENCE)
    checkpoints.wait()
    return state
