"""Goyal et al. 2017 (arXiv:1706.02677): large batches with a rate that grows with them, by SGD, LARS and LAMB.

    python -m resnet_jax study studies/batch_size.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/batch_size.py --scale paper       # ResNet-50 on ImageNet; not run here

`optim.base_lr` is for 256 images, and a run scales it with its batch. `sgd/128_unscaled` keeps the rate of the smallest
batch. With LARS and LAMB, the paper's scale has the rates and decays of configs/recipes/mlperf_lars_resnet50.py and
rsb_a2_resnet50.py. All runs see the same number of images, so a large batch makes fewer steps. By itself the study is
sized for a laptop: networks of half the width, on 4,000 images of Fashion-MNIST.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax import Difference, Published, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
TABLES = "Goyal et al. 2017, ResNet-50 on ImageNet, mean of 5 runs"
OPTIMIZERS = ("sgd", "lars", "lamb")


def batches(sizes: tuple[int, ...], rate: float) -> dict[str, dict[str, Any]]:
    """Each size, and all but the smallest once more with the rate of the smallest one."""
    return {
        **{str(size): {"batch_size": size} for size in sizes},
        **{f"{size}_unscaled": {"batch_size": size, "optim.base_lr": rate * sizes[0] / size} for size in sizes[1:]},
    }


def has_no_use(values: Mapping[str, str]) -> bool:
    """LARS and LAMB have rates of their own."""
    return values["optimizer"] != "sgd" and values["batch"].endswith("_unscaled")


study = Study(
    title="Large batches",
    question="How large may a batch be, if the rate grows with it, by each optimizer?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "optimizer": {
            "sgd": {"optim.optimizer": "sgd"},
            "lars": {"optim.optimizer": "lars", "optim.base_lr": 2.0, "optim.nesterov": False},
            "lamb": {"optim.optimizer": "lamb", "optim.base_lr": 0.01, "optim.nesterov": False},
        },
        "batch": batches((32, 128, 512, 1024), rate=0.2),
    },
    leave_out=has_no_use,
    settings={"optim.base_lr": 0.2},
    numbers=("error", "train/error"),
    compare=(
        *(Difference(of=f"{name}/1024", minus=f"{name}/32") for name in OPTIMIZERS),
        *(Difference(of=f"{name}/16384", minus=f"{name}/256") for name in OPTIMIZERS),
        *(Difference(of=f"sgd/{size}_unscaled", minus=f"sgd/{size}") for size in (128, 512, 1024, 8192, 16384)),
        *(Difference(of=f"{name}/{size}", minus=f"sgd/{size}") for size in (1024, 16384) for name in OPTIMIZERS[1:]),
    ),
    paper={
        "sgd/256": Published(error=23.60, source=TABLES),
        "sgd/8192": Published(error=23.74, source=TABLES),
        "sgd/8192_unscaled": Published(error=41.67, source=TABLES),
        "sgd/16384": Published(error=24.79, source=TABLES),
    },
    scales={
        "paper": Scale(
            settings=vars(load_config(CONFIGS / "recipes" / "goyal2017_resnet50.py")),
            axes={
                "optimizer": {
                    "sgd": {"optim.optimizer": "sgd"},
                    "lars": {"optim.optimizer": "lars", "optim.base_lr": 0.86, "optim.weight_decay": 5e-5},
                    "lamb": {"optim.optimizer": "lamb", "optim.base_lr": 0.000625, "optim.weight_decay": 0.02},
                },
                "batch": batches((256, 8192, 16384), rate=0.1),
            },
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
