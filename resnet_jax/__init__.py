"""ResNets as pure functions: models, training, evaluation and prediction in JAX.

Names are loaded when first used, so that `import resnet_jax.models` needs only jax and flax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.config import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
    from resnet_jax.config_file import load_config
    from resnet_jax.models import create_model, init, list_models
    from resnet_jax.run import evaluate, load_run, predict, train

_HOME = {
    "AugmentConfig": "config",
    "CheckpointConfig": "config",
    "Config": "config",
    "DataConfig": "config",
    "ModelConfig": "config",
    "OptimConfig": "config",
    "load_config": "config_file",
    "create_model": "models",
    "init": "models",
    "list_models": "models",
    "evaluate": "run",
    "load_run": "run",
    "predict": "run",
    "train": "run",
}

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "create_model",
    "evaluate",
    "init",
    "list_models",
    "load_config",
    "load_run",
    "predict",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resnet_jax' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"resnet_jax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
