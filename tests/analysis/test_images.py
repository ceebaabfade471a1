"""The images that pictures show are those that the network sees."""

import numpy as np

from resnet_jax.analysis.images import images_of
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import eval_batches, load_source
from resnet_jax.data.fills import EvalImage


def test_images_are_those_of_an_evaluation():
    source, preset = load_source(DataConfig(name="digits"), "test"), Preset(resize=11, crop=9, mean=(0.3,), std=(0.4,))
    (batch,) = eval_batches(source, DataConfig(name="digits"), batch_size=360, fill=EvalImage(preset))
    places = [359, 0, 17, 17]
    found = images_of(source, preset, places)
    assert found.shape == (4, 9, 9, 1)
    np.testing.assert_array_equal(found, np.asarray(batch["image"])[places])
    assert images_of(source, preset, np.array([], int)).shape == (0, 9, 9, 1)
