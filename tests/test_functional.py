"""docs/functional.md and examples/: every snippet runs, and what it computes is right by an independent way."""

import importlib.util
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import resnet_jax as rn
from resnet_jax.models import ResNet

pytestmark = pytest.mark.usefixtures("compile_quickly")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def page(compile_quickly):
    """The names that the page's snippets leave behind, section by section in order."""
    text = (ROOT / "docs" / "functional.md").read_text()
    names: dict = {}
    sections = {}
    for section in text.split("\n## "):
        for snippet in re.findall(r"```python\n(.*?)```", section, re.S):
            exec(compile(snippet, "docs/functional.md", "exec"), names)
        sections[section.splitlines()[0]] = dict(names)
    return sections


def test_the_shapes_that_the_page_claims(page):
    """Lines `name = ...   # (8, 10)`."""
    text = (ROOT / "docs" / "functional.md").read_text()
    claims = re.findall(r"^(\w+) = .*# (\([\d, ]+\))$", text, re.M)
    assert len(claims) >= 5
    for name, shape in claims:
        line = re.compile(rf"^{name} = .*# {re.escape(shape)}$", re.M)
        section = next(part for part in text.split("\n## ") if line.search(part))
        assert page[section.splitlines()[0]][name].shape == eval(shape), name


def test_an_ensemble_is_its_members(page):
    names = page["An ensemble of K initialisations in one call"]
    for i, key in enumerate(names["keys"]):
        variables = rn.init(names["model"], key)
        np.testing.assert_allclose(names["logits"][i], names["forward"](variables), rtol=1e-4, atol=1e-5)
    assert np.abs(names["logits"][0] - names["logits"][1]).max() > 0.1


def test_per_example_gradients_are_those_of_each_alone_and_their_mean_is_the_batchs(page):
    names = page["Per-example gradients"]
    params, images, labels = names["variables"]["params"], names["images"], names["labels"]
    grad = jax.jit(jax.grad(names["loss"]))
    for i in (0, 5):
        alone = grad(params, images[i : i + 1], labels[i : i + 1])
        mine = jax.tree.map(lambda g, i=i: g[i], names["gradients"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), mine, alone)
        assert float(names["norms"][i]) == pytest.approx(float(jnp.linalg.norm(ravel_pytree(alone)[0])), rel=1e-3)
    mean = jax.tree.map(lambda g: g.mean(axis=0), names["gradients"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), mean, grad(params, images, labels)
    )


@pytest.mark.slow
def test_hessian_vector_products_and_eigenvalue_are_the_dense_hessians(page, monkeypatch):
    """The page's functions, on a network small enough to write its Hessian down."""
    names = dict(page["Hessian-vector products, and the top eigenvalue"])
    with jax.enable_x64(True):
        model = ResNet(
            block="basic", stage_sizes=(1,), width=2, num_classes=3, stem="cifar", act="silu", param_dtype=jnp.float64
        )
        variables = rn.init(model, jax.random.key(0))
        images = jax.random.normal(jax.random.key(1), (4, 6, 6, 3), jnp.float64)
        labels = jnp.arange(4) % 3
        flat, unravel = ravel_pytree(variables["params"])
        scope = names["loss"].__globals__
        for name, value in {"model": model, "variables": variables, "images": images, "labels": labels}.items():
            monkeypatch.setitem(scope, name, value)
        hessian = jax.jit(jax.hessian(lambda flat: names["loss"](unravel(flat), images, labels)))(flat)
        vector = jax.random.normal(jax.random.key(2), flat.shape, jnp.float64)
        product, _ = ravel_pytree(names["hessian_times"](variables["params"], unravel(vector)))
        np.testing.assert_allclose(product, hessian @ vector, rtol=1e-9, atol=1e-11)
        eigenvalues = np.linalg.eigvalsh(hessian)
        top = eigenvalues[np.argmax(np.abs(eigenvalues))]
        direction = unravel(vector / jnp.linalg.norm(vector))
        improve = jax.jit(names["improve"].__wrapped__)
        for _ in range(200):
            direction, eigenvalue = improve(direction)
        assert float(eigenvalue) == pytest.approx(top, rel=1e-4)


def test_frozen_statistics(page):
    names = page["Frozen BatchNorm"]
    evaluated = jax.jit(partial(names["model"].apply, train=False))(names["variables"], names["images"])
    np.testing.assert_allclose(names["logits"], evaluated, rtol=1e-5, atol=1e-6)  # two programs may round otherwise
    of_the_batch = partial(names["model"].apply, train=True, mutable=["batch_stats"])
    others, _ = jax.jit(of_the_batch)(names["variables"], names["images"])
    assert np.abs(others - evaluated).max() > 0.1
    before, after = names["variables"]["batch_stats"], names["updates"]["batch_stats"]
    assert not np.array_equal(before["bn1"]["mean"], after["bn1"]["mean"])


def test_the_swapped_block_is_what_is_built(page):
    names = page["A block of your own"]
    block = names["shapes"]["params"]["layer2_0"]
    assert block["conv1"]["kernel"].shape == (1, 1, 8, 64)
    assert block["conv2"]["kernel"].shape == (3, 3, 1, 64), "depthwise"
    assert block.keys() >= {"downsample_conv", "bn3"}
    model = names["inverted"]
    trained = lambda variables, x: model.apply(
        variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
    )[0]
    assert jax.eval_shape(trained, names["shapes"], jnp.zeros((2, 32, 32, 3))).shape == (2, 1000)


def test_named_intermediates_are_what_the_network_passes_on(page):
    names = page["Any intermediate value, by name"]
    np.testing.assert_allclose(names["block"], names["features"]["stage2"])
    kernel = names["variables"]["params"]["layer2_0"]["conv1"]["kernel"]
    by_hand = jax.lax.conv_general_dilated(
        names["features"]["stage1"], kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(names["convolved"], by_hand, rtol=1e-5, atol=1e-6)


def test_the_export_is_the_network_at_every_batch_size(page):
    names = page["Export for any batch size"]
    for size in (1, 8):
        expected = names["forward"](names["images"][:size])
        np.testing.assert_allclose(names["exported"].call(names["images"][:size]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "seresnext26t_32x4d", "resnetv2_50", "resnetblur18", "resnet50_gn"])
def test_every_kind_of_network_exports_with_a_symbolic_batch(name):
    model = rn.create_model(name, stem="space_to_depth")
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, 33, 64, 3), jnp.float32)
    variables = jax.eval_shape(lambda key: rn.init(model, key), jax.random.key(0))
    out = jax.eval_shape(lambda variables, images: model.apply(variables, images, train=False), variables, images)
    assert out.shape == (batch, 1000)


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_ensemble_example_starts(capsys):
    """Two members, two steps; the next test runs all the examples whole."""
    singles, _ = example("ensemble").main(2, 2, 16)
    assert len(singles) == 2
    assert "together" in capsys.readouterr().out


@pytest.mark.slow
def test_examples_keep_their_promise():
    singles, together = example("ensemble").main()
    assert together >= np.mean(singles) > 0.9
    assert example("hard_examples").main() > 0.5
    eigenvalues = example("sharpness").main()
    assert 0 < eigenvalues[-1] < eigenvalues[0]
