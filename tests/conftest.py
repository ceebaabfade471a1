"""Strict settings for every test: 8 virtual CPU devices, no silent rank promotion, torchvision importable."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def torchvision():
    """The oracle. Its compiled operators may not fit the build of torch; its Python part is enough."""
    pytest.importorskip("torch")
    from resnet_jax.parity import import_torchvision

    return import_torchvision()
