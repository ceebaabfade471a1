"""Every network and every option of training lowers for TPUs and for NVIDIA GPUs.

Nothing is compiled: JAX alone does it, and needs neither device nor compiler.
"""

import jax
import pytest

from resnet_jax import Classify, Config, DataConfig, ModelConfig, OptimConfig
from resnet_jax.config import AugmentConfig
from resnet_jax.models import list_models
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.assemble import assemble, build_model
from resnet_jax.tasks.classify.task import classify

PLATFORMS = ("tpu", "cuda")
DEVICES = 4

# The group of fields and what it is given.
OPTIONS = {
    "float32": {"model": {"dtype": "float32"}},
    "tf32": {"model": {"dtype": "tf32"}},
    "float16": {"model": {"dtype": "float16"}},
    "statistics over the whole batch": {"model": {"bn_group_size": 0}},
    "stochastic depth": {"model": {"stochastic_depth": 0.1}},
    "remat": {"model": {"remat": (1, 2)}},
    "accumulate": {"config": {"accumulate": 2}},
    "skip": {"config": {"on_non_finite": "skip"}},
    "shard_state": {"optim": {"shard_state": True}},
    "ema": {"optim": {"ema_decay": 0.9999}},
    "lars": {"optim": {"optimizer": "lars"}},
    "lamb": {"optim": {"optimizer": "lamb"}},
    "muon": {"optim": {"optimizer": "muon"}},
    "clip": {"optim": {"clip_norm": 1.0}},
    "label smoothing, nesterov": {"task": {"label_smoothing": 0.1}, "optim": {"nesterov": True}},
    "mixup": {"augment": {"mixup_alpha": 0.2}},
    "mixup and cutmix in groups": {"augment": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "mix_group_size": 4}},
    "mixup across devices": {"augment": {"mixup_alpha": 0.2, "mix_group_size": 0}},
    "colour": {"augment": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "lighting": 0.1}},
    "erase": {"augment": {"erase_probability": 0.25, "erase_with": "noise"}},
    "shift": {"augment": {"shift_pixels": 4}},
    "float16 with most of them": {
        "model": {"dtype": "float16"},
        "optim": {"ema_decay": 0.999, "shard_state": True},
        "config": {"accumulate": 2},
    },
}

# Of networks that differ in depth alone, one. What is left out takes minutes to trace, of parts that others have.
DEEPER = ("1202", "1001", "164", "110", "56", "44", "32")
FAMILIES = [name for name in list_models(task="classify") if not name.removesuffix("_centred").endswith(DEEPER)]


def lower(name, options, side):
    """Of `train.py`'s step, the modules for all `PLATFORMS`."""
    # A branch that is zero would end a network without shortcuts.
    model = {"name": name, "dtype": "bfloat16", "bn_group_size": 4, "zero_init_residual": "plain" not in name}
    config = Config(
        model=ModelConfig(**(model | options.get("model", {}))),
        data=DataConfig(
            name="tfds:imagenet2012",
            image_size=side,
            eval_resize=side,
            augment=AugmentConfig(**options.get("augment", {})),
        ),
        task=Classify(**options.get("task", {})),
        optim=OptimConfig(**options.get("optim", {})),
        batch_size=8 * DEVICES,
        **options.get("config", {}),
    )
    task = classify(config, build_model(config))
    training = assemble(config, task, make_mesh(jax.devices()[:DEVICES]), num_images=1_281_167)
    state = training.init_state.eval_shape(jax.random.key(0))
    traced = training.train_step.trace(state, training.batch)
    return [traced.lower(lowering_platforms=(platform,)).as_text() for platform in PLATFORMS]


@pytest.mark.aot
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option):
    for module in lower("resnet18", OPTIONS[option], 64):
        assert "stablehlo.convolution" in module


@pytest.mark.aot
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    for module in lower(name, {}, 32 if name.startswith("cifar") else 64):
        assert "stablehlo.convolution" in module


def test_a_small_network():
    """What `make test` has of these."""
    for module in lower("cifar_resnet20", {}, 32):
        assert "stablehlo.convolution" in module
