"""A tiny network with random parameters and statistics, and a file of its weights that commands can name."""

import jax

import resnet_jax as rn
from resnet_jax.config import Preset
from resnet_jax.models import create_model
from resnet_jax.run.network import Network

from ..weights.networks import random_variables

PRESET = Preset(resize=8, crop=8, mean=(0.305,), std=(0.376,))


def tiny_network(seed=1, preset=PRESET, **options):
    model = create_model("cifar_resnet20", **{"num_classes": 10, "stage_sizes": (1, 1, 1), "width": 4, **options})
    return Network(
        f"tiny {seed}", model, random_variables(model, channels=1, image=(8, 8), seed=seed), preset, "0123456789"
    )


def save_weights(folder, seed=1):
    """Words of a command line that name a network, for tests with the fixture `short_runs`: a file, and how it sees."""
    model = create_model("cifar_resnet8", num_classes=10)
    path = folder / f"tiny{seed}.pth"
    rn.save_weights(path, jax.device_get(random_variables(model, channels=1, image=(8, 8), seed=seed)))
    preset = ["--preset.resize", "8", "--preset.crop", "8", "--preset.mean", "0.305", "--preset.std", "0.376"]
    return [str(path), "--model", "cifar_resnet8", *preset]
