"""What `result.json` says of images that could not be read."""

import json

from etils import epath

from resnet_jax import Config
from resnet_jax.result import summary, write_result


def test_images_that_were_left_out_are_counted_and_named(tmp_path):
    measured = {"epoch": 1.0, "top1": 0.5, "top5": 0.9, "loss": 1.0}
    lines = [
        {"kind": "train", "step": 1, "lr": 0.1, **measured},
        {"kind": "eval", "step": 1, "count": 8, **measured},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = write_result(Config(), epath.Path(tmp_path), seconds=7, devices=1, broken={5: "torn"})
    assert json.loads((tmp_path / "result.json").read_text())["broken_images"] == 1
    assert json.loads((tmp_path / "broken_images.json").read_text()) == {"5": "torn"}
    assert summary(result).endswith(", 7 s; 1 training images left out, named in broken_images.json")
    assert summary({**result, "broken_images": 0}).endswith(", 7 s")
