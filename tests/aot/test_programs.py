"""The training step of `train.py`, compiled for TPUs and GPUs that are not there: that it compiles, what its devices
exchange, that 16 bits stay 16 bits, and that it moves no more memory than before."""

import math

import pytest

from resnet_jax import Config, DataConfig, Detect, ModelConfig, Segment
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
SEGMENTERS = ("fcn_resnet50", "deeplabv3_resnet50", "unet_resnet50")
DETECTOR = "maskrcnn_resnet50_fpn"
SCENES, SCENE, CLASSES = 8, 512, 21  # images of a device, their side, and what their pixels are


def config_of(name, dtype, images, devices):
    if name in SEGMENTERS:
        return Config(
            model=ModelConfig(name=name, dtype=dtype, num_classes=CLASSES),
            data=DataConfig(name="voc:VOC2012", image_size=SCENE, eval_resize=SCENE),
            task=Segment(),
            batch_size=images * devices,
        )
    side = 32 if name.startswith("cifar") else 224
    return Config(
        model=ModelConfig(name=name, dtype=dtype, bn_group_size=32),
        data=DataConfig(name="tfds:imagenet2012", image_size=side, eval_resize=side),
        batch_size=images * devices,
    )


def check(name, dtype, images, target, python, ratchet):
    devices = parse_target(target).devices
    config = config_of(name, dtype, images, devices)
    program = compile_ahead(target, "resnet_jax.cost.programs:train_step", config, python=python)
    assert program.fits
    # Gradients, statistics and metrics in one exchange, which XLA splits by bytes where parameters are many.
    assert all(collective.kind == "all-reduce" for collective in program.collectives)
    pieces = [collective for collective in program.collectives if collective.bytes < A_PIECE]
    assert len(pieces) <= FEW_PIECES, pieces
    assert bool(program.collectives) == (devices > 1)
    assert not program.target.chip.is_tpu or len(program.collectives) <= MANY
    wide = wide_arrays(program, config.data.image_size, images) if dtype != "float32" else []
    wide_bytes = sum(shape.bytes for *_, shape in wide)
    assert name in WIDE or wide_bytes <= (0 if program.target.chip.is_tpu else FEW * program.hbm_bytes), wide
    figures = {
        "bytes": program.hbm_bytes,
        "float32 bytes": wide_bytes,
        "collectives": len(program.collectives),
    }
    ratchet(f"{name} {dtype} {images} {target}", figures)


# Smaller exchanges, bytes, and how many of them there may be. A network has 20 to 160 norms, and would have as many
# where one was exchanged by itself. XLA for GPUs cuts ResNet-50's 102 MB into 11 pieces.
A_PIECE, FEW_PIECES = 1_000_000, 2
MANY = 8  # exchanges of a TPU, small or large
# Networks with more float32 arrays as large as activations: for TPUs XLA stores what GroupNorm of flax computes in
# float32, and for both what grouped convolutions put out.
WIDE = ("resnet50_gn", "resnext50_32x4d", "wide_resnet50_2")
# XLA for GPUs transposes what some convolutions put out, in float32, to sum it up for groups of 32 images: 0.3 % of
# what a step of ResNet-50 moves, and 2.9 % of wide_resnet50_2's, which is among WIDE therefore.
FEW = 0.01


def wide_arrays(program, side, images):
    """Float32 arrays in the device's memory as large as the activations of the second stage, `(kernel, source, shape)`.
    Not meant are the images themselves, since the augmentation computes in float32, and gradients packed into a vector
    to be exchanged. Nor are logits of each pixel, which are float32 everywhere (nothing else has a multiple of 21
    numbers), and kernels as large as activations."""
    smallest = images * {32: 16 * 16 * 32, 224: 28 * 28 * 128, SCENE: 64 * 64 * 128}[side]
    on_chip = program.target.chip.is_tpu
    return [
        (kernel.name, kernel.source, shape)
        for kernel in program.kernels
        for shape in kernel.results
        if shape.dtype == "f32" and len(shape.sides) > 1 and not (on_chip and shape.space)
        if smallest <= math.prod(shape.sides) != images * side * side * 3
        if side != SCENE or (math.prod(shape.sides) % CLASSES and shape.sides[:2] != (3, 3))
    ]


@pytest.mark.aot
@pytest.mark.parametrize(("name", "dtype", "target"), CASES)
def test_a_step(name, dtype, target, python_for, ratchet):
    check(name, dtype, DTYPES[dtype], target, python_for("tpu" if target.startswith("v") else "gpu"), ratchet)


@pytest.mark.aot
@pytest.mark.parametrize("target", ["v5e:1", "h100:1"])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_step_of_segmentation(name, target, python_for, ratchet):
    """The whole batch has common statistics, as in the recipes."""
    check(name, "bfloat16", SCENES, target, python_for("tpu" if target.startswith("v") else "gpu"), ratchet)


@pytest.mark.aot
@pytest.mark.parametrize("target", ["v5e:1", "h100:1"])
def test_a_step_of_detection(target, python_for, ratchet):
    """Of the largest canvas, as in the recipes. It takes no more memory than before either."""
    config = Config(
        model=ModelConfig(name=DETECTOR, dtype="bfloat16", num_classes=91),
        data=DataConfig(name="coco:coco"),
        task=Detect(),
        batch_size=2,
    )
    python = python_for("tpu" if target.startswith("v") else "gpu")
    program = compile_ahead(target, "resnet_jax.cost.programs:train_step", config, python=python)
    assert program.fits
    ratchet(f"{DETECTOR} bfloat16 2 {target}", {"bytes": program.hbm_bytes, "peak bytes": program.peak_bytes})


@pytest.mark.parametrize("target", ["h100:8", "v5e:1"])
def test_a_short_step(target, python_for, ratchet):
    """What `make test` has of these, where the environments lie."""
    check("resnet18", "bfloat16", 32, target, python_for("tpu" if target.startswith("v") else "gpu"), ratchet)
