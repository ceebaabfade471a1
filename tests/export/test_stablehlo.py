"""StableHLO, called in a process in which this package cannot be imported."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from resnet_jax.export.job import Job
from resnet_jax.export.stablehlo import PROGRAM, write_stablehlo

from .conftest import images_of, network_of, outputs_of

pytestmark = pytest.mark.usefixtures("compile_quickly")

EXACT = 1e-5

ELSEWHERE = """
import sys
sys.modules["resnet_jax"] = sys.modules["flax"] = None  # importing them fails now
import re
import numpy as np
readme = open("README.md").read()
code = re.search(r"```python\\n(.*?)```", readme, re.DOTALL)[1]
exec(code)  # what users are told to do, with zeros
assert logits.shape == (1, 7), logits.shape
for images in (np.load("a.npy"), np.load("b.npy")):
    np.save(f"logits{len(images)}.npy", program.call(weights, images)["logits"])
"""


@pytest.mark.parametrize("with_preprocessing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_runs_without_this_package(tiny, tmp_path, with_preprocessing):
    job = Job(tiny, with_preprocessing=with_preprocessing)
    folded = write_stablehlo(job, tmp_path / "out")
    assert (folded.folded, folded.kept) == (5, 0)
    sets = [images_of(job, count) for count in (1, 4)]
    for name, (pixels, images) in zip("ab", sets, strict=True):
        np.save(tmp_path / "out" / f"{name}.npy", pixels if with_preprocessing else images)
    subprocess.run([sys.executable, "-I", "-c", ELSEWHERE], check=True, cwd=tmp_path / "out")
    for _, images in sets:
        logits, expected = np.load(tmp_path / "out" / f"logits{len(images)}.npy"), outputs_of(job, images)
        assert np.abs(logits - expected).max() <= EXACT * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar_resnetv2_20", {"stage_sizes": (1, 1)}),
        pytest.param(
            *("deeplabv3_resnet18", {"width_multiplier": 0.25, "stage_sizes": (1, 1)}), marks=pytest.mark.slow
        ),
        pytest.param(
            *("resnet26t", {"width_multiplier": 0.25, "stage_sizes": (1, 1), "se_ratio": 4}), marks=pytest.mark.slow
        ),
        pytest.param(*("unet_resnet18", {"width_multiplier": 0.25, "stage_sizes": (1, 1)}), marks=pytest.mark.slow),
        pytest.param(
            *("iresnet18", {"width_multiplier": 0.25, "stage_sizes": (1, 1), "sides": (33, 47)}), marks=pytest.mark.slow
        ),
    ],
)
def test_other_networks(name, options, tmp_path):
    job = Job(network_of(name, **options), size=(33, 47))
    write_stablehlo(job, tmp_path / "out")
    program = export.deserialize(bytearray((tmp_path / "out" / PROGRAM).read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    from safetensors.numpy import load_file

    _, images = images_of(job, 2)
    given = np.asarray(program.call(load_file(tmp_path / "out" / "weights.safetensors"), images)[job.output])
    expected = outputs_of(job, images)
    assert np.abs(given - expected).max() <= EXACT * np.abs(expected).max()


def test_one_size_of_batch(tiny, tmp_path):
    write_stablehlo(Job(tiny, batch=2), tmp_path / "out")
    program = export.deserialize(bytearray((tmp_path / "out" / PROGRAM).read_bytes()))
    assert [leaf.shape for leaf in program.in_avals if len(leaf.shape) == 4][-1] == (2, 33, 33, 3)
    assert jax.tree.leaves(program.out_avals)[0].shape == (2, 7)
