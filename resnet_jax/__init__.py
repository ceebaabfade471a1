"""ResNets as pure functions: models, training, evaluation and prediction in JAX.

Names are loaded when first used, so that `import resnet_jax.models` needs only jax and flax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.config import (
        AugmentConfig,
        CheckpointConfig,
        Classify,
        ClipConfig,
        Clips,
        Config,
        DataConfig,
        Detect,
        Distil,
        Embed,
        Eval,
        Group,
        ModelConfig,
        OptimConfig,
        Preset,
        Prune,
        Resize,
        Segment,
        Start,
        Unfreeze,
        ramped_sizes,
    )
    from resnet_jax.config_files import load_config
    from resnet_jax.models import create_model, init, list_models
    from resnet_jax.run.clips import read_clips
    from resnet_jax.run.detect import detect
    from resnet_jax.run.evaluate import evaluate
    from resnet_jax.run.predict import load_run, predict
    from resnet_jax.run.train import train
    from resnet_jax.studies.study import Difference, Measure, Published, Scale, Slope, Study
    from resnet_jax.tasks.task import Task
    from resnet_jax.weights import (
        WEIGHT_SETS,
        class_names,
        find_weight_set,
        from_torchvision,
        inflate,
        load_pretrained,
        load_weights,
        preprocess,
        save_weights,
        to_torchvision,
    )

_HOME = {
    "AugmentConfig": "config",
    "CheckpointConfig": "config",
    "Classify": "config",
    "ClipConfig": "config",
    "Clips": "config",
    "Config": "config",
    "DataConfig": "config",
    "Detect": "config",
    "Distil": "config",
    "Embed": "config",
    "Eval": "config",
    "Group": "config",
    "ModelConfig": "config",
    "OptimConfig": "config",
    "Preset": "config",
    "Prune": "config",
    "Resize": "config",
    "Segment": "config",
    "Start": "config",
    "Unfreeze": "config",
    "ramped_sizes": "config",
    "load_config": "config_files",
    "create_model": "models",
    "init": "models",
    "list_models": "models",
    "Difference": "studies.study",
    "Measure": "studies.study",
    "Published": "studies.study",
    "Scale": "studies.study",
    "Slope": "studies.study",
    "Study": "studies.study",
    "Task": "tasks.task",
    "detect": "run.detect",
    "evaluate": "run.evaluate",
    "load_run": "run.predict",
    "predict": "run.predict",
    "read_clips": "run.clips",
    "train": "run.train",
    "WEIGHT_SETS": "weights",
    "class_names": "weights",
    "find_weight_set": "weights",
    "from_torchvision": "weights",
    "inflate": "weights",
    "load_pretrained": "weights",
    "load_weights": "weights",
    "preprocess": "weights",
    "save_weights": "weights",
    "to_torchvision": "weights",
}

__all__ = [
    "WEIGHT_SETS",
    "AugmentConfig",
    "CheckpointConfig",
    "Classify",
    "ClipConfig",
    "Clips",
    "Config",
    "DataConfig",
    "Detect",
    "Difference",
    "Distil",
    "Embed",
    "Eval",
    "Group",
    "Measure",
    "ModelConfig",
    "OptimConfig",
    "Preset",
    "Prune",
    "Published",
    "Resize",
    "Scale",
    "Segment",
    "Slope",
    "Start",
    "Study",
    "Task",
    "Unfreeze",
    "class_names",
    "create_model",
    "detect",
    "evaluate",
    "find_weight_set",
    "from_torchvision",
    "inflate",
    "init",
    "list_models",
    "load_config",
    "load_pretrained",
    "load_run",
    "load_weights",
    "predict",
    "preprocess",
    "ramped_sizes",
    "read_clips",
    "save_weights",
    "to_torchvision",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resnet_jax' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"resnet_jax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
