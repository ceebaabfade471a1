"""A change of the structure changes no number: six updates are those that were stored, in every bit.

Bits are compared on the kind of CPU on which they were stored: XLA chooses instructions, and with them roundings, by
the processor. Elsewhere the same updates in float64 must agree to 1e-12. A change of numerics on purpose stores them
anew: `python tests/golden/updates.py --store`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from . import updates

STORED = json.loads(updates.STORED.read_text())
SAME_CPU = updates.kind_of_cpu() == STORED["cpu"]
where_bits_differ = pytest.mark.slow if SAME_CPU else lambda test: test
ANOTHER_CPU = "--xla_cpu_max_isa=SSE4_2"


def compute(kind, names=(), flags=""):
    done = subprocess.run(
        [sys.executable, updates.__file__, kind, *names],
        env={**os.environ, "GOLDEN_XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[kind]


def assert_close(found, names=updates.NAMES):
    assert found.keys() == {*names}
    for name, arrays in found.items():
        expected = STORED["float64"][name.split(" on ")[0]]
        assert arrays.keys() == expected.keys(), name
        for array, numbers in arrays.items():
            scale = max(1.0, expected[array][0])
            np.testing.assert_allclose(numbers, expected[array], rtol=0, atol=1e-12 * scale, err_msg=f"{name}: {array}")


where_bits_are_the_same = pytest.mark.skipif(
    not SAME_CPU, reason="the bits were stored on another kind of CPU; float64 is compared instead"
)


@where_bits_are_the_same
def test_the_bits_of_each_setting_are_as_they_were():
    assert compute("bits", updates.SOME) == {name: STORED["bits"][name] for name in updates.SOME}


@where_bits_differ
def test_float64_agrees_with_what_was_stored():
    assert_close(compute("float64", updates.SOME), updates.SOME)


@pytest.mark.slow
@where_bits_are_the_same
def test_every_bit_is_as_it_was():
    assert compute("bits") == STORED["bits"]


@pytest.mark.slow
def test_float64_agrees_with_what_was_stored_on_all_numbers_of_devices():
    assert_close(compute("float64"))


@pytest.mark.slow
@pytest.mark.skipif(updates.platform.machine() != "x86_64", reason="the flag is for x86")
def test_float64_agrees_on_another_kind_of_cpu():
    """Without AVX and FMA, so that sums round otherwise: which is seen in float32."""
    assert compute("bits", flags=ANOTHER_CPU) != STORED["bits"]
    assert_close(compute("float64", flags=ANOTHER_CPU))
