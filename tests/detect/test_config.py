"""The knobs of detection."""

import dataclasses
import json

import pytest

from resnet_jax import Config, DataConfig, Detect
from resnet_jax.config.checked import from_dict
from resnet_jax.config_files import override
from resnet_jax.errors import ConfigError


def test_a_config_is_the_same_after_json_and_from_the_command_line():
    config = Config(task=Detect(anchor_sizes=((12.0, 16.0), (32.0,)), levels=(2, 3), jitter=(0.1, 2.0), canvas=96))
    assert from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    changed = override(config, ["--task.min-size", "640", "800", "--task.anchor-sizes.1", "40"]).task
    assert isinstance(changed, Detect)
    assert changed.min_size == (640, 800)
    assert changed.anchor_sizes == ((12.0, 16.0), (40.0,))


def test_what_the_network_is_told():
    assert Detect().head(91, 224) == {"num_classes": 91, "min_size": 800, "max_size": 1333}
    options = Detect(min_size=(96, 128), max_size=160, box_nms_thresh=0.4, levels=(2, 3)).head(11, 224)
    assert options == {"num_classes": 11, "min_size": 128, "max_size": 160, "box_nms_thresh": 0.4, "levels": (2, 3)}
    assert Detect(max_size=1333).train_side == 1344
    assert Detect(jitter=(0.1, 2.0), canvas=1024).train_side == 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"min_size": (800, 1400)},
            r"min_size = \(800, 1400\) must name at least one length",
        ),
        ({"min_size": ()}, r"min_size = \(\) must name at least one"),
        ({"jitter": (2.0, 0.1)}, r"jitter = \(2.0, 0.1\) must be the smallest and the largest factor, such as"),
        ({"jitter": (2.0,)}, r"jitter = \(2.0,\) must be the smallest"),
        ({"jitter": (0.1, 2.0), "train_canvases": 3}, "train_canvases = 3; set it to 1, or leave jitter out"),
        ({"canvas": 640}, "canvas = 640 must hold images of max_size = 1333 pixels; set it to 0, or to at least 1333"),
        (
            {"rpn_bg_iou_thresh": 0.8, "rpn_fg_iou_thresh": 0.7},
            "rpn_bg_iou_thresh = 0.8 must be at most rpn_fg_iou_thresh = 0.7; exchange them",
        ),
        ({"anchor_sizes": ((8.0, -1.0),)}, r"anchor_sizes\[0\]\[1\] = -1.0 is out of range; it must be > 0"),
        ({"box_nms_thresh": 1.5}, "box_nms_thresh = 1.5 is out of range; it must be >= 0 and <= 1"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Detect(**options)


def test_options_of_other_tasks_are_refused():
    with pytest.raises(ConfigError, match="data.squash is set, and the task Detect prepares its images in another way"):
        Config(task=Detect(), data=DataConfig(squash=True))
