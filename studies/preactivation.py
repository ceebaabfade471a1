"""He et al. 2016 (arXiv:1603.05027), Table 3: activation before or after the convolutions of very deep networks.

    python -m resnet_jax study studies/preactivation.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/preactivation.py --scale deep --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/preactivation.py --scale paper    # 110 to 1001 layers on CIFAR-10; not run here

By itself it is sized for a laptop: 20 and 110 layers of half the width, on 4,000 images of Fashion-MNIST. `deep` adds
164 layers of bottlenecks. The paper finds that the gain grows with depth.
"""

from collections.abc import Mapping
from pathlib import Path

from resnet_jax import Difference, Published, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
TABLE_3 = "He et al. 2016, Table 3: CIFAR-10, median of 5 runs"
BASIC = {str(6 * n + 2): {"model.stage_sizes": (n, n, n)} for n in (3, 18)}
DEEP = {str(9 * n + 2): {"model.stage_sizes": (n, n, n)} for n in (18, 111)}
ERRORS = {
    "post/110": 6.61,
    "pre/110": 6.37,
    "post_bottleneck/164": 5.93,
    "pre_bottleneck/164": 5.46,
    "post_bottleneck/1001": 7.61,
    "pre_bottleneck/1001": 4.92,
}


def of_the_other_kind(values: Mapping[str, str]) -> bool:
    """Depths of 6n + 2 layers have basic blocks, those of 9n + 2 bottlenecks."""
    return values["unit"].endswith("bottleneck") != (values["depth"] in DEEP)


study = Study(
    title="Activation after and before the convolutions",
    question="Does a very deep network learn better where its blocks end with the sum?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "unit": {
            "post": {"model.block": "basic"},
            "pre": {"model.block": "preact_basic"},
            "post_bottleneck": {"model.block": "bottleneck", "model.shortcut": "projection"},
            "pre_bottleneck": {"model.block": "preact_bottleneck", "model.shortcut": "projection"},
        },
        "depth": BASIC,
    },
    leave_out=of_the_other_kind,
    numbers=("error", "train/error"),
    compare=(
        Difference(of="pre/110", minus="post/110", number="train/error"),
        Difference(of="pre/110", minus="post/110"),
        Difference(of="pre/20", minus="post/20", number="train/error"),
        Difference(of="pre_bottleneck/164", minus="post_bottleneck/164", number="train/error"),
        Difference(of="pre_bottleneck/164", minus="post_bottleneck/164"),
        Difference(of="pre_bottleneck/1001", minus="post_bottleneck/1001"),
    ),
    paper={name: Published(error=error, source=TABLE_3) for name, error in ERRORS.items()},
    scales={
        "deep": Scale(axes={"depth": {**BASIC, "164": DEEP["164"]}}),
        "paper": Scale(
            settings={**vars(load_config(CONFIGS / "cifar10.py")), "optim.warmup_epochs": 1.0},
            axes={"depth": {"110": BASIC["110"], **DEEP}},
            seeds=(0, 1, 2, 3, 4),
        ),
    },
)
