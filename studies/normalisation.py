"""Over how many images batch normalisation takes its statistics, and what does without it (Wu & He 2018,
arXiv:1803.08494).

    python -m resnet_jax study studies/normalisation.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/normalisation.py --scale paper    # ResNet-50 on ImageNet; not run here

`frozen` never uses a batch's statistics: it only scales and shifts. Such a network may fail to learn, and the table
says so. By itself the study is sized for a laptop: eight layers of twice the width, since groups of channels need 32
channels or more, on 4,000 images of Fashion-MNIST.
"""

from pathlib import Path
from typing import Any

from resnet_jax import Difference, Published, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
TABLE_2 = "Wu & He 2018, Table 2: ResNet-50 on ImageNet"
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
NORMS: dict[str, dict[str, Any]] = {
    **{f"batch_{size}": {"model.norm": "batch", "model.bn_group_size": size} for size in SIZES},
    "group": {"model.norm": "group"},
    "frozen": {"model.norm": "frozen"},
}

study = Study(
    title="Batch normalisation of 2 to 256 images, and without a batch",
    question="How many images does batch normalisation need, and what does better with few?",
    base=CONFIGS / "fashion_small.py",
    axes={"norm": NORMS},
    settings={
        "model.stage_sizes": (1, 1, 1),
        "model.width_multiplier": 2.0,
        "model.bn_group_size": 0,
        "batch_size": 256,
    },
    numbers=("error", "train/error"),
    compare=tuple(Difference(of=name, minus="batch_256") for name in NORMS if name != "batch_256"),
    paper={
        "batch_2": Published(error=34.7, source=f"{TABLE_2}, 2 images on each device"),
        "group": Published(error=24.1, source=TABLE_2),
    },
    scales={
        "paper": Scale(
            settings={
                **vars(load_config(CONFIGS / "recipes" / "torchvision_v1_resnet50.py")),
                "model.bn_group_size": 0,
            },
            seeds=(0,),
        ),
    },
)
