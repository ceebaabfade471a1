"""Devices that one does not have, by name: what exists, and what is said of the rest."""

import re

import pytest

from resnet_jax.cost.gpu_target import target_config
from resnet_jax.cost.targets import CHIPS, parse_target
from resnet_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "devices", "shape"),
    [
        ("v5e:1", 1, ()),
        ("v5e:1x1", 1, ()),
        ("v5e:16x16", 256, (16, 16)),
        ("V6E:4x8", 32, (4, 8)),
        ("v5e:8", 8, (2, 4)),
        ("v4:2x2x1", 4, (2, 2, 1)),
        ("v4:4x4x12", 192, (4, 4, 12)),
        ("v5p:16x16x24", 6144, (16, 16, 24)),
        ("v5p:256", 256, (4, 8, 8)),
        ("h100:1", 1, ()),
        ("h100:8", 8, ()),
        ("h100:64", 64, ()),
        ("a100:3", 3, ()),
    ],
)
def test_targets(text, devices, shape):
    target = parse_target(text)
    assert (target.devices, target.shape) == (devices, shape)
    assert target.name == text.lower()


FLAT = "possible are 1 (one chip), 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"
CUBIC = "4x4x8, 4x8x8, 8x8x8, 8x8x16, 8x16x16, and sides that are multiples of 4, the smallest first, up to {} chips"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5:4x4", "unknown target 'v5'. Did you mean 'v5p' or 'v5e'?"),
        ("h200:8", "unknown target 'h200'. Did you mean 'h100'?"),
        ("tpu:8", "unknown target 'tpu'. Known: a100, h100, v4, v5e, v5p, v6e."),
        ("-8", "unknown target '-8'. Known: a100, h100, v4, v5e, v5p, v6e."),
        ("v5e", "target 'v5e' does not say how many devices; write v5e:1 or v5e:4x4"),
        ("v4:", "target 'v4:' does not say how many devices; write v4:1 or v4:2x2x4"),
        ("h100:0", "target 'h100:0' does not say how many devices; write h100:1, h100:8 or h100:64"),
        ("v5e:3x4", "there is no v5e slice of 3x4; " + FLAT),
        ("v5e:4x2", "there is no v5e slice of 4x2; " + FLAT),
        ("v6e:32x32", "there is no v6e slice of 32x32; " + FLAT),
        ("v5e:12", "there is no v5e slice of 12; " + FLAT),
        ("v4:4x4", "there is no v4 slice of 4x4; possible are 1 (one chip), 2x2x1"),
        ("v4:4x4x6", CUBIC.format(4096)),
        ("v5p:16x16x28", CUBIC.format(6144)),
        (
            "h100:12",
            "h100:12 is not a number of whole hosts: 1 to 8 GPUs are on one host, and more must be a multiple of 8; "
            "the nearest: 8 or 16",
        ),
        ("a100:2x8", "a100:2x8 is a shape, and GPUs are only counted; write a100:16"),
    ],
)
def test_what_is_said_of_others(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_target(text)


def test_every_chip_has_its_figures():
    for name, chip in CHIPS.items():
        assert chip.peak.bytes > 0, name
        assert chip.link > 0
        if not chip.is_tpu:
            text = target_config(chip)
            assert f'name: "{chip.kind}"' in text
            assert f"memory_bandwidth: {chip.peak.bytes:.0f}" in text
    assert CHIPS["v5p"].peak.bytes > 2 * CHIPS["v5e"].peak.bytes, "'TPU v5' must not be taken for 'TPU v5 lite'"
