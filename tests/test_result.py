"""What `result.json` says of images that could not be read."""

import json

from etils import epath

from resnet_jax import Config
from resnet_jax.logs.shown import Shown
from resnet_jax.run.result import summary, write_result
from resnet_jax.tasks.classify.measure import BEST, NAMES


def test_images_that_were_left_out_are_counted_and_named(tmp_path):
    measured = {"epoch": 1.0, "top1": 0.5, "top5": 0.9, "loss": 1.0}
    lines = [
        {"kind": "train", "step": 1, "lr": 0.1, **measured},
        {"kind": "eval", "step": 1, "count": 8, **measured},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    about = {"seconds": 7, "devices": 1, "broken": {5: "torn"}}
    result = write_result(Config(), epath.Path(tmp_path), BEST, NAMES, **about)
    assert json.loads((tmp_path / "result.json").read_text())["broken_images"] == 1
    assert json.loads((tmp_path / "broken_images.json").read_text()) == {"5": "torn"}
    assert summary(result, BEST, NAMES).endswith(", 7 s; 1 training images left out, named in broken_images.json")
    assert summary({**result, "broken_images": 0}, BEST, NAMES).endswith(", 7 s")
    assert summary(result, BEST, NAMES).startswith("top-1 50.00 % of 8 test images (best 50.00 % at step 1), 7 s")


def test_the_task_says_what_is_best_and_how_it_is_written(tmp_path):
    values = [-3.0, None, -1.25, -2.0]  # null: it was not finite
    lines = [
        {"kind": "eval", "step": step, "epoch": 1.0, "seconds": 1.0, "loss": 1.0, "minus_error": value, "count": 8}
        for step, value in enumerate(values)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = {"minus_error": Shown("minus error", "{:.1f} degrees")}
    result = write_result(Config(), epath.Path(tmp_path), "minus_error", names, seconds=7, devices=1, broken={})
    assert {"top1", "best_top1", "kind", "epoch"}.isdisjoint(result)
    assert (result["minus_error"], result["best_minus_error"], result["best_step"]) == (-2.0, -1.25, 2)
    expected = "minus error -2.0 degrees on 8 test images (best -1.2 degrees at step 2), 7 s"
    assert summary(result, "minus_error", names) == expected
