"""Every knob of an experiment, with its unit and its range. Standard library only."""

from resnet_jax.config.augment import AugmentConfig, Resize, ramped_sizes
from resnet_jax.config.checkpoint import CheckpointConfig
from resnet_jax.config.clip import ClipConfig
from resnet_jax.config.data import DataConfig
from resnet_jax.config.detect import Detect
from resnet_jax.config.distil import Distil
from resnet_jax.config.evaluation import Eval
from resnet_jax.config.experiment import Config
from resnet_jax.config.groups import Group, Unfreeze
from resnet_jax.config.model import ModelConfig
from resnet_jax.config.optim import OptimConfig
from resnet_jax.config.preset import AS_PUBLISHED, Preset, PresetChange
from resnet_jax.config.prune import Prune
from resnet_jax.config.quantize import Qat, QuantizeConfig
from resnet_jax.config.serve import ServeConfig
from resnet_jax.config.start import Start
from resnet_jax.config.task import Classify, Clips, Embed, Segment

__all__ = [
    "AS_PUBLISHED",
    "AugmentConfig",
    "CheckpointConfig",
    "Classify",
    "ClipConfig",
    "Clips",
    "Config",
    "DataConfig",
    "Detect",
    "Distil",
    "Embed",
    "Eval",
    "Group",
    "ModelConfig",
    "OptimConfig",
    "Preset",
    "PresetChange",
    "Prune",
    "Qat",
    "QuantizeConfig",
    "Resize",
    "Segment",
    "ServeConfig",
    "Start",
    "Unfreeze",
    "ramped_sizes",
]
