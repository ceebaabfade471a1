"""Channels removed from a trained network for real: a smaller network that trains on like any other."""

from resnet_jax.compress.prune.choice import Scope, Which
from resnet_jax.compress.prune.cut import Pruned, prune
from resnet_jax.compress.prune.scores import By

__all__ = ["By", "Pruned", "Scope", "Which", "prune"]
