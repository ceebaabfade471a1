"""The network. Standard library only."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_jax.config.checked import AtLeastOne, Checked, Fraction, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The network. Options beyond these are arguments of `resnet_jax.create_model`."""

    name: str = "resnet50"
    """A name from `python -m resnet_jax models`."""
    num_classes: Annotated[int, AtLeastOne] | None = 1000
    """None = as many classes as the training set has."""
    width_multiplier: Annotated[float, Positive] = 1.0
    """Multiplies the channels of every layer; 0.5 computes about a quarter."""
    widths: tuple[Annotated[int, AtLeastOne], ...] = ()
    """Channels that each convolution of the stem and of the branches puts out, in the order of computation, as `prune`
    writes them; empty = as the name says, or as of the run that `start.weights` names."""
    stage_sizes: tuple[Annotated[int, AtLeastOne], ...] = ()
    """Blocks of each stage, for a network of another depth; empty = as the name says."""
    output_stride: Literal[8, 16, 32] | None = None
    """A stage that would make the stride of the network larger dilates its convolutions instead; None = as the name
    says."""
    block: Literal["basic", "bottleneck", "bottleneck_v1", "preact_basic", "preact_bottleneck", "ir"] | None = None
    """The residual block (docs/models.md); None = as the name says."""
    shortcut: (
        Literal["zero_pad", "zero_pad_centred", "projection", "projection_always", "average_pool", "none"] | None
    ) = None
    """What goes around a branch: options A (`zero_pad`), B (`projection`) and C (`projection_always`) of He et al.
    2015, or nothing, a plain network, which needs `zero_init_residual = False`; None = as the name says."""
    norm: Literal["batch", "frozen", "frozen_eps0", "group"] | None = None
    """The normalisation; None = as the name says."""
    weight_init: Literal["he", "he_fan_in", "xavier", "lecun", "normal_001", "torch"] | None = None
    """How convolutions begin: He et al. 2015 by fan-out or fan-in, Glorot & Bengio 2010, LeCun et al. 1998, a standard
    deviation of 0.01, or as `torch.nn.Conv2d` does; None = as the block says, which is `he` but for face networks."""
    antialias: bool | Literal["before"] | None = None
    """Blur before every subsampling after the first convolution (Zhang 2019, BlurPool), or `before` every strided
    convolution alone, as FFCV does; None = as the name says."""
    time: Literal["3d", "mixed", "2+1d"] | None = None
    """The network sees clips: every kernel has an axis of time too (`3d`), those of the first stage alone (`mixed`), or
    each convolution is cut into one in space and one in time (`2+1d`); None = as the name says."""
    time_padding: Literal["zeros", "border"] = "zeros"
    """What a network of clips sees before the first frame and after the last: zeros, or this frame again."""
    zero_init_residual: bool = True
    """Start the last BatchNorm scale of every residual branch at 0 (Goyal et al. 2017, section 5.1)."""
    bn_group_size: Annotated[int, NotNegative] = 0
    """How many images share BatchNorm statistics in training; 0 = the whole batch. The size is part of the recipe: it
    does not depend on the number of devices."""
    stochastic_depth: Annotated[float, Fraction] = 0.0
    """Rate at which training drops the last block's branch. The rate rises linearly from 0 in the first block (Huang et
    al. 2016)."""
    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """Type of activations and convolutions. Parameters, statistics, logits and loss stay float32. `tf32` stores float32
    and lets the device multiply with fewer bits (10 on a GPU, 7 on a TPU); `float32` never does. `float16` scales the
    loss, see `docs/pods.md`."""
    remat: tuple[Annotated[int, AtLeastOne], ...] = ()
    """Stages, from 1, that compute their activations again in the backward pass, block by block, instead of keeping
    them: less memory, up to a third more time."""
