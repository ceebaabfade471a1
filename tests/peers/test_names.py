"""Which network a word names, and what is said where it names none."""

import re
from importlib.util import find_spec

import pytest

from resnet_jax.errors import ConfigError, ModelError, WeightsError
from resnet_jax.peers import names
from resnet_jax.peers.names import Compared, Published, find, torch_has
from resnet_jax.weights.catalog import WEIGHT_SETS

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm's names are looked up")


def one(word):
    ((found,), left_out) = find([word])
    assert not left_out
    return found


@pytest.fixture
def without(monkeypatch):
    """Packages that seem not to be installed."""

    def hide(*absent):
        monkeypatch.setattr(names, "missing", lambda *packages: [name for name in packages if name in absent])

    return hide


@pytest.mark.parametrize(
    ("word", "library", "name", "weights", "size", "accuracy"),
    [
        ("resnet50", "resnet_jax", "resnet50", "IMAGENET1K_V2", 224, (80.858, 95.434, "torchvision")),
        ("resnet50:IMAGENET1K_V1", "resnet_jax", "resnet50", "IMAGENET1K_V1", 224, (76.130, 92.862, "torchvision")),
        ("cifar_resnet20", "resnet_jax", "cifar_resnet20", "", 32, None),
        ("plain34", "resnet_jax", "plain34", "", 224, None),
        ("torchvision:resnet50", "torchvision", "resnet50", "IMAGENET1K_V2", 224, (80.858, 95.434, "torchvision")),
        ("vgg19", "torchvision", "vgg19", "IMAGENET1K_V1", 224, (72.376, 90.876, "torchvision")),
        ("vgg16:IMAGENET1K_FEATURES", "torchvision", "vgg16", "IMAGENET1K_FEATURES", 224, None),
        ("efficientnet_b1", "torchvision", "efficientnet_b1", "IMAGENET1K_V2", 240, (79.838, 94.934, "torchvision")),
        (
            *("vit_b_16:IMAGENET1K_SWAG_E2E_V1", "torchvision", "vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 384),
            (85.304, 97.650, "torchvision"),
        ),
        ("resnet50.a1_in1k", "resnet_jax", "resnet50", "a1_in1k", 224, (80.382, 94.598, "timm")),
        ("timm:resnet50.a1_in1k", "timm", "resnet50.a1_in1k", "a1_in1k", 224, (80.382, 94.598, "timm")),
        ("timm:vgg19", "timm", "vgg19.tv_in1k", "tv_in1k", 224, (72.400, 90.878, "timm")),
        ("dm_nfnet_f0", "timm", "dm_nfnet_f0.dm_in1k", "dm_in1k", 192, (81.436, 95.672, "timm")),
        ("resnet101d.ra2_in1k", "resnet_jax", "resnet101d", "ra2_in1k", 256, (82.254, 96.070, "timm")),
    ],
)
def test_words(torchvision, word, library, name, weights, size, accuracy):
    published = accuracy and Published(*accuracy)
    assert one(word) == Compared(word, library, name, weights, size, published)


def test_accuracy_of_our_networks_is_torchvisions(torchvision):
    for weights in (weights for weights in WEIGHT_SETS if weights.classes == "imagenet"):
        ours = one(f"{weights.model}:{weights.name}")
        theirs = one(f"torchvision:{weights.model}:{weights.name}")
        assert (ours.published, ours.image_size) == (theirs.published, theirs.image_size)


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (["vgg_19"], ModelError, "unknown network 'vgg_19'. Did you mean 'vgg19'"),
        (["torchvision:vgg_19"], ModelError, "unknown network 'vgg_19'. Did you mean 'vgg19'"),
        (["timm:no_such_thing_at_all_q"], ModelError, "unknown network 'no_such_thing_at_all_q'. "),
        (["convnext_tiny.fb_in2k"], ModelError, " or 'convnext_tiny.fb_in1k' or "),
        (["fcn_resnet50"], ModelError, "fcn_resnet50 is no network that names the class of an image, and only such"),
        (["vgg19:IMAGENET1K_V2"], WeightsError, "unknown weight set of vgg19 'IMAGENET1K_V2'. Did you mean "),
        (["resnet50:IMAGENET1K_V3"], WeightsError, "unknown weight set of resnet50 'IMAGENET1K_V3'. Did you mean "),
        (["plain34:IMAGENET1K_V1"], WeightsError, "no published weights of plain34 are known here; write plain34"),
        (
            ["resnet50", "resnet50:IMAGENET1K_V2"],
            ConfigError,
            "resnet50 and resnet50:IMAGENET1K_V2 are the same network with the same weights; name it once",
        ),
    ],
)
def test_mistakes(torchvision, words, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        find(words)


def test_a_peer_that_is_not_installed_is_left_out(without, torchvision):
    without("timm")
    found, left_out = find(["resnet18", "vgg19", "dm_nfnet_f0"])
    assert [network.name for network in found] == ["resnet18", "vgg19"]
    text = "dm_nfnet_f0 is no network of this package, and timm is not installed; pip install timm"
    assert left_out == {"dm_nfnet_f0": text}
    assert [torch_has(network) for network in found] == [True, True]
    assert not torch_has(one("plain34"))


def test_without_torch_our_networks_remain(without):
    without("torch", "torchvision")
    found, left_out = find(["resnet18", "vgg19", "timm:dm_nfnet_f0"])
    assert [network.name for network in found] == ["resnet18"]
    assert found[0].published == Published(69.758, 89.078, "torchvision")
    assert left_out["vgg19"].endswith("torch and torchvision are not installed; pip install torch torchvision")
    assert left_out["timm:dm_nfnet_f0"].endswith(
        "torch and torchvision are not installed; pip install torch torchvision"
    )
    assert not torch_has(found[0])
    with pytest.raises(ConfigError, match="nothing is left to compare: vgg19: vgg19 is no network of this package"):
        find(["vgg19"])
