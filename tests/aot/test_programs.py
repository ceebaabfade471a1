"""The training step of `train.py`, compiled for TPUs and GPUs that are not there: that it compiles, what its devices
exchange, that 16 bits stay 16 bits, and that it moves no more memory than before."""

import math

import pytest

from resnet_jax import Config, DataConfig, ModelConfig
from resnet_jax.cost.aot import compile_ahead
from resnet_jax.cost.targets import parse_target

# Those first that broke before, and that others are like.
NETWORKS = (
    "resnet50",
    "resnet18",
    "cifar_resnet20",
    "resnext50_32x4d",
    "seresnet50",
    "resnet50_gn",
    "resnetblur50",
    "resnetv2_50",
    "resnet50d",
    "wide_resnet50_2",
    "resnet152",
)
TARGETS = ("h100:1", "v5e:1", "h100:8", "v5e:4x4")
DTYPES = {"bfloat16": 128, "float16": 128, "float32": 32}  # and the images of a device

CASES = [
    pytest.param(name, dtype, target, id=f"{name}-{dtype}-{target}")
    for dtype in DTYPES
    for target in TARGETS
    for name in NETWORKS
]


def config_of(name, dtype, images, devices):
    side = 32 if name.startswith("cifar") else 224
    return Config(
        model=ModelConfig(name=name, dtype=dtype, bn_group_size=32),
        data=DataConfig(name="tfds:imagenet2012", image_size=side, eval_resize=side),
        batch_size=images * devices,
    )


def check(name, dtype, images, target, python, traffic):
    devices = parse_target(target).devices
    config = config_of(name, dtype, images, devices)
    program = compile_ahead(target, "resnet_jax.cost.programs:train_step", config, python=python)
    assert program.fits
    # Gradients, statistics and metrics in one exchange.
    assert len(program.collectives) == (1 if devices > 1 else 0)
    assert all(collective.kind == "all-reduce" for collective in program.collectives)
    if dtype != "float32":
        assert not wide_arrays(program, config.data.image_size, images)
    traffic(f"{name} {dtype} {images} {target}", program.hbm_bytes)
    return program


def wide_arrays(program, side, images):
    """Kernels that write float32 arrays as large as the activations of the second stage, but for the images themselves,
    which the augmentation computes so."""
    smallest = images * (28 * 28 * 128 if side == 224 else 16 * 16 * 32)
    return [
        (kernel.name, kernel.source, shape)
        for kernel in program.kernels
        for shape in kernel.results
        if shape.dtype == "f32" and smallest <= math.prod(shape.sides) != images * side * side * 3
    ]


@pytest.mark.aot
@pytest.mark.parametrize(("name", "dtype", "target"), CASES)
def test_a_step(name, dtype, target, python_for, traffic):
    check(name, dtype, DTYPES[dtype], target, python_for("tpu" if target.startswith("v") else "gpu"), traffic)


@pytest.mark.parametrize("target", ["h100:8", "v5e:1"])
def test_a_short_step(target, python_for, traffic):
    """What `make test` has of these, where the environments lie."""
    check("resnet18", "bfloat16", 32, target, python_for("tpu" if target.startswith("v") else "gpu"), traffic)
