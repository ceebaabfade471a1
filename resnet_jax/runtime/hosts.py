"""The processes of one run: how they find each other, and check that they are about to do the same."""

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from resnet_jax.config.checked import AtLeastOne, Checked, NotNegative
from resnet_jax.errors import EXIT_CRASHED, ConfigError

VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclass(frozen=True, kw_only=True)
class Hosts(Checked):
    """How the processes of a run find each other."""

    distributed: bool = False
    """Join the other processes of a TPU pod slice, of a Slurm or Open MPI job, or of GKE. JAX finds these by itself."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where JAX cannot find the others by itself. Then also pass `processes` and `process`."""
    processes: Annotated[int, NotNegative] = 0
    process: Annotated[int, NotNegative] = 0
    """The number of this process, from 0."""
    join_seconds: Annotated[int, AtLeastOne] = 300
    """How long to wait for the others at the start."""
    lost_after_seconds: Annotated[int, AtLeastOne] = 100
    """A process that is silent for this long counts as lost, and the others stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coordinator is None and (self.processes or self.process):
            raise ConfigError(
                f"processes = {self.processes} and process = {self.process} go with a coordinator; "
                "add --coordinator HOST:PORT, the address of process 0"
            )
        if self.coordinator is not None and not self.process < self.processes:
            raise ConfigError(
                f"process = {self.process} must be less than processes = {self.processes}: processes are numbered "
                "from 0, and all of them need the same --coordinator and --processes"
            )
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdecimal():
            raise ConfigError(f"coordinator = {self.coordinator!r} must be HOST:PORT, such as 10.0.0.1:8476")


def join(hosts: Hosts) -> None:
    """Joins the other processes of the run, if there are to be any. Call it before anything else of JAX.

    If they do not all come together in time, it ends this process with a message that names the coordinator.

    Raises:
      ConfigError: JAX finds no other processes by itself.
    """
    if not (hosts.distributed or hosts.coordinator):
        return
    import jax

    if hosts.coordinator:  # JAX may end the process if the coordinator refuses it: then this line says what was tried
        print(
            f"Joining {hosts.coordinator} as process {hosts.process} of {hosts.processes}", file=sys.stderr, flush=True
        )
    with _end_after(hosts):
        try:
            jax.distributed.initialize(
                coordinator_address=hosts.coordinator,
                num_processes=hosts.processes or None,
                process_id=hosts.process if hosts.coordinator else None,
                # Later than our own timer: JAX would abort without saying for whom it waited.
                initialization_timeout=hosts.join_seconds + 60,
                heartbeat_timeout_seconds=hosts.lost_after_seconds,
            )
        except ValueError as error:
            raise ConfigError(
                f"--distributed found no other processes: {error} JAX looks for those of a TPU pod slice, of Slurm, "
                "Open MPI or GKE; elsewhere pass --coordinator HOST:PORT --processes N --process I"
            ) from error
        jax.devices()  # waits for the devices of all


def check_same_everywhere(facts: Mapping[str, str]) -> None:
    """Refuses to begin where a process has other `facts` than process 0. All processes must call it together.

    Raises:
      ConfigError: in every process; says which facts differ, and in which processes.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    own = np.array([np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in facts.values()])
    everywhere = np.asarray(multihost_utils.process_allgather(own))  # (processes, facts, 32)
    other = (everywhere != everywhere[0]).any(axis=2)
    lines = [
        f"{name}: process {', '.join(map(str, np.flatnonzero(differs)))}"
        for name, differs in zip(facts, other.T, strict=True)
        if differs.any()
    ]
    if lines:
        raise ConfigError(
            "the processes of this run do not agree, and nothing was begun. Other than in process 0 are:\n  "
            + "\n  ".join(lines)
            + f"\nStart the same command, with the same files, on every host. Here (process {jax.process_index()}): "
            + ", ".join(f"{name} {text if len(text) < 60 else _short(text)}" for name, text in facts.items())
        )


def describe_code() -> dict[str, str]:
    """The code that runs here: the text of this package, and the versions of the packages that it uses."""
    package = Path(__file__).parents[1]
    texts = [f"{path.relative_to(package)}\n{path.read_text()}" for path in sorted(package.rglob("*.py"))]
    return {"code": "\n".join(texts), "versions": " ".join(f"{name}={version(name)}" for name in VERSIONS)}


def explain_lost_process(error: Exception) -> None:
    """Ends this process where `error` says that another process of the run is gone. Otherwise it does nothing.

    An ordinary exit would first wait minutes for the process that is gone.
    """
    import jax

    if not (isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1):
        return
    print(
        f"\nerror: process {jax.process_index()} of {jax.process_count()} has lost another process of this run, or the "
        "connection to it. What was saved is whole: start the same command on every host to go on from it. See the "
        "output of the others for the cause",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_CRASHED)


@contextlib.contextmanager
def _end_after(hosts: Hosts) -> Iterator[None]:
    """Ends the process where the body takes longer than `join_seconds`. The body cannot be interrupted from within."""

    def end() -> None:
        from jax._src import distributed  # the only place that knows what JAX found by itself

        state = distributed.global_state
        where = hosts.coordinator or state.coordinator_address
        known = f"process {state.process_id} of {state.num_processes or hosts.processes}"
        print(
            f"\nerror: {known} has waited {hosts.join_seconds} s for the others at the coordinator {where}, and gives "
            "up. See that process 0 runs at that address and can be reached, that every process was started, and that "
            "all have the same number of processes. Slow hosts: raise --join-seconds",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_CRASHED)

    timer = threading.Timer(hosts.join_seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
