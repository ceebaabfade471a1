"""Goyal et al. 2017 (arXiv:1706.02677): branches that begin at zero, and a rate that rises slowly, for large steps.

    python -m resnet_jax study studies/zero_gamma_warmup.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/zero_gamma_warmup.py --scale paper    # ResNet-50, 8,192 images; not run here

By itself the study is sized for a laptop: networks of half the width, on 4,000 images of Fashion-MNIST, with four times
the rate of the other studies, since small steps need neither.
"""

from pathlib import Path

from resnet_jax import Difference, Published, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
TABLE_2 = "Goyal et al. 2017, Table 2: ResNet-50 on ImageNet, 8,192 images, mean of 5 runs"

study = Study(
    title="Branches that begin at zero, and warm-up",
    question="Do branches that begin at zero and a slow start make large steps safe?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "branches": {
            "zero": {"model.zero_init_residual": True},
            "one": {"model.zero_init_residual": False},
        },
        "warmup": {"none": {"optim.warmup_epochs": 0.0}, "gradual": {"optim.warmup_epochs": 1.0}},
    },
    settings={"model.stage_sizes": (5, 5, 5), "optim.base_lr": 0.8},
    numbers=("error", "train/error"),
    compare=(
        Difference(of="zero/none", minus="zero/gradual", number="train/error"),
        Difference(of="one/none", minus="one/gradual", number="train/error"),
        Difference(of="one/gradual", minus="zero/gradual", number="train/error"),
        Difference(of="one/none", minus="zero/none", number="train/error"),
        Difference(of="one/none", minus="zero/gradual"),
    ),
    paper={
        "zero/none": Published(error=24.84, source=TABLE_2),
        "zero/gradual": Published(error=23.74, source=TABLE_2),
    },
    scales={
        "paper": Scale(
            settings=vars(load_config(CONFIGS / "recipes" / "goyal2017_resnet50.py")),
            axes={"warmup": {"none": {"optim.warmup_epochs": 0.0}, "gradual": {"optim.warmup_epochs": 5.0}}},
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
