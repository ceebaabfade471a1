"""Depth with and without shortcuts, on the embedded digits: a study of minutes, to try the command with.

    python -m resnet_jax study studies/digits_depth.py

docs/studies.md says what it found.
"""

from pathlib import Path

from resnet_jax import Slope, Study

study = Study(
    title="Depth with and without shortcuts, on digits",
    question="Does a deeper network learn the digits better, with shortcuts and without them?",
    base=Path(__file__).parents[1] / "configs" / "digits.py",
    axes={
        "network": {
            "plain": {"model.shortcut": "none"},
            "residual": {"model.shortcut": "zero_pad"},
        },
        "depth": {
            "8": {"model.stage_sizes": (1, 1, 1)},
            "20": {"model.stage_sizes": (3, 3, 3)},
            "32": {"model.stage_sizes": (5, 5, 5)},
        },
    },
    # A plain network cannot start its branches at zero, so neither of the two does.
    settings={
        "model.name": "cifar_resnet20",
        "model.width_multiplier": 0.5,
        "model.zero_init_residual": False,
        "epochs": 10.0,
        "optim.base_lr": 0.2,
        "optim.warmup_epochs": 1.0,
        "eval_every_epochs": 2.0,
        "checkpoint.every_epochs": 10.0,
    },
    numbers=("error", "train/error"),
    compare=(
        Slope(along="depth", number="train/error", unit=10),
        Slope(along="depth", number="error", unit=10),
    ),
)
