"""The same against torchvision with its compiled operators, which need a build of torch that the tests do not have.

    RESNET_JAX_TORCH_PYTHON=envs/torch/bin/python pytest -m slow tests/detect/test_compiled_operators.py

That Python needs torch 2.14.1, torchvision 0.29.1 and numpy.
"""

import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.tasks.detect.nms import best, nms
from resnet_jax.tasks.detect.roi_align import roi_align

from .oracle import pair, without_operators
from .torch_networks import SHAPES, images_of

PYTHON = os.environ.get("RESNET_JAX_TORCH_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="RESNET_JAX_TORCH_PYTHON names no Python with torchvision's operators"),
]
OPERATORS = """
import sys
import numpy as np, torch, torchvision
given = {key: torch.tensor(array) for key, array in np.load(sys.argv[1]).items()}
boxes, scores, groups, maps, rois = (given[name] for name in ("boxes", "scores", "groups", "maps", "rois"))
np.savez(
    sys.argv[2],
    nms=torchvision.ops.nms(boxes, scores, 0.5),
    by_group=torchvision.ops.boxes._batched_nms_vanilla(boxes, scores, groups, 0.4),
    grids=torchvision.ops.roi_align(maps, rois, 7, 0.25, 2),
    half=torchvision.ops.roi_align(maps, rois, 3, 0.5, 3, aligned=True),
)
"""


@pytest.fixture(scope="module", autouse=True)
def x64(torchvision):
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        without_operators(patch)
        yield


def run(*arguments):
    subprocess.run([PYTHON, *map(str, arguments)], check=True, timeout=1800)


def test_operators(tmp_path):
    """Thousands of boxes: also without area, equal ones, whole pixels and equal scores; samples outside of the maps."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(-5, 60, (2000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 30, (2000, 2))], 1)
    boxes[:500] = np.round(boxes[:500])
    boxes[500:520, 2:] = boxes[500:520, :2]
    scores, groups = rng.permutation(2000) / 2000, rng.integers(0, 4, 2000)
    images = rng.integers(0, 2, 2000)
    given = {
        "boxes": boxes,
        "scores": scores,
        "groups": groups,
        "maps": rng.normal(size=(2, 3, 13, 17)),
        "rois": np.c_[images, boxes],
    }
    np.savez(tmp_path / "in.npz", **given)
    (tmp_path / "operators.py").write_text(OPERATORS)
    run(tmp_path / "operators.py", tmp_path / "in.npz", tmp_path / "out.npz")
    expected = np.load(tmp_path / "out.npz")
    ours = nms(jnp.asarray(boxes), jnp.asarray(scores), 0.5)
    np.testing.assert_array_equal(np.flatnonzero(ours), np.sort(expected["nms"]))
    places, there = best(*map(jnp.asarray, (boxes, scores, groups)), jnp.ones(2000, bool), 0.4, 2000)
    np.testing.assert_array_equal(places[there], expected["by_group"])
    maps = jnp.asarray(np.moveaxis(given["maps"], 1, -1))
    align = lambda *how, **options: roi_align(maps, jnp.asarray(boxes), jnp.asarray(images), *how, **options)
    np.testing.assert_allclose(np.moveaxis(align(7, scale=0.25), -1, 1), expected["grids"], rtol=0, atol=1e-12)
    half = align(3, scale=0.5, samples=3, aligned=True)
    np.testing.assert_allclose(np.moveaxis(half, -1, 1), expected["half"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", rn.list_models("*_fpn*", task="detect"))
def test_whole_networks(tmp_path, name):
    module, model, variables = pair(name, seed=3)
    np.savez(tmp_path / "weights.npz", **{key: tensor.numpy() for key, tensor in module.state_dict().items()})
    run(Path(__file__).with_name("torch_networks.py"), name, tmp_path / "weights.npz", tmp_path / "out.npz")
    expected = np.load(tmp_path / "out.npz")
    for i, one in enumerate(rn.detect(model, variables, images_of(2, *SHAPES))):
        assert len(one["boxes"]) > 40
        np.testing.assert_array_equal(one["labels"], expected[f"{i} labels"])
        np.testing.assert_allclose(one["boxes"], expected[f"{i} boxes"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(one["scores"], expected[f"{i} scores"], rtol=0, atol=1e-9)
        if "masks" in one:
            np.testing.assert_allclose(one["masks"], expected[f"{i} masks"][:, 0], rtol=0, atol=1e-9)
