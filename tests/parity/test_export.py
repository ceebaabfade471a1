"""A network trained here goes to PyTorch and does there what it does here."""

import shlex
from functools import partial

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import data
from resnet_jax.cli import main

torch = pytest.importorskip("torch")


@pytest.mark.slow
def test_a_run_of_ours_loads_into_torchvision_and_is_as_accurate(torchvision, tmp_path):
    config = rn.load_config(
        "configs/digits.py",
        shlex.split(
            "--model.name resnet18 --data.channels 3 --data.mean 0.3 0.3 0.3 --data.std 0.4 0.4 0.4 "
            "--data.image-size 32 --data.eval-resize 32 --epochs 1 --batch-size 32 --eval-batch-size 120 "
            "--optim.base-lr 0.05 --optim.warmup-epochs 0"
        ),
    )
    state = rn.train(config, workdir=tmp_path / "run")
    ours = rn.evaluate(config, state)

    main(["convert", str(tmp_path / "run"), str(tmp_path / "resnet18.pth")])
    module = torchvision.models.resnet18(num_classes=10)
    module.load_state_dict(torch.load(tmp_path / "resnet18.pth", weights_only=True), strict=True)
    assert int(module.bn1.num_batches_tracked) == int(state.step)

    source = data.load_source(config.data, config.data.eval_split)
    examples = [source[i] for i in range(len(source))]
    grey = [
        data.resize_and_center_crop(example["image"], rn.Preset(resize=32, crop=32))[..., :1] for example in examples
    ]
    pixels = [np.repeat(image, 3, axis=-1) for image in grey]
    images = (np.stack(pixels).astype(np.float32) / 255 - np.float32(0.3)) / np.float32(0.4)
    with torch.no_grad():
        theirs = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    model = rn.load_run(tmp_path / "run").model
    logits = jax.jit(partial(model.apply, train=False))(state.variables, images)

    assert np.abs(logits - theirs).max() < 1e-5 * np.abs(theirs).max()
    right = np.mean(theirs.argmax(-1) == [example["label"] for example in examples])
    assert ours["count"] == 360
    np.testing.assert_allclose(right, ours["top1"], atol=1e-6)
    assert right > 0.25, "a network that always says the same would prove little"

    variables = rn.load_weights(tmp_path / "resnet18.pth", rn.create_model("resnet18", num_classes=10))
    assert int(variables.pop("num_batches_tracked")["layer1_0"]["bn1"]["count"]) == int(state.step)
    np.testing.assert_array_equal(variables["params"]["conv1"]["kernel"], state.params["conv1"]["kernel"])
