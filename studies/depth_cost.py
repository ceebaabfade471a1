"""Depth against accuracy against cost, for the five networks of He et al. 2015, Table 1.

    python -m resnet_jax study studies/depth_cost.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/depth_cost.py --scale paper       # ImageNet; not run here

By itself the study is sized for a laptop: the blocks and stages of these networks, with a first stage of 8 channels and
a stem for small images, on 4,000 images of Fashion-MNIST. The picture `accuracy_by_cost` sets accuracy against
arithmetic, parameters and seconds.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import Difference, Published, Scale, Study, load_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resnet_jax.studies.results import Results

CONFIGS = Path(__file__).parents[1] / "configs"
SIZES: dict[int, tuple[str, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
TORCHVISION = "torchvision 0.28, IMAGENET1K_V1, one crop"
ACCURACIES = {18: 69.758, 34: 73.314, 50: 76.130, 101: 77.374, 152: 78.312}


def small(depth: int) -> dict[str, Any]:
    block, sizes = SIZES[depth]
    return {"model.block": block, "model.stage_sizes": sizes}


def accuracy_by_cost(figure: "Figure", results: "Results") -> None:
    """A point for each seed, by what its network costs."""
    figure.set_size_inches(13, 4.8)
    figure.suptitle(results.study.title, fontsize=13, fontweight="bold")
    panels = figure.subplots(1, 3, sharey=True)
    for row in results.rows:
        for outcome in row.complete:
            costs = (row.macs / 1e6, row.parameters / 1e3, outcome.numbers["seconds"])
            for axes, cost in zip(panels, costs, strict=True):
                axes.scatter([cost], [100 * (1 - outcome.numbers["error"])], color="#0072b2", s=26, zorder=2)
        if row.complete:
            best = max(100 * (1 - outcome.numbers["error"]) for outcome in row.complete)
            place = (row.macs / 1e6, best)
            panels[0].annotate(row.cell.name, place, (0, 7), textcoords="offset points", ha="center", fontsize=9)
    for axes, label in zip(
        panels, ("million MACs of one image", "thousand parameters", "seconds of a run"), strict=True
    ):
        axes.set_xlabel(label)
        axes.margins(0.12)
        axes.set_xlim(left=0)
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %; a point for each seed")


study = Study(
    title="Depth, accuracy and cost",
    question="What does more depth bring, and what does it cost?",
    base=CONFIGS / "fashion_small.py",
    axes={"depth": {str(depth): small(depth) for depth in SIZES}},
    settings={"model.shortcut": "projection"},
    numbers=("error", "train/error", "seconds"),
    compare=(
        Difference(of="34", minus="18"),
        Difference(of="50", minus="34"),
        Difference(of="101", minus="50"),
        Difference(of="152", minus="101"),
        Difference(of="152", minus="18", number="train/error"),
    ),
    pictures={"accuracy_by_cost": accuracy_by_cost},
    paper={str(depth): Published(accuracy=accuracy, source=TORCHVISION) for depth, accuracy in ACCURACIES.items()},
    scales={
        "paper": Scale(
            settings=vars(load_config(CONFIGS / "recipes" / "torchvision_v1_resnet50.py")),
            axes={"depth": {str(depth): {"model.name": f"resnet{depth}"} for depth in SIZES}},
            seeds=(0,),
        ),
    },
)
