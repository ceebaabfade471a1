"""From a trained network to a smaller or faster one that gives the same answers."""

from resnet_jax.compress.fold import Folded, fold
from resnet_jax.compress.prune import Pruned, prune

__all__ = ["Folded", "Pruned", "fold", "prune"]
