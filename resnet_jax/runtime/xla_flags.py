"""Flags of XLA that make our programs faster, by measurement (docs/performance.md)."""

import os
from importlib.metadata import version
from importlib.util import find_spec

# Eigen computes convolutions and shares them among the cores. The other library, YNNPACK, keeps convolutions with 64
# output channels on one core (all of a ResNet's first stage), and is slower for gradients of kernels on one core too.
# The flag is for CPUs; other platforms ignore it.
FLAGS = {"xla_cpu_experimental_ynn_fusion_type": "-individual_convolution"}

# XLA ends the process at a flag that it does not know. So no flag is set for versions with which nobody has tried it.
KNOWN_TO = ("0.10.",)


def set_xla_flags() -> None:
    """Adds `FLAGS` to the environment, except those that the user has set. Call it before JAX finds its devices.

    The programs call it when they start (`train.py`, `python -m resnet_jax`, `benchmarks/step.py`, tests). Importing
    the package does not call it: the environment belongs to the program.
    """
    tpu = find_spec("libtpu")  # libtpu reads the flags with an XLA of its own, which may not know them
    if tpu or not version("jaxlib").startswith(KNOWN_TO):
        return
    given = os.environ.get("XLA_FLAGS", "")
    ours = [f"--{name}={value}" for name, value in FLAGS.items() if f"--{name}=" not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *ours]).strip()
