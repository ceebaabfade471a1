"""The first steps of a run that trains for integers: those that calibration finds."""

from dataclasses import replace

import jax
import numpy as np

from resnet_jax.compress.fold import Folded
from resnet_jax.compress.quantize import FakeQuantized, calibrate
from resnet_jax.compress.quantize.trained import apart, with_grids
from resnet_jax.config import Config
from resnet_jax.run.calibrate import calibration
from resnet_jax.run.network import Network
from resnet_jax.run.start import Beginning
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks.assemble import build_model
from resnet_jax.training.state import TrainState


def calibrated(begun: Beginning, config: Config, state: TrainState) -> Beginning:
    """The beginning with steps for its tensors and kernels, as `config.quantize` says.

    Args:
      state: before the first update, for what `begun` does not have.

    Raises:
      ConfigError: `keep_float` names a layer that there is not.
      DataError: the images cannot be read, are too few, or make numbers that are not finite.
    """
    model = build_model(config)
    assert isinstance(model, FakeQuantized)
    # On the host: each process calibrates with all images.
    own, _ = apart(jax.device_get(begun.begin(state).variables))
    network = Network(config.model.name, model, own, config.data.preset, ())
    options = config.quantize
    seen = calibration(network, config.data, options, count=options.images, batch_size=config.eval_batch_size)
    scales = calibrate(Folded(model.network, own, 0, 0), seen.batches(), options)
    grids = by_name(with_grids({"params": {}}, dict(scales.tensors), dict(scales.kernels)))
    return replace(begun, made={name: np.asarray(array) for name, array in grids.items()})
