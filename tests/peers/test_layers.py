"""The three networks of Figure 3 of He et al. 2015, layer by layer."""

import pytest

from resnet_jax.cost.count import count_macs, count_parameters
from resnet_jax.models import create_model
from resnet_jax.peers import layers
from resnet_jax.peers.layers import figure3, macs_text, rows_by_side


def test_the_three_networks(torchvision):
    (vgg, plain, residual), problem = figure3()
    assert not problem
    assert (vgg.depth, plain.depth, residual.depth) == (19, 34, 34)
    meta = torchvision.models.VGG19_Weights.IMAGENET1K_V1.meta
    assert sum(layer.weights for layer in vgg.layers) == meta["num_params"]
    assert round(vgg.macs / 1e9, 3) == meta["_ops"]
    assert plain.macs == count_macs(create_model("plain34"))
    assert residual.macs == plain.macs
    # The figure rounds to 19.6 and 3.6.
    for column in (vgg, plain, residual):
        assert round(column.macs / 1e9, 1) == column.published_gmacs
    norms = 2 * sum(int(layer.label.split(", ")[1]) for layer in plain.layers if layer.kind == "conv")
    assert sum(layer.weights for layer in plain.layers) + norms == count_parameters(create_model("plain34"))


def test_the_layers_are_those_of_the_figure(torchvision):
    (vgg, plain, residual), _ = figure3()
    assert [layer.label for layer in plain.layers] == [layer.label for layer in residual.layers]
    labels = ["7x7 conv, 64, /2", "pool, /2"] + 6 * ["3x3 conv, 64"]
    for channels, count in ((128, 8), (256, 12), (512, 6)):
        labels += [f"3x3 conv, {channels}, /2"] + (count - 1) * [f"3x3 conv, {channels}"]
    assert [layer.label for layer in plain.layers] == [*labels, "avg pool", "fc 1000"]
    chain = [2 * ["3x3 conv, 64"], 2 * ["3x3 conv, 128"], 4 * ["3x3 conv, 256"], 4 * ["3x3 conv, 512"]]
    expected = [label for part in (*chain, chain[-1]) for label in (*part, "pool, /2")]
    assert [layer.label for layer in vgg.layers] == [*expected, "fc 4096", "fc 4096", "fc 1000"]
    assert rows_by_side([vgg, plain, residual]) == {224: 2, 112: 3, 56: 7, 28: 8, 14: 12, 7: 6, 1: 3}
    shortcuts = [layer.shortcut for layer in residual.layers if layer.shortcut]
    assert (len(shortcuts), shortcuts.count("changed")) == (16, 3)
    assert not any(layer.shortcut for layer in plain.layers)
    first = [layer.label for layer in residual.layers].index("3x3 conv, 128, /2")
    assert residual.layers[first + 1].shortcut == "changed"
    assert residual.layers[first - 1].shortcut == "same"


def test_without_torch_two_remain(monkeypatch):
    monkeypatch.setattr(layers, "missing", lambda *packages: ["torchvision"])
    columns, problem = figure3()
    assert [column.title for column in columns] == ["34-layer plain", "34-layer residual"]
    assert problem == "VGG-19 is torchvision's, and torchvision cannot be imported"


@pytest.mark.parametrize(("macs", "text"), [(1_849_688_064, "1.85 G"), (57_802_752, "57.8 M"), (512_000, "0.5 M")])
def test_numbers_of_macs(macs, text):
    assert macs_text(macs) == text
