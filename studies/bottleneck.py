"""He et al. 2015, Figure 5: two 3x3 convolutions against a bottleneck, at equal cost.

    python -m resnet_jax study studies/bottleneck.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/bottleneck.py --scale paper       # 34 and 50 layers on ImageNet; not run here

A basic block of width w has 18 w^2 weights. A bottleneck of width w, which puts out 4 w channels, has 17 w^2, and so
nearly the same arithmetic. It is three layers deep instead of two. The table shows what both cost. By itself the study
is sized for a laptop: networks of half the width, on 4,000 images of Fashion-MNIST.
"""

from pathlib import Path

from resnet_jax import Difference, Published, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
TABLE_3 = "He et al. 2015, Table 3: ImageNet, ten crops, shortcut B"
BLOCKS = (3, 5, 7)

study = Study(
    title="Basic blocks against bottlenecks",
    question="Which block learns more from the same arithmetic?",
    base=CONFIGS / "fashion_small.py",
    axes={
        "block": {"basic": {"model.block": "basic"}, "bottleneck": {"model.block": "bottleneck"}},
        "blocks": {str(3 * n): {"model.stage_sizes": (n, n, n)} for n in BLOCKS},
    },
    settings={"model.shortcut": "projection"},
    numbers=("error", "train/error"),
    compare=tuple(
        Difference(of=f"bottleneck/{count}", minus=f"basic/{count}", number=number)
        for number in ("train/error", "error")
        for count in (*(3 * n for n in BLOCKS), 16)
    ),
    paper={
        "basic/16": Published(error=24.52, source=TABLE_3),
        "bottleneck/16": Published(error=22.85, source=TABLE_3),
    },
    scales={
        "paper": Scale(
            settings={**vars(load_config(CONFIGS / "recipes" / "he2015_resnet50.py")), "model.name": "resnet34"},
            axes={"blocks": {"8": {"model.stage_sizes": (2, 2, 2, 2)}, "16": {"model.stage_sizes": (3, 4, 6, 3)}}},
        ),
    },
)
