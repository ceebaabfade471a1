"""Classes can be told apart, by colour-blind people too."""

import itertools

import numpy as np
import pytest

from resnet_jax.analysis.colours import CLASS_COLOURS, DIFFERENT, MARKERS, look_of

# What people see who lack one kind of cone, in linear RGB: Machado, Oliveira and Fernandes 2009, table 1, severity 1.
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, sight):
    """CIELAB (D65) of a colour as it is seen."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    seen = np.clip(np.asarray(SIGHT[sight]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(np.maximum(xyz / (0.9505, 1, 1.089), 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_can_be_told_apart(sight):
    """A difference of 2.3 is just seen side by side; of small dots that lie apart, 10 is."""
    seen = {colour: lab(colour, sight) for colour in CLASS_COLOURS}
    apart = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
    assert min(apart.values()) > 10, min(apart, key=apart.get)


def test_every_class_has_a_look_of_its_own_as_long_as_there_are_any():
    looks = [look_of(label) for label in range(1000)]
    assert len(set(looks[:DIFFERENT])) == DIFFERENT == 64
    assert looks[DIFFERENT] == looks[0]
    assert {look.marker for look in looks[:8]} == {"o"}, "colour is enough for eight"
    assert looks[8] == (looks[0].colour, "s")
    assert {look.marker for look in looks} == {*MARKERS}
