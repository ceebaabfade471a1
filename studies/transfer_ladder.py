"""How much of a network to train on your own images: the ladder of docs/transfer.md.

    python -m resnet_jax study studies/transfer_ladder.py --data.name folder:photos --start.weights IMAGENET1K_V2
    python -m resnet_jax study studies/transfer_ladder.py --scale cifar10

Accuracy, time, memory and trained parameters of each level. The options are those of configs/transfer/full.py. The
scale `cifar10` is ResNet-152 with ImageNet's weights on CIFAR-10 at 224 pixels; configs/transfer says what others have
found with it, and it has not been run here.
"""

from pathlib import Path

from resnet_jax import Measure, Scale, Start, Study
from resnet_jax.studies.measures import memory_of_a_step, trained_parameters

CONFIGS = Path(__file__).parents[1] / "configs" / "transfer"


def levels(head_rate: float) -> dict[str, dict[str, object]]:
    """As the config files of configs/transfer. A head alone is a convex problem: it needs neither a small rate nor
    decay."""
    head = {"optim.level": "head", "optim.base_lr": head_rate, "optim.weight_decay": 0.0}
    return {
        "scratch_probe": {**head, "start": Start()},
        "probe": head,
        "last_block": {"optim.level": "last_block"},
        "full": {"optim.level": "all"},
    }


study = Study(
    title="The ladder of transfer learning",
    question="How much of a trained network is worth training on other images, and what does it cost?",
    base=CONFIGS / "full.py",
    axes={"level": levels(0.8)},
    seeds=(0,),
    measures={
        "trained parameters": Measure(of=trained_parameters, form="{:,.0f}", each_seed=False),
        "bytes of a step": Measure(of=memory_of_a_step, form="{:,.0f}", each_seed=False),
    },
    scales={"cifar10": Scale(base=CONFIGS / "cifar10_resnet152_full.py", axes={"level": levels(0.4)})},
)
