import pytest

from resnet_jax.models import create_model

from .networks import random_state_dict


@pytest.fixture(scope="module")
def resnet18(torchvision):
    return random_state_dict(torchvision.models.resnet18(num_classes=7))


@pytest.fixture(scope="module")
def model():
    return create_model("resnet18", num_classes=7)
