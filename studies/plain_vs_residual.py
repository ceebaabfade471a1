"""He et al. 2015, section 4.2: plain networks get worse with depth, residual networks do not.

    python -m resnet_jax study studies/plain_vs_residual.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/plain_vs_residual.py --scale paper --data.name tfds:cifar10

By itself it is sized for a laptop: networks of half the width, on 4,000 images of Fashion-MNIST, which Debian's package
dataset-fashion-mnist brings. `--scale paper` is the paper's own experiment: CIFAR-10, 64,000 steps of 128 images, 20 to
110 layers. It has not been run here.
"""

from pathlib import Path

from resnet_jax import Difference, Measure, Published, Scale, Slope, Study, load_config
from resnet_jax.studies.measures import gradients_after_training, gradients_before_training


def blocks(depth: int) -> dict[str, tuple[int, int, int]]:
    """6n + 2 layers."""
    return {"model.stage_sizes": ((depth - 2) // 6,) * 3}


CONFIGS = Path(__file__).parents[1] / "configs"
PAPER = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97}
TABLE_6 = "He et al. 2015, Table 6: CIFAR-10, whole widths, 64,000 steps"

study = Study(
    title="Plain against residual networks, by depth",
    question="Does a deeper network have a lower error, without shortcuts and with them?",
    base=CONFIGS / "fashion.py",
    axes={
        "network": {
            "plain": {"model.shortcut": "none"},
            "residual": {"model.shortcut": "zero_pad"},
        },
        "depth": {str(depth): blocks(depth) for depth in (20, 32, 44, 56)},
    },
    # A plain network cannot start its branches at zero, so neither of the two does.
    settings={
        "model.name": "cifar_resnet20",
        "model.width_multiplier": 0.5,
        "model.zero_init_residual": False,
        "data.train_split": "train[:4000]",
        "data.image_size": 28,
        "data.eval_resize": 28,
        "batch_size": 64,
        "epochs": 4.0,
        "optim.base_lr": 0.2,
        "checkpoint.every_epochs": 4.0,
        "eval_every_epochs": 4.0,
    },
    numbers=("error", "train/error"),
    measures={
        "gradient norm before training": Measure(
            of=gradients_before_training, index="convolution, from the image", log=True
        ),
        "gradient norm after training": Measure(
            of=gradients_after_training, index="convolution, from the image", log=True
        ),
    },
    compare=(
        Slope(along="depth", number="train/error", unit=10),
        Slope(along="depth", number="error", unit=10),
        Difference(of="plain/56", minus="plain/20", number="train/error"),
        Difference(of="residual/56", minus="residual/20", number="train/error"),
        Difference(of="plain/56", minus="residual/56", number="train/error"),
    ),
    paper={f"residual/{depth}": Published(error=error, source=TABLE_6) for depth, error in PAPER.items()},
    scales={
        "paper": Scale(
            settings=vars(load_config(CONFIGS / "cifar10.py")),
            axes={"depth": {str(depth): blocks(depth) for depth in (20, 32, 44, 56, 110)}},
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
