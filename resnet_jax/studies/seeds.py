"""Seeds side by side: several runs of one cell, whose steps are computed by one program.

Each run is an ordinary one, in a thread of its own, with its own folder, data, log and checkpoints. Only its step is
another: it waits until the steps of all runs have come, and one of the threads computes all of them with one program,
`vmap` over the runs.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from resnet_jax.run.train import Beside
from resnet_jax.survival.signals import Asked
from resnet_jax.training.step import TrainStep


def together(step: TrainStep) -> Callable[..., tuple[Any, ...]]:
    """A program for the steps of several runs: `(states, batches) -> ((state, metrics), ...)`. It donates `states`."""

    def program(states: Sequence[PyTree], batches: Sequence[PyTree]) -> tuple[Any, ...]:
        state, batch = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (states, batches))
        found = jax.vmap(step)(state, batch)
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(states)))

    return jax.jit(program, donate_argnums=0)


class Meeting:
    """Where the steps of several runs meet.

    A run that ends, or fails, leaves; the others go on without it. Threads take turns: one of them runs until it waits
    for the others. Programs for several devices would wait for each other for ever if two threads gave them to the
    devices in different orders.

    Args:
      members: the runs, by any names.
      stop: whether all are to stop, asked once for each common step: so all stop after the same one.
    """

    def __init__(self, members: Sequence[int], stop: Asked) -> None:
        self._members, self._stop, self._count = set(members), stop, len(members)
        self._arrived: dict[int, tuple[int, TrainStep, Any, Any]] = {}
        self._results: dict[int, Any] = {}
        self._programs: dict[int, Callable[..., Any]] = {}
        self._changed = threading.Condition()
        self._stopping = False

    def asked(self) -> bool:
        return self._stopping

    @contextmanager
    def attended_by(self, member: int) -> Iterator[Beside]:
        """Around all that the thread of a run does. Gives what `train` needs for this run."""

        def meet(phase: int, step: TrainStep) -> TrainStep:
            return cast(TrainStep, partial(self._take, member, phase, step))

        with self._changed:
            try:
                yield Beside(step=meet, stop=self, runs=self._count)
            finally:
                self._members.discard(member)
                self._compute_if_all_are_here()

    def _take(self, member: int, phase: int, step: TrainStep, state: Any, batch: Any) -> Any:
        self._arrived[member] = phase, step, state, batch
        self._compute_if_all_are_here()
        self._changed.wait_for(lambda: member in self._results)  # meanwhile another thread has its turn
        found = self._results.pop(member)
        if isinstance(found, BaseException):
            raise found
        return found

    def _compute_if_all_are_here(self) -> None:
        if not self._arrived or set(self._arrived) != self._members:
            return
        arrived, self._arrived = self._arrived, {}
        # Runs that were killed go on from different steps. For a while they may be in different phases, or see images
        # of different sizes.
        kinds = {
            member: (phase, str(jax.tree.map(jnp.shape, batch))) for member, (phase, _, _, batch) in arrived.items()
        }
        for kind in sorted({*kinds.values()}):
            here = sorted(member for member in arrived if kinds[member] == kind)
            program = self._programs.get(kind[0]) or together(arrived[here[0]][1])
            self._programs[kind[0]] = program
            states, batches = zip(*(arrived[member][2:] for member in here), strict=True)
            try:
                self._results.update(zip(here, program(states, batches), strict=True))
            except BaseException as error:
                self._results.update(dict.fromkeys(here, error))
        self._stopping = self._stop.asked()
        self._changed.notify_all()
