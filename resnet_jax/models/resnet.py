"""ResNet (He et al. 2015, arXiv:1512.03385) and its relatives as one functional Flax Linen module.

Every relative is this one forward path with other parts: a stem, blocks, shortcuts, norms. Each part is a name in a
table or a callable of your own. Submodules carry torchvision's names, with `layer1.0` written `layer1_0`. So a weight
converter only renames and transposes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.blocks import Activation, Block, Parts
from resnet_jax.models.blueprint import Blueprint, draw
from resnet_jax.models.deferred import pooled_norm_of
from resnet_jax.models.forms import in_halves, same, summed_once
from resnet_jax.models.layers import Conv, Dtype, linear_bias_init, linear_kernel_init, relu, trained
from resnet_jax.models.norms import bind
from resnet_jax.models.pooling import blur_pool, max_pool
from resnet_jax.models.shortcuts import Shortcut
from resnet_jax.models.stems import Stem
from resnet_jax.models.temporal import head_init, in_time

FOR_TRAINING = {
    "stochastic_depth",
    "remat",
    "zero_init_residual",
    "weight_init",
    "bn_group_size",
    "bn_axis_name",
    "precision",
    "dtype",
}
"""Fields of `ResNet` that change nothing of what a trained network computes, but for rounding."""


class ResNet(nn.Module):
    """A residual network: stem, stages of blocks at half the resolution and twice the width each, pool, `fc`.

    Attributes:
      block: `"basic"`, `"bottleneck"`, `"bottleneck_v1"` (stride in the first 1x1), `"preact_basic"`,
        `"preact_bottleneck"`, `"ir"` (of face networks), or a subclass of `blocks.Block`.
      stage_sizes: blocks per stage.
      num_classes: columns of the logits; 0 = no `fc`: the network returns the pooled features.
      width: channels of the first stage (before a bottleneck's factor of 4).
      stem: `"imagenet"` = 7x7 stride 2; `"cifar"` = 3x3 stride 1 and no max-pool (section 4.2); `"deep"` and
        `"deep_tiered"` = three 3x3; `"space_to_depth"` = the 7x7 in another layout; `"face"` = 3x3 stride 1, no
        max-pool, and a first stage that strides; or a `stems.Stem`.
      shortcut: `"zero_pad"` = option A, `"zero_pad_centred"` = A with half of the zeros before the copied channels,
        `"projection"` = B, `"projection_always"` = C, `"average_pool"` = ResNet-D's, `"none"` = a plain network; or a
        function as in `shortcuts`.
      norm: `"batch"`, `"frozen"` (batch normalisation that never uses or moves batch statistics), `"group"`; or a
        module class with the fields `scale_init`, `dtype` and `param_dtype`, such as a `partial` of flax's.
      act: `"relu"`, `"leaky_relu"`, `"silu"`, `"gelu"`, `"prelu"` (with blocks `"ir"` alone), or a function.
      pool: `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`, or a function (N, H, W, C) -> (N, D).
      stem_width: channels of the stem; None = `width`.
      groups, base_width: of a bottleneck's 3x3: `groups` times `width * base_width / 64` channels (ResNeXt, Wide).
      se_ratio: factor by which squeeze-and-excitation narrows the channels, 0 = no squeeze-and-excitation.
      antialias: True = blur before every subsampling after the first convolution (Zhang 2019); `"before"` = blur before
        every strided convolution but the first, also of shortcuts, and keep the max-pool (FFCV).
      weight_standardization: of every convolution; for use with `norm="group"`.
      width_multiplier: multiplies `width` and `stem_width`.
      widths: channels that each convolution puts out, in the order of computation: those of the stem, then those of
        each block's branch; empty = as `width` says. A shortcut puts out what its branch does. Pruned networks have it.
      folded: every convolution has a bias, and no norm follows it: what `compress.fold` makes of a network. Norms that
        follow no convolution stay, as in pre-activation blocks.
      time: None = images; otherwise the network sees clips. `"3d"`: every kernel and every stride has all three axes,
        but the stem does not stride in time. `"mixed"`: so in the first stage, and later stages see one frame at a time
        (torchvision's `mc3_18`). `"2+1d"`: as `"3d"`, with each convolution cut into one in space and one in time.
      time_padding: what convolutions see before the first frame and after the last: `"zeros"`, or `"border"` = this
        frame again.
      output_stride: 8, 16 or 32: a stage that would make the stride larger dilates instead; None = every stage strides.
      stochastic_depth: rate at which training drops the last block's branch, per image; it rises linearly from 0 at
        the first block. `apply` then needs `rngs={"dropout": key}`.
      remat: the stages (from 1) whose activations are not kept, but computed again in the backward pass, block by
        block.
      zero_init_residual: start the last scale of each branch at 0 (the last kernel in pre-activation blocks), so that a
        block starts as its shortcut (Goyal et al. 2017, arXiv:1706.02677, section 5.1; torchvision reports 0.2-0.3
        points of accuracy).
      weight_init: how convolutions begin: a name of `initial.WEIGHT_INITS`, or an initializer; None = as the block says
        (`"he"`, but for face networks).
      bn_group_size: images that share BatchNorm statistics in training, 0 = the whole batch.
      bn_axis_name: the axis of `jax.shard_map` or `vmap` whose members hold the whole batch together.
      precision: of products of float32 numbers, `"highest"` or None = the platform's default, which is TF32 on GPUs and
        bfloat16 on TPUs.
      dtype: of activations and convolutions; None = the dtype of images and parameters. Logits are at least float32.
      param_dtype: of parameters and statistics.

    Raises:
      ModelError: on construction: an unknown name, a number out of range, or parts that do not fit each other.
    """

    block: str | type[Block]
    stage_sizes: tuple[int, ...]
    num_classes: int = 1000
    width: int = 64
    stem: str | Stem = "imagenet"
    shortcut: str | Shortcut = "projection"
    norm: str | Callable[..., nn.Module] = "batch"
    act: str | Activation = "relu"
    pool: str | Activation = "avg"
    stem_width: int | None = None
    groups: int = 1
    base_width: int = 64
    se_ratio: int = 0
    antialias: bool | str = False
    weight_standardization: bool = False
    width_multiplier: float = 1.0
    widths: tuple[int, ...] = ()
    folded: bool = False
    time: str | None = None
    time_padding: str = "zeros"
    output_stride: int | None = None
    stochastic_depth: float = 0.0
    remat: tuple[int, ...] = ()
    zero_init_residual: bool = False
    weight_init: str | nn.initializers.Initializer | None = None
    bn_group_size: int = 0
    bn_axis_name: str | None = None
    precision: lax.PrecisionLike = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        draw(self)  # only to refuse impossible options at once
        super().__post_init__()

    @property
    def sides(self) -> tuple[int, ...]:
        """The axes of a small image or clip that the network can see, without batch and channels."""
        return (64, 64) if self.time is None else (4, 64, 64)

    def on_axis(self, axis: str) -> Self:
        """The network where the whole batch lies on an axis of `jax.shard_map` or `vmap`, see `bn_axis_name`."""
        return self.clone(bn_axis_name=axis)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "N *S C"],
        *,
        train: bool,
        features: bool = False,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
        positions: Int[Array, " N"] | None = None,
    ) -> Float[Array, "N K"] | dict[str, Array]:
        """(N, H, W, C) normalised images -> (N, num_classes) logits, or (N, C') where `num_classes` is 0. With `time`,
        clips (N, T, H, W, C).

        Args:
          train: normalise with batch statistics and update the running ones (`apply` then needs
            `mutable=["batch_stats"]`), and drop branches.
          features: return a dict instead: `stem` (before any max-pool), `stage1`, ... (N, H', W', C'), `pooled` (N, C')
            and `logits`; with pre-activation blocks also `activated`, the last stage after the network's own norm and
            activation. Under `jit`, entries that are not used are not computed. What `apply` is given in a collection
            `perturbations` under the name of a stage is added to what that stage puts out: a gradient with respect to
            these zeros is the gradient at the stage.
          use_batch_stats: overrides `train` for the statistics with which BatchNorm normalises; False = frozen.
          update_stats: overrides `train` for whether BatchNorm's running statistics move.
          positions: places of the images in the global batch, where `images` are a part of it. The random draws for an
            image depend on its place.

        Raises:
          ModelError: images that are not four-dimensional, not floating point or smaller than the network's stride;
            training with stochastic depth without a key.
        """
        plan = draw(self)
        self._check_call(images, plan.stride, train)
        conv, norm, norm_of_sum = tools_of(
            self, plan, train=train, use_batch_stats=use_batch_stats, update_stats=update_stats
        )
        conv_of = in_time(self, conv, norm, plan.act)
        parts = Parts(
            conv=conv_of(0),
            norm=norm,
            norm_of_sum=norm_of_sum,
            act=plan.act,
            shortcut=plan.shortcut,
            groups=self.groups,
            base_width=self.base_width,
            se_ratio=self.se_ratio,
            antialias=self.antialias,
            zero_init=self.zero_init_residual,
            train=train,
            positions=positions,
        )
        out: dict[str, Array] = {}

        x = self._stem(plan, parts, images, out, features)

        for i, stage in enumerate(plan.stages, start=1):
            block = nn.remat(plan.block) if i in self.remat else plan.block
            for j, fields in enumerate(stage):
                here = replace(parts, conv=conv_of(i, x.shape[-1], fields.width))
                x = self.passed_on(block(*fields, parts=here, name=f"layer{i}_{j}")(x))
            x = out[f"stage{i}"] = self._disturbed(f"stage{i}", x)

        if plan.block.preactivation:
            x = out["activated"] = plan.act(norm_of_sum(name="norm")(x))
        x = out["pooled"] = plan.pool(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        if self.num_classes:
            x = out["logits"] = nn.Dense(
                self.num_classes,
                kernel_init=head_init if self.time else linear_kernel_init,
                bias_init=nn.initializers.zeros if self.time else linear_bias_init(x.shape[-1]),
                precision=self.precision,
                param_dtype=self.param_dtype,
                dot_general=in_halves,
                name="fc",
            )(x)
        return out if features else x

    def _stem(self, plan: Blueprint, parts: Parts, images: Array, out: dict[str, Array], features: bool) -> Array:
        """The input of the first stage. Enters the activations before any max-pool into `out`."""
        conv, x = plan.stem.layers(parts, images, *plan.stem_widths)
        if plan.block.preactivation:
            x = out["stem"] = self._disturbed("stem", conv(x))
        # This path pools before it normalises, so it has no activations before the max-pool to put into `out`.
        elif plan.stem.pool and self.antialias is not True and plan.act is relu and not features:
            act = trained(relu) if parts.train else relu
            return pooled_norm_of(conv, parts.norm(name=plan.stem.norm), x, max_pool, act)
        else:
            x = out["stem"] = self._disturbed("stem", plan.act(parts.norm(name=plan.stem.norm)(conv(x))))
        if not plan.stem.pool:
            return x
        return blur_pool(max_pool(x, stride=1), stride=2) if self.antialias is True else max_pool(x)

    def passed_on(self, x: Array) -> Array:
        """What a block puts out, for the next one. A method of its own, so that quantisation takes both for one."""
        return summed_once(x)

    def _disturbed(self, stage: str, x: Array) -> Array:
        """What the stage puts out, and what `apply` was given to add. Flax's `perturb` would put zeros into `init`'s
        variables too."""
        added = self.get_variable("perturbations", stage)
        return x if added is None else x + added

    def _check_call(self, images: Array, stride: int, train: bool) -> None:
        seen, axes = ("images", "N, H, W, C") if self.time is None else ("clips", "N, T, H, W, C")
        if images.ndim != len(self.sides) + 2 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ModelError(
                f"{seen} are {images.dtype} of shape {images.shape}; they must be floating point ({axes}): "
                "scale pixels to [0, 1] and subtract the mean first"
            )
        if min(images.shape[-3:-1]) < stride:
            raise ModelError(
                f"{seen} of {images.shape[-3]}x{images.shape[-2]} pixels are smaller than the network's stride of "
                f"{stride}, which leaves less than a pixel; enlarge them or choose stem='cifar' or an output_stride"
            )
        if train and self.stochastic_depth and not self.has_rng("dropout"):
            raise ModelError(
                f"stochastic_depth = {self.stochastic_depth} draws random numbers in training; "
                "pass rngs={'dropout': key} to apply, or train=False"
            )


def tools_of(
    net: ResNet,
    plan: Blueprint,
    *,
    train: bool,
    use_batch_stats: bool | None = None,
    update_stats: bool | None = None,
) -> tuple[Callable[..., Conv], Callable[..., Any], Callable[..., nn.Module]]:
    """The convolution, the norm after a convolution and the norm of a sum (see `Parts`) of a network, with all its
    options, for its own layers and for those above it.
    """
    norm = bind(
        plan.norm,
        use_batch_stats=train if use_batch_stats is None else use_batch_stats,
        update_stats=train if update_stats is None else update_stats,
        group_size=net.bn_group_size,
        axis_name=net.bn_axis_name,
        dtype=net.dtype,
        param_dtype=net.param_dtype,
    )
    conv = partial(
        Conv,
        use_bias=net.folded,
        kernel_init=plan.kernel_init,
        standardize=net.weight_standardization,
        border_in_time=net.time_padding == "border",
        precision=net.precision,
        dtype=net.dtype,
        param_dtype=net.param_dtype,
    )
    return conv, (_no_norm if net.folded else norm), norm


def _no_norm(**fields: Any) -> Callable[[Array], Array]:
    """In the place of a norm that is folded into the convolution before it."""
    return same
