"""A run on images of two shapes: programs for each canvas, and no more; the log tells the share of padding."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

import resnet_jax as rn
from resnet_jax import AugmentConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig
from resnet_jax.tasks.detect.loss import padding_of
from tests.data.box_files import write_image

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")


def test_padding_is_what_lies_beside_the_images():
    seen = {"image": np.zeros((3, 10, 20, 3)), "size": np.array([[10, 20], [5, 10], [10, 15]])}
    np.testing.assert_allclose(padding_of(seen), [0, 0.75, 0.25])


@pytest.fixture
def compiled():
    """The names of the programs that are compiled."""
    names = []

    def listen(event, *_, fun_name="", **__):
        if event.endswith("backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_a_program_for_each_canvas(tmp_path, compiled):
    lines = ["image,xmin,ymin,xmax,ymax,label"]
    for number in range(24):
        wide, high = [(100, 64), (60, 90)][number % 2]
        write_image(tmp_path / f"{number}.png", wide, high, seed=number)
        lines.append(f"{number}.png,5,5,40,50,tree" if number else "0.png,,,,,")
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    config = Config(
        model=ModelConfig(
            name="retinanet_resnet18_fpn",
            stage_sizes=(1, 1, 1),
            width_multiplier=0.125,
            num_classes=2,
            zero_init_residual=False,
        ),
        task=Detect(
            min_size=(64,), max_size=128, max_boxes=3, train_canvases=2, eval_canvases=2, pyramid_width=32, head_convs=1
        ),
        data=DataConfig(name=f"boxes:{tmp_path}", augment=AugmentConfig(random_resized_crop=False, flip=True)),
        optim=OptimConfig(optimizer="adamw", base_lr=0.01, warmup_epochs=0.0),
        epochs=3.0,
        eval_every_epochs=1.0,
        batch_size=8,
        eval_batch_size=8,
        log_every_steps=1,
    )
    told = io.StringIO()
    rn.train(config, tmp_path / "run", console=Console(file=told, width=200))
    assert told.getvalue().count("compiled the training step") == 2
    steps = {name: compiled.count(name) for name in ("jit(train_step)", "jit(eval_step)")}
    assert set(steps.values()) == {2}, f"for three epochs and three evaluations: {steps}"
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = {round(record["padding"], 3) for record in records if record["kind"] == "train"}
    assert shares == {0.0, round(1 - 100 / 128, 3)}
    evaluated = [record for record in records if record["kind"] == "eval"]
    assert len(evaluated) == 3
    assert evaluated[-1]["padding"] == pytest.approx(1 - (64 * 100 + 96 * 64) / (64 * 128 + 96 * 64))
