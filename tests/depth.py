"""Which networks `make test` traces: deep ones have the layers of shallow ones again and again."""

import pytest

from resnet_jax.models import create_model

BLOCKS = 16  # of a ResNet-50


def deep_is_slow(names):
    """Names of networks as parameters of a test. Those with more blocks are for `make test-slow`."""
    deep = lambda name: sum(create_model(name).stage_sizes) > BLOCKS
    return [pytest.param(name, marks=pytest.mark.slow) if deep(name) else name for name in names]
