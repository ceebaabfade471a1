"""What a run starts from. Standard library only."""

from dataclasses import dataclass
from typing import Literal

from resnet_jax.config.checked import Checked


@dataclass(frozen=True, kw_only=True)
class Start(Checked):
    """The variables before the first update. A run that is continued starts from its own checkpoint instead."""

    weights: str = ""
    """A published set such as `IMAGENET1K_V2`, a weight file, a repository of the Hugging Face hub, or the folder of a
    run; empty = random. From weights for RGB images, the first convolution for other `data.channels` is made as timm
    does. Frozen parameters that come from these weights are not saved in checkpoints. Continuing and evaluating the run
    need the same weights again, and check that they are the same."""
    head: Literal["same_classes", "fitting", "new"] = "same_classes"
    """When the last layer is taken as well, and not made new. `same_classes`: where its shape fits, unless the weights
    (a published set or a run) name other classes than the data. `fitting`: wherever its shape fits. `new`: never."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint, where `weights` is the folder of a run."""
    inflate: Literal["centred", "repeated"] | None = None
    """The weights are those of the network for images, which has the same name and no `model.time`: how they become
    kernels in space and time. `centred`: in the middle, with zeros around. `repeated`: at each place, divided by their
    number, as I3D does."""
