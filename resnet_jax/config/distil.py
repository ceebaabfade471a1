"""A teacher for the network that is trained. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Positive, Range
from resnet_jax.config.preset import AS_PUBLISHED, PresetChange
from resnet_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Distil(Checked):
    """Distillation: a trained network, the teacher, says for each training image what it sees, and the network that is
    trained, the student, learns to say the same.

    The loss is `(1 - alpha) * L + alpha * T^2 * KL`. L is the loss of the task. KL is the divergence of the student's
    probabilities from the teacher's, both of logits divided by T (Hinton et al. 2015, arXiv:1503.02531): the sum over
    the classes, the mean over the images.
    """

    teacher: str = ""
    """The folder of a run, a weight file, a folder that timm loads, or a published set such as
    `resnet152:IMAGENET1K_V2`; empty = no teacher. Checkpoints do not hold the teacher. To continue the run needs the
    same teacher again; to evaluate or export it does not."""
    model: str = ""
    """The teacher's network, where `teacher` is a file; empty = the names and shapes in the file decide."""
    preset: PresetChange = AS_PUBLISHED
    """How the teacher's images are normalised (`mean` and `std`), where `teacher` is a file, which does not say it."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint, where `teacher` is the folder of a run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the teacher's activations and convolutions."""
    alpha: Annotated[float, Range(low=0, high=1)] = 0.9
    """How much the teacher counts against the labels; 1 = labels are not used (function matching, Beyer et al. 2022,
    arXiv:2106.05237)."""
    temperature: Annotated[float, Positive] = 4.0
    """T: the logits of both are divided by it."""
    attention: tuple[Annotated[int, AtLeastOne], ...] = ()
    """Stages, from 1, where the student also learns to look at the same places as the teacher (Zagoruyko & Komodakis
    2017, arXiv:1612.03928). Their maps must have the same height and width; the numbers of channels may differ."""
    attention_weight: Annotated[float, Positive] = 1000.0
    """How much the mean squared difference of the attention counts, summed over the stages; 1000 is the paper's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher and not self.alpha and not self.attention:
            raise ConfigError(
                "distil.alpha = 0.0 and distil.attention = (): the teacher would say nothing; set alpha above 0, name "
                "stages, or leave distil.teacher out"
            )
        if len(set(self.attention)) < len(self.attention):
            raise ConfigError(f"distil.attention = {self.attention} names a stage twice; leave one out")
