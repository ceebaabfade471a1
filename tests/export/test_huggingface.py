"""Folders for timm: timm itself loads them, and they come back bit for bit."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.errors import ConfigError
from resnet_jax.export.card import Trained, model_card
from resnet_jax.export.huggingface import TIMM, crop_share, timm_name, write_huggingface
from resnet_jax.run.named import network_of as network_of_run
from resnet_jax.run.named import open_named
from resnet_jax.run.predict import Run
from resnet_jax.tasks.table import task_of
from resnet_jax.weights import Preset, layout_of
from resnet_jax.weights.names import torch_key
from resnet_jax.weights.processors import timm_preset
from resnet_jax.weights.recognize import leaves_of

from .conftest import PRESET, images_of, job_of, network_of, outputs_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def timm(torchvision):
    return pytest.importorskip("timm")


def loaded_by_timm(timm, folder, images):
    import torch

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        return model, model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


DEEPER = ("resnet26d", "seresnext26t_32x4d", "resnetblur18", "resnet50s", "wide_resnet50_2", "resnet50_gn")


@pytest.mark.parametrize("name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in DEEPER)])
def test_timm_loads_it_and_it_comes_back(name, timm, tmp_path):
    network = network_of(name)
    assert write_huggingface(network, tmp_path / "out") == name
    job = job_of(network)
    _, images = images_of(job, 2)
    model, logits = loaded_by_timm(timm, tmp_path / "out", images)
    expected = outputs_of(job, images)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    data = timm.data.resolve_model_data_config(model)
    assert (tuple(data["input_size"]), tuple(data["mean"]), data["crop_pct"]) == ((3, 33, 33), PRESET.mean, 33 / 40)
    assert model.pretrained_cfg["label_names"] == list("abcdefg")

    again, variables = rn.load_pretrained(name, tmp_path / "out")
    assert again == network.model
    same = {part: variables[part] for part in network.variables}
    equal = jax.tree.map(lambda a, b: a.tobytes() == np.asarray(b).tobytes(), {**network.variables}, same)
    assert jax.tree.all(equal)
    back = open_named(str(tmp_path / "out"))
    assert (back.preset, back.class_names) == (PRESET, tuple("abcdefg"))


def test_grey_images(timm, tmp_path):
    from ..weights.networks import random_variables

    network = network_of("resnet18")
    grey = dataclasses.replace(
        network, variables=random_variables(network.model, channels=1), preset=Preset(40, 33, mean=(0.5,), std=(0.2,))
    )
    write_huggingface(grey, tmp_path / "out")
    _, images = images_of(job_of(grey), 2)
    _, logits = loaded_by_timm(timm, tmp_path / "out", images)
    expected = outputs_of(job_of(grey), images)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_has_these_networks(name, timm):
    import torch

    with torch.device("meta"):
        theirs = {key: tuple(tensor.shape) for key, tensor in timm.create_model(name).state_dict().items()}
    model = rn.create_model(name)
    assert {torch_key(path, layout_of(model)): shape for path, shape in leaves_of(model).items()} == theirs
    assert timm_name(model) == name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar_resnet20", {}),
        ("resnet50_v1", {}),
        ("resnetv2_50", {}),
        ("unet_resnet18", {}),
        ("resnet18", {"act": "silu"}),
        ("resnet18", {"width_multiplier": 0.5}),
        ("resnet18", {"stem": "space_to_depth"}),
        ("resnet50", {"output_stride": 8}),
    ],
)
def test_other_networks_are_refused_with_the_list(name, options, tmp_path):
    network = dataclasses.replace(network_of("cifar_resnet20"), model=rn.create_model(name, **options))
    with pytest.raises(ConfigError, match="is no network that timm has, .*resnet18, resnet34, .*Choose --format onnx"):
        write_huggingface(network, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_only_training_sees_are_no_others():
    options = {"stochastic_depth": 0.1, "bn_group_size": 8, "remat": (1,), "zero_init_residual": True}
    assert timm_name(rn.create_model("resnet50", num_classes=3, precision="highest", **options)) == "resnet50"
    assert timm_name(rn.create_model("resnet50s")) == "resnet50s"


def test_the_size_before_the_crop_comes_back():
    for resize in range(1, 600):
        for crop in {1, resize, (resize * 7) // 8, max(1, resize // 3)} - {0}:
            preset = Preset(resize=resize, crop=crop)
            config = {"input_size": [3, crop, crop], "crop_pct": crop_share(preset), "interpolation": "bilinear"}
            assert timm_preset(config, "a test").resize == resize


def config_of(*words):
    small = ("--epochs", "0.5", "--batch-size", "128", "--optim.warmup-epochs", "0", "--model.name", "cifar_resnet8")
    return rn.load_config(ROOT / "configs" / "digits.py", [*small, *words])


def card_of(run, folder):
    return model_card(network_of_run(run), "resnet18", Trained(run, str(folder)))


@pytest.mark.slow
def test_the_card_tells_what_a_run_has_recorded(short_runs, tmp_path):
    rn.train(config_of(), tmp_path / "run")
    run = rn.load_run(tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    text = card_of(run, tmp_path / "run")
    assert f"- top-1: {result['top1']:.2%}\n- top-5: {result['top5']:.2%}\n" in text
    assert "- measured on `digits`, split test, 360 images, by the run itself" in text
    assert re.search(r"Trained with jax [\d.]+, flax [\d.]+\.", text)


def test_the_card_tells_the_accuracy_of_the_step(short_runs, tmp_path):
    """The record is written here, since to train takes seconds; the test above trains."""
    config = config_of("--data.name", f"folder:{tmp_path}/my photos", "--optim.weight-decay", "0.3")
    result = {"steps": 6, "best_step": 3, "best_top1": 0.5, "top1": 0.25, "top5": 0.75, "count": 360}

    def card(step):
        state = SimpleNamespace(step=step, eval_variables={})
        return card_of(Run(config, task_of(config), state, tuple("ab")), tmp_path)

    assert "The run is not complete, so it has recorded no result." in card(6)
    (tmp_path / "result.json").write_text(json.dumps(result))
    text = card(6)
    assert "- top-1: 25.00%\n- top-5: 75.00%\n- measured on `folder:my photos`, split test, 360 images" in text
    assert "Trained on `folder:my photos` for 0.5 epochs; these are the weights after 6 steps." in text
    assert "| batch_size | `128` |" in text
    assert "| optim.weight_decay | `0.3` |" in text
    assert "library_name: timm" in text
    assert str(tmp_path) not in text, "nothing of this machine's folders"
    assert "- top-1: 50.00%\n- measured" in card(3)
    assert "The run has recorded no result for the weights after 4 steps." in card(4)


def test_a_card_without_a_run():
    text = model_card(network_of("resnet18"), "resnet18", None)
    assert "Converted from resnet18 for tests. Its training is not recorded here." in text
    assert "- Images: shorter side 40 pixels (bilinear), centre 33; mean 0.5, 0.4, 0.3" in text
    assert "- Classes: a, b, c, d, e, f, g." in text
