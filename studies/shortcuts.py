"""He et al. 2015, Table 3: the shortcuts A, B and C.

    python -m resnet_jax study studies/shortcuts.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/shortcuts.py --scale paper        # 34 layers on ImageNet; not run here

A adds no parameters: it copies channels and fills up with zeros. B has a 1x1 convolution where shapes change, C in
every block. By itself the study is sized for a laptop: networks of half the width, on 4,000 images of Fashion-MNIST.
"""

from pathlib import Path

from resnet_jax import Difference, Published, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
TABLE_3 = "He et al. 2015, Table 3: 34 layers on ImageNet, ten crops"

study = Study(
    title="Shortcuts A, B and C",
    question="Does a network learn better where its shortcuts have parameters?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "shortcut": {
            "A": {"model.shortcut": "zero_pad"},
            "B": {"model.shortcut": "projection"},
            "C": {"model.shortcut": "projection_always"},
        },
    },
    seeds=(0, 1, 2, 3, 4),
    numbers=("error", "train/error"),
    compare=(
        Difference(of="A", minus="B"),
        Difference(of="B", minus="C"),
        Difference(of="A", minus="C"),
        Difference(of="A", minus="C", number="train/error"),
    ),
    paper={
        "A": Published(error=25.03, source=TABLE_3),
        "B": Published(error=24.52, source=TABLE_3),
        "C": Published(error=24.19, source=TABLE_3),
    },
    scales={
        "paper": Scale(
            settings={**vars(load_config(CONFIGS / "recipes" / "he2015_resnet50.py")), "model.name": "resnet34"},
            seeds=(0, 1, 2),
        ),
    },
)
