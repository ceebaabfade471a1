"""Batches without a valid pixel: a run goes on, counts them, and goes on counting after it was stopped."""

import io

import numpy as np
import pytest
from rich.console import Console

import resnet_jax as rn
from resnet_jax.data import load_source, train_batches
from resnet_jax.data.sources import digit_scenes
from resnet_jax.errors import Preempted
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.survival.signals import StopRequest
from resnet_jax.tasks.table import task_of

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

# Of these scenes two have masks, so that many batches of eight have none.
SCENES, WITH_PIXELS, STEPS = 16, (2, 4), 12


@pytest.fixture
def config(monkeypatch):
    scene = digit_scenes.DigitScenes.__getitem__

    def ignored(self, index):
        found = scene(self, index)
        hides = len(self) == SCENES and index not in WITH_PIXELS
        return {**found, "mask": np.full_like(found["mask"], 255)} if hides else found

    monkeypatch.setattr(digit_scenes, "LENGTHS", {"train": SCENES, "test": 1})
    monkeypatch.setattr(digit_scenes.DigitScenes, "__getitem__", ignored)
    return rn.load_config(
        "configs/segment/digits.py",
        [
            *(
                "--model.name",
                "unet_cifar_resnet8",
                "--model.width-multiplier",
                "0.125",
                "--epochs",
                str(8 * STEPS / SCENES),
            ),
            *("--batch-size", "8", "--eval-batch-size", "8", "--log-every-steps", "5", "--optim.warmup-epochs", "0"),
            *("--data.image-size", "32", "--data.eval-resize", "32"),
        ],
    )


def test_a_run_counts_them_and_counts_on(config, tmp_path, monkeypatch):
    """Stopped between two lines of its log, and continued. What is counted does not come from the step."""
    source = load_source(config.data, "train")
    batches = train_batches(source, config.data, batch_size=8, seed=config.seed, fill=task_of(config).fills[0])
    empty = np.cumsum([bool((next(batches)["mask"] == 255).all()) for _ in range(STEPS)])
    batches.close()
    assert 0 < empty[4] < empty[-1] < STEPS
    answers = iter([False] * 6 + [True] + [False] * 20)
    monkeypatch.setattr(StopRequest, "asked", lambda self: next(answers))
    with pytest.raises(Preempted, match="stopped after step 7 of 12"):
        rn.train(config, tmp_path)
    shown = io.StringIO()
    rn.train(config, tmp_path, console=Console(file=shown, width=200))
    lines = [line for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert [line.get("empty", 0) for line in lines] == [empty[line["step"] - 1] for line in lines]
    assert all(np.isfinite([line["loss"], line["grad_norm"]]).all() for line in lines)
    assert min(line["loss"] for line in lines) > 0.1, "the mean is that of the other batches"
    assert f"  {empty[-1]} empty batches  lr " in shown.getvalue()
