"""Weights that somebody else trained, on photographs: everything from the file to the class, with no random number.

The weights are of github.com/akamaster/pytorch_resnet_cifar10, folder `pretrained_models`. The photographs are the
first 20 of CIFAR-10's test set, which the package foolbox has. Neither is part of this repository.
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.run.network import load_network
from resnet_jax.run.start import load_beginning
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import from_torchvision, preprocess, read_state_dict

pytest.importorskip("torch")
FOLDER = os.environ.get("RESNET_JAX_REAL_WEIGHTS", "")
FILES = {"cifar_resnet20_centred": "resnet20-12fca82f.th", "cifar_resnet56_centred": "resnet56-4bfd9763.th"}
PRESET = rn.Preset(resize=32, crop=32)


@pytest.fixture(params=FILES)
def network(request):
    """A name and its file."""
    path = Path(FOLDER) / FILES[request.param]
    if not FOLDER or not path.is_file():
        pytest.skip(
            f"there is no {FILES[request.param]}: set RESNET_JAX_REAL_WEIGHTS to a folder with the pretrained_models "
            "of github.com/akamaster/pytorch_resnet_cifar10"
        )
    return request.param, path


@pytest.fixture(scope="module")
def photographs():
    """Paths and labels."""
    found = importlib.util.find_spec("foolbox")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the photographs are those of foolbox: pip install --no-deps foolbox==3.3.4")
    paths = sorted((Path(found.submodule_search_locations[0]) / "data").glob("cifar10_*.png"))
    assert len(paths) == 20
    return paths, np.array([int(path.stem.split("_")[2]) for path in paths])


def test_predict_is_right_on_all(network, photographs, capsys):
    """Nothing is said but the file: its names tell the network, the network the size of the images."""
    paths, labels = photographs
    for words in ([], ["--model", network[0]], ["--preset.resize", "32", "--preset.crop", "32"]):
        main(["predict", "--weights", str(network[1]), *words, *map(str, paths), "--as-json", "--top", "1"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [int(next(key for key in line if key != "image")) for line in lines] == labels.tolist()


def test_from_python_too_and_other_zeros_are_wrong(network, photographs):
    """The same arrays in the same network, but for the place of the zeros."""
    name, path = network
    images = preprocess(photographs[0], PRESET)
    model, variables = rn.load_pretrained(name, path)
    logits = model.apply(variables, images, train=False)
    assert (logits.argmax(1) == photographs[1]).all()
    state_dict = read_state_dict(path)
    with pytest.raises(rn.errors.WeightsError, match=f"looks like {name}; ask for that network"):
        rn.load_pretrained(name.removesuffix("_centred"), path)
    renamed = {key.replace("linear.", "fc."): array for key, array in state_dict.items()}
    after = rn.create_model(name, shortcut="zero_pad")
    wrong = after.apply(from_torchvision(renamed, after), images, train=False)
    assert 1 <= (wrong.argmax(1) == photographs[1]).sum() <= 5


def test_a_run_starts_from_them(network):
    name, path = network
    config = rn.Config(
        model=rn.ModelConfig(name=name, num_classes=3, zero_init_residual=False),
        data=rn.DataConfig(name="digits", image_size=32, eval_resize=32),
        start=rn.Start(weights=str(path)),
    )
    begun = load_beginning(config, task_of(config), tuple("012"))
    assert begun.new == ("params/fc/bias", "params/fc/kernel")
    variables = load_network(str(path)).variables
    np.testing.assert_array_equal(begun.arrays["params/conv1/kernel"], variables["params"]["conv1"]["kernel"])
    np.testing.assert_array_equal(begun.arrays["batch_stats/bn1/mean"], variables["batch_stats"]["bn1"]["mean"])
