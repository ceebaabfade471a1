"""Runs as a version of this package left them, which later versions must read, continue and evaluate.

    python tests/golden/make_runs.py NAME          # writes tests/golden/saved/NAME/sgd and .../large_batch

Of each run, the last checkpoint but one is kept, and all of the log: what a continued run is compared with. To be
called where the format of a checkpoint or of `config.json` is about to change; the older ones stay.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"

import resnet_jax as rn
from resnet_jax.models import cifar, create

RUNS = Path(__file__).with_name("saved")
VARIANT = "tiny_for_golden_runs"
ROW = cifar.SMALL | {"block": "bottleneck", "stage_sizes": (1,), "width": 4}

_DATA = {"name": "digits", "channels": 1, "image_size": 8, "eval_resize": 8, "mean": (0.305,), "std": (0.376,)}
_AUGMENT = {"random_resized_crop": False, "shift_pixels": 1, "flip": False}
_SGD = {"base_lr": 0.4, "nesterov": True, "no_decay": ("bn", "bias$"), "warmup_epochs": 0.25}
_MIXED = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "mix_group_size": 4}
_LAMB = {"optimizer": "lamb", "base_lr": 0.02, "ema_decay": 0.9, "ema_every_steps": 2, "shard_state": True}


def make_config(augment: dict, optim: dict, bn_group_size: int = 0) -> rn.Config:
    return rn.Config(
        model=rn.ModelConfig(name=VARIANT, num_classes=10, bn_group_size=bn_group_size),
        data=rn.DataConfig(**_DATA, augment=rn.AugmentConfig(**_AUGMENT, **augment)),
        task=rn.Classify(label_smoothing=0.1),
        optim=rn.OptimConfig(**optim),
        checkpoint=rn.CheckpointConfig(every_epochs=0.5, keep_last=9),
        epochs=3.0,
        batch_size=128,
        eval_batch_size=360,
        eval_every_epochs=0.5,
        log_every_steps=5,
    )


CONFIGS = {"sgd": lambda: make_config({}, _SGD), "large_batch": lambda: make_config(_MIXED, _SGD | _LAMB, 4)}


def main(name: str) -> None:
    create.VARIANTS[VARIANT] = ROW
    for run, config in CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(folder) / run
            rn.train(config(), workdir)
            *_, last_but_one, _ = sorted((workdir / "checkpoints").iterdir())
            for kept in ("config.json", "class_names.json", "metrics.jsonl", f"checkpoints/{last_but_one.name}"):
                source, target = workdir / kept, RUNS / name / run / kept
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
            for path in (RUNS / name / run).rglob("commit_success.txt"):
                path.write_text("")  # it names the folder that was written to; nobody reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
