"""CKA beside the plain formula, its properties, and the command."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.analysis.images import images_of
from resnet_jax.analysis.similarity import hsic_sums, similarity
from resnet_jax.config import DataConfig, Preset
from resnet_jax.data import load_source, normalize
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.run import evaluate
from resnet_jax.runtime.mesh import make_mesh

from .tiny import save_weights, tiny_network

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")
DIGITS = DataConfig(name="digits", threads=2)


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    """Eight virtual ones on few cores wait for each other."""
    monkeypatch.setattr(evaluate, "make_mesh", lambda: make_mesh(jax.devices()[:2]))


def hsic(x, y):
    """Song et al. 2012, equation 5, in float64, word for word."""
    x, y = (np.asarray(z, np.float64).reshape(len(z), -1) for z in (x, y))
    n, one = len(x), np.ones(len(x))
    k, m = (z @ z.T * (1 - np.eye(n)) for z in (x, y))
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def biased_cka(x, y):
    x, y = (z - z.mean(axis=0) for z in (x, y))
    return np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


@jax.jit
def sums(x, y, real):
    return hsic_sums([x], [y], real)


def cka(x, y):
    found = sums(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), jnp.ones(len(x), bool))
    return float(found["between"][0, 0] / jnp.sqrt(found["first"][0] * found["second"][0]))


def some(count=50, width=17, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 5))
    return hidden @ rng.normal(size=(5, width)) + rng.normal(size=(count, width)) + 20, hidden


def test_hsic_is_the_plain_formula_and_padding_does_not_count():
    (x, hidden), rng = some(), np.random.default_rng(1)
    y = np.tanh(hidden @ rng.normal(size=(5, 9))) + 3
    right = len(x) * hsic(x, y)
    real = np.arange(60) < 50
    padded = [np.concatenate([z, np.full((10, z.shape[1]), np.nan)]).astype("f") for z in (x, y)]
    found = sums(*padded, real)
    np.testing.assert_allclose(found["between"], right, rtol=2e-4)
    np.testing.assert_allclose(found["first"], len(x) * hsic(x, x), rtol=2e-4)
    np.testing.assert_allclose(found["second"], len(x) * hsic(y, y), rtol=2e-4)
    few = sums(*(z[:60] for z in padded), np.arange(60) < 3)
    assert float(few["between"][0, 0]) == 0, "three images say nothing"


def test_rotation_and_scale_do_not_matter_and_what_has_nothing_in_common_is_near_zero():
    x, hidden = some()
    rng = np.random.default_rng(2)
    turned = x @ np.linalg.qr(rng.normal(size=(17, 17)))[0]
    assert cka(x, x) == pytest.approx(1, abs=1e-5)
    assert cka(x, 100 * turned - 3) == pytest.approx(1, abs=1e-3)
    assert cka(x, turned * np.linspace(0, 4, 17) ** 3) < 0.9, "another linear map does matter"
    assert cka(x, hidden) > 0.5
    first, second = rng.normal(size=(2, 50, 400))
    assert abs(cka(first, second)) < 0.05
    assert biased_cka(first, second) > 0.8, "what the estimate without bias is for"


def features_of(network, batch_size):
    images = images_of(load_source(DIGITS, "test"), network.preset, range(360))
    run = jax.jit(lambda v, x: network.model.apply(v, normalize(x, network.preset), train=False, features=True))
    out = jax.device_get(run(network.variables, images))
    return [{stage: x[i : i + batch_size] for stage, x in out.items()} for i in range(0, 360, batch_size)]


def test_networks_are_compared_batch_by_batch():
    """Each sees the images in its own way; the last batch is smaller; every device has a share of a batch."""
    first, second = tiny_network(1), tiny_network(2, Preset(resize=11, crop=9, mean=(0.2,), std=(0.5,)))
    told = []
    stages = ("stem", "stage2", "pooled")
    found = similarity(first, second, DIGITS, "test", stages, batch_size=160, tell=lambda *now: told.append(now))
    assert told == [(160, 360), (320, 360), (360, 360)]
    assert found.rows == found.columns == stages
    parts = list(zip(features_of(first, 160), features_of(second, 160), strict=True))
    for i, row in enumerate(found.rows):
        for j, column in enumerate(found.columns):
            total = sum(
                len(a[row]) * np.array([hsic(a[row], b[column]), hsic(a[row], a[row]), hsic(b[column], b[column])])
                for a, b in parts
            )
            assert found.values[i, j] == pytest.approx(total[0] / np.sqrt(total[1] * total[2]), abs=2e-4), (row, column)
    assert found.values.std() > 0.05


def test_with_itself_the_diagonal_is_one():
    network = tiny_network()
    found = similarity(network, network, DIGITS, "test", batch_size=360)
    assert found.rows == ("stem", "stage1", "stage2", "stage3", "pooled", "logits")
    np.testing.assert_allclose(np.diag(found.values), 1, atol=1e-5)
    np.testing.assert_allclose(found.values, found.values.T, atol=1e-5)
    assert found.values[0, 4] < 0.9


def test_what_cannot_be_compared(tmp_path):
    network = tiny_network()
    with pytest.raises(ConfigError, match=r"tiny 1 has no stage 'stage33'; did you mean 'stage3'"):
        similarity(network, network, DIGITS, "test", ("stage33",))
    with pytest.raises(ConfigError, match="batch_size = 3: CKA compares at least 4 images at once; raise it"):
        similarity(network, network, DIGITS, "test", batch_size=3)
    grey = np.full((8, 8, 8, 1), 77, np.uint8)
    np.savez(tmp_path / "same.npz", test_images=grey, test_labels=np.arange(8) % 2, class_names=["a", "b"])
    with pytest.raises(
        DataError, match="features of stem of tiny 1 are the same for all images, so they are like noth"
    ):
        similarity(network, network, DataConfig(name=f"npz:{tmp_path}/same.npz"), "test")
    np.savez(tmp_path / "few.npz", test_images=grey[:3], test_labels=np.arange(3) % 2, class_names=["a", "b"])
    with pytest.raises(DataError, match="few.npz test holds 3 images; CKA without bias needs at least 4. Bring more"):
        similarity(network, network, DataConfig(name=f"npz:{tmp_path}/few.npz"), "test")
    large = jax.tree.map(lambda x: x * np.float32(1e30), network.variables["params"])
    broken = replace(network, variables={**network.variables, "params": large})
    with pytest.raises(DataError, match="features of stem of tiny 1 are not finite, or too large to be compared"):
        similarity(broken, network, DIGITS, "test", ("stem",))


def test_the_command(tmp_path, capsys):
    first, second = save_weights(tmp_path), save_weights(tmp_path, 2)
    data = ["--data.name", "digits", "--batch-size", "120", "--out", str(tmp_path / "s.png")]
    cli.main(["similarity", *first, *data, "--stages", "stage1", "pooled", "--as-json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == ["stage1", "pooled"]
    assert np.diag(printed["values"]) == pytest.approx([1, 1], abs=1e-4)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    for words, text in (
        ([*first, *data, "--other", second[0], "--untrained"], "--other and --untrained name two second networks"),
        ([*first, *data, "--seed", "-1"], "--seed = -1 must be at least 0"),
        ([*first, *data[:-1], str(tmp_path / "no" / "s.png")], "cannot write .*no/s.png: there is no folder"),
        ([*first, *data, "--other", str(tmp_path / "x")], "there is no .*x; name the folder of a run"),
    ):
        with pytest.raises(SystemExit, match=text):
            cli.main(["similarity", *words])
