"""A network for embeddings that starts from weights: of its trunk alone, or of its own kind."""

import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import Config, DataConfig, Embed, ModelConfig
from resnet_jax.config import Start
from resnet_jax.run.start import load_beginning
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import save_weights

from .weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("short_runs")
NAMES = ("00", "01", "02")


def begin(weights, loss="margin"):
    config = Config(
        model=ModelConfig(name="embed_cifar_resnet8", num_classes=len(NAMES)),
        data=DataConfig(name="digit_numbers", image_size=32, eval_resize=32),
        task=Embed(loss=loss, embedding_size=8, margins=(1.0, 0.2, 0.0), scale=16.0),
        start=Start(weights=str(weights)),
    )
    return load_beginning(config, task_of(config), NAMES)


def write(path, name, **options):
    variables = random_variables(rn.create_model(name, **options), channels=3)
    save_weights(path, variables)
    return by_name(variables)


def test_the_trunk_comes_from_weights_for_classification(tmp_path):
    written = write(tmp_path / "a.safetensors", "cifar_resnet8", num_classes=10)
    begun = begin(tmp_path / "a.safetensors")
    expected = {name.replace("/", "/trunk/", 1): x for name, x in written.items() if "/fc/" not in name}
    assert begun.arrays.keys() == expected.keys()
    for name, array in begun.arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    assert begun.new
    assert not any("trunk" in name for name in begun.new)
    assert any("whose backbone is taken" in remark for remark in begun.remarks)


def test_the_whole_network_comes_from_weights_of_its_own_kind(tmp_path):
    """All but the centres, which files of networks do not have."""
    written = write(tmp_path / "a.safetensors", "embed_cifar_resnet8", embedding_size=8)
    begun = begin(tmp_path / "a.safetensors")
    assert begun.arrays.keys() == written.keys()
    for name, array in begun.arrays.items():
        np.testing.assert_array_equal(array, written[name])
    assert {name.split("/")[1] for name in begun.new} == {"centres"}


def test_adaface_begins_its_own_statistics(tmp_path):
    written = write(tmp_path / "a.safetensors", "embed_cifar_resnet8", embedding_size=8)
    begun = begin(tmp_path / "a.safetensors", loss="adaface")
    assert begun.arrays.keys() == written.keys()
    assert {"/".join(name.split("/")[:2]) for name in begun.new} == {"params/centres", "batch_stats/norms"}
