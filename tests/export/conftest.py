"""Networks to export: random weights and statistics, odd sizes."""

import numpy as np
import pytest

from resnet_jax.config import Preset
from resnet_jax.export.job import Job
from resnet_jax.models import create_model
from resnet_jax.models.embed.table import is_embedder
from resnet_jax.run.network import Network

from ..weights.networks import calm, random_variables

PRESET = Preset(resize=40, crop=33, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def network_of(name, **options):
    model = create_model(name, **({} if is_embedder(name) else {"num_classes": 7}), **options)
    sides = getattr(model, "sides", (64, 64))
    return Network(f"{name} for tests", model, calm(random_variables(model, image=sides)), PRESET, tuple("abcdefg"))


def outputs_of(job, images):
    """What the network itself says of scaled images (N, H, W, C)."""
    given = job.network.model.apply(job.network.variables, images, train=False)
    return np.asarray(given["out"] if isinstance(given, dict) else given)


def images_of(job, count=3, seed=0):
    """Bytes, and the same as the network wants them, in float64 by hand."""
    pixels = np.random.default_rng(seed).integers(0, 256, job.shape(count)).astype(np.uint8)
    scaled = (pixels / 255 - np.array(job.preset.mean)) / np.array(job.preset.std)
    return pixels, scaled.astype(np.float32)


@pytest.fixture(scope="session")
def tiny():
    """A network that compiles within a second."""
    return network_of("cifar_resnet20", stage_sizes=(1, 1))


def job_of(network, **options):
    return Job(network, **options)
