"""He et al. 2015b (arXiv:1502.01852): how convolutions begin.

    python -m resnet_jax study studies/initialisation.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/initialisation.py --scale paper   # 56 layers on CIFAR-10; not run here

Batch normalisation divides by the size of what it sees, so the size of the first weights matters little with it. The
paper's networks have none. There, 30 layers that begin as Glorot & Bengio say do not learn, and those of the paper do
(Figure 3). `plain_without_norm` is such a network: its norms only scale and shift, and its rate is a fifth of the
others'. By itself the study is sized for a laptop: 32 layers of half the width, on 4,000 images of Fashion-MNIST.
"""

from pathlib import Path
from typing import Any

from resnet_jax import Difference, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
LAWS = ("he", "xavier", "lecun", "normal_001", "torch")
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"model.shortcut": "none"},
    "plain_without_norm": {"model.shortcut": "none", "model.norm": "frozen", "optim.base_lr": 0.04},
    "residual": {"model.shortcut": "zero_pad"},
}

study = Study(
    title="How convolutions begin",
    question="Does it matter how the weights of convolutions begin, with batch normalisation and without it?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "network": NETWORKS,
        "law": {law: {"model.weight_init": law} for law in LAWS},
    },
    settings={"model.stage_sizes": (5, 5, 5)},
    numbers=("error", "train/error"),
    compare=tuple(
        Difference(of=f"{kind}/{law}", minus=f"{kind}/he", number="train/error")
        for kind in NETWORKS
        for law in LAWS[1:]
    ),
    scales={
        "paper": Scale(
            settings={**vars(load_config(CONFIGS / "cifar10.py")), "model.stage_sizes": (9, 9, 9)},
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
