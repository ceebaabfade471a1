"""Flags of XLA that make our programs faster, by measurement (docs/performance.md)."""

import os
from importlib.metadata import version
from importlib.util import find_spec

# Convolutions by Eigen, which shares them among the cores: the other library, YNNPACK, keeps those with 64 output
# channels, all of a ResNet's first stage, on one core, and its gradients of kernels are slower on one core too.
# CPUs only; other platforms do not look at it.
FLAGS = {"xla_cpu_experimental_ynn_fusion_type": "-individual_convolution"}

# XLA ends the process at a flag that it does not know, so none is set for versions in which nobody has tried it.
KNOWN_TO = ("0.10.",)


def set_xla_flags() -> None:
    """Adds `FLAGS` to the environment, but for those that the user has set. Call it before JAX finds its devices.

    What starts a process does this (`train.py`, `python -m resnet_jax`, `benchmarks/step.py`, tests). Importing the
    package does not: the environment belongs to the program.
    """
    tpu = find_spec("libtpu")  # it reads the flags with an XLA of its own
    if tpu or not version("jaxlib").startswith(KNOWN_TO):
        return
    given = os.environ.get("XLA_FLAGS", "")
    ours = [f"--{name}={value}" for name, value in FLAGS.items() if f"--{name}=" not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *ours]).strip()
