"""The networks, as pure functions of `(variables, images)`. Needs jax and flax only."""

from resnet_jax.models.create import create_model, init, list_models
from resnet_jax.models.layers import BatchNorm, Conv
from resnet_jax.models.resnet import ResNet

__all__ = ["BatchNorm", "Conv", "ResNet", "create_model", "init", "list_models"]
