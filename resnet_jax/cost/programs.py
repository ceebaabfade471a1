"""The programs of this package, lowered for devices that need not exist. `aot.compile_ahead` compiles them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from resnet_jax.config import Config
from resnet_jax.models import variable_shapes
from resnet_jax.runtime.mesh import make_mesh, replicated, split_batch
from resnet_jax.tasks.assemble import assemble, build_model
from resnet_jax.tasks.table import task_of

IMAGES = 1_281_167  # in the training set: the schedule needs a number, and the program hardly depends on it


def train_step(devices: Sequence[jax.Device], config: Config) -> jax.stages.Lowered:
    """The step that `train.py` runs, with its augmentation on the device and its optimizer.

    Raises:
      ConfigError: the devices cannot share the batch.
    """
    return assemble(config, task_of(config), make_mesh(devices), num_images=IMAGES).lower_step()


def inference(devices: Sequence[jax.Device], config: Config) -> jax.stages.Lowered:
    """The forward pass with running statistics, of `config.eval_batch_size` normalised float32 images, to logits."""
    mesh, model, data = make_mesh(devices), build_model(config), config.data
    side = data.image_size
    batch = (config.eval_batch_size, side, side, data.channels)
    images = jax.ShapeDtypeStruct(batch, jnp.float32, sharding=split_batch(mesh))
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        variable_shapes(model, channels=data.channels),
    )

    def forward(variables: dict, images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    return jax.jit(forward).lower(variables, images)
