"""He et al. 2015b (arXiv:1502.01852): how convolutions begin.

    python -m resnet_jax study studies/initialisation.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/initialisation.py --scale paper   # 20 and 56 layers on CIFAR-10; not run here

Batch normalisation divides by the size of what it sees. So these networks see much less of the first weights than those
of the paper, which have none. By itself the study is sized for a laptop: networks of half the width, on 4,000 images of
Fashion-MNIST.
"""

from pathlib import Path

from resnet_jax import Difference, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
LAWS = ("he", "he_fan_in", "xavier", "lecun", "normal_001", "torch")

study = Study(
    title="How convolutions begin",
    question="Does it matter, with batch normalisation, how the weights of convolutions begin?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "network": {"plain": {"model.shortcut": "none"}, "residual": {"model.shortcut": "zero_pad"}},
        "law": {law: {"model.weight_init": law} for law in LAWS},
    },
    settings={"model.stage_sizes": (5, 5, 5)},
    numbers=("error", "train/error"),
    compare=tuple(
        Difference(of=f"{kind}/{law}", minus=f"{kind}/he", number="train/error")
        for kind in ("plain", "residual")
        for law in LAWS[1:]
    ),
    scales={
        "paper": Scale(
            settings={**vars(load_config(CONFIGS / "cifar10.py")), "model.stage_sizes": (9, 9, 9)},
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
