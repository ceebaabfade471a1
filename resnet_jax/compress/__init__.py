"""From a trained network to a smaller or faster one that gives the same answers."""

from resnet_jax.compress.fold import Folded, fold

__all__ = ["Folded", "fold"]
