"""How convolutions begin, against torch's initialisers, and the fields of a config that choose a network's parts."""

from dataclasses import fields
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest

from resnet_jax.config import Config, ModelConfig
from resnet_jax.models import create_model, init
from resnet_jax.models.blocks import BLOCKS
from resnet_jax.models.initial import WEIGHT_INITS
from resnet_jax.models.layers import he_normal_fan_out
from resnet_jax.models.norms import NORMS
from resnet_jax.models.shortcuts import SHORTCUTS
from resnet_jax.tasks.assemble import build_model

pytestmark = pytest.mark.usefixtures("compile_quickly")
SMALL = {"stage_sizes": (1, 1), "width": 8, "num_classes": 3, "stem": "cifar"}


def torch_initialisers():
    torch = pytest.importorskip("torch")
    return {
        "he": lambda w: torch.nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
        "he_fan_in": lambda w: torch.nn.init.kaiming_normal_(w, mode="fan_in", nonlinearity="relu"),
        "xavier": torch.nn.init.xavier_normal_,
        "lecun": lambda w: torch.nn.init.kaiming_normal_(w, mode="fan_in", nonlinearity="linear"),
        "normal_001": lambda w: torch.nn.init.normal_(w, std=0.01),
        "torch": lambda w: torch.nn.init.kaiming_uniform_(w, a=5**0.5),  # torch.nn.Conv2d.reset_parameters
    }


@pytest.mark.parametrize("name", WEIGHT_INITS)
def test_kernels_are_distributed_as_torchs(name):
    """A strided, widening 3x3 kernel, in which inputs and outputs differ: 295,000 draws, so 1 % is eight deviations."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch_initialisers()[name](torch.empty(256, 128, 3, 3)).numpy().ravel()
    ours = np.asarray(WEIGHT_INITS[name](jax.random.key(0), (3, 3, 128, 256))).ravel()
    assert ours.std() == pytest.approx(theirs.std(), rel=0.01)
    assert abs(ours.mean()) < 0.01 * ours.std()
    # The shape too: a truncated or uniform law with the same deviation has other quantiles.
    at = (0.001, 0.05, 0.3, 0.7, 0.95, 0.999)
    np.testing.assert_allclose(np.quantile(ours, at), np.quantile(theirs, at), rtol=0.03)


def test_the_name_reaches_every_convolution_and_he_is_the_default():
    seed = jax.random.key(3)
    of = {name: init(create_model("resnet18", **SMALL, weight_init=name), seed) for name in (None, "he", "normal_001")}
    jax.tree.map(np.testing.assert_array_equal, of[None], of["he"])
    kernels = jax.tree_util.tree_leaves_with_path(of["normal_001"]["params"])
    stds = {jax.tree_util.keystr(path): float(leaf.std()) for path, leaf in kernels if leaf.ndim == 4}
    assert len(stds) == 6  # the stem, two convolutions of each block, a projection
    assert all(0.008 < std < 0.012 for std in stds.values()), stds
    assert create_model("resnet18").block == "basic"
    assert WEIGHT_INITS["he"] is he_normal_fan_out


def test_preactivation_ends_in_zeros_or_as_the_name_says():
    options = SMALL | {"block": "preact_basic", "stage_sizes": (1,), "weight_init": "normal_001"}
    last = lambda zero: init(create_model("resnet18", **options, zero_init_residual=zero), jax.random.key(0))["params"][
        "layer1_0"
    ]["conv2"]["kernel"]
    assert not np.asarray(last(True)).any()
    assert 0.008 < float(last(False).std()) < 0.012


def test_the_fields_of_a_config_name_what_models_has():
    hints = get_type_hints(ModelConfig)
    tables = {"block": BLOCKS, "shortcut": SHORTCUTS, "norm": NORMS, "weight_init": WEIGHT_INITS}
    for field, table in tables.items():
        literal, none = get_args(hints[field])
        assert set(get_args(literal)) == set(table), field
        assert none is type(None)
    assert {field.name: field.default for field in fields(ModelConfig)}.items() >= dict.fromkeys(tables).items()


def test_a_config_chooses_the_parts():
    parts = {"shortcut": "none", "weight_init": "lecun", "antialias": True, "block": "preact_basic", "norm": "frozen"}
    plain = build_model(Config(model=ModelConfig(name="cifar_resnet20", num_classes=10)))
    other = build_model(Config(model=ModelConfig(name="cifar_resnet20", zero_init_residual=False, **parts)))
    assert (plain.block, plain.shortcut, plain.norm, plain.antialias) == ("basic", "zero_pad", "batch", False)
    assert {name: getattr(other, name) for name in parts} == parts
    assert build_model(Config(model=ModelConfig(name="resnet26t", antialias=False))).antialias is False
