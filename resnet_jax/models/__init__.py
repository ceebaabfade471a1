"""The networks, as pure functions of `(variables, images)`. Needs jax and flax only."""

from resnet_jax.models.blocks import Block, Parts
from resnet_jax.models.create import create_model, init, list_models, variable_shapes
from resnet_jax.models.layers import Conv
from resnet_jax.models.norms import BatchNorm
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stems import Stem, space_to_depth_kernel

__all__ = [
    "BatchNorm",
    "Block",
    "Conv",
    "Parts",
    "ResNet",
    "Stem",
    "create_model",
    "init",
    "list_models",
    "space_to_depth_kernel",
    "variable_shapes",
]
