"""A network for images on every frame of a clip, and a head over time that names one class for the clip."""

from functools import partial
from typing import Any, Self

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.frames.encoder import Encoder
from resnet_jax.models.frames.recurrent import CELLS, Recurrent
from resnet_jax.models.headed import Headed
from resnet_jax.models.layers import dropout, linear_bias_init, linear_kernel_init
from resnet_jax.models.pooling import GridAverage
from resnet_jax.models.resnet import ResNet

HEADS = ("mean", *CELLS, "transformer")
"""How the features of the frames become those of the clip."""
FEATURES = "features"
HEAD = ("classifier", *CELLS, "transformer", "project", "token", "positions")
"""The modules above the network for images. A network has some of them."""


class FrameNetwork(Headed):
    """A ResNet that looks at each frame alone, and a head that looks at the features of the frames in their order.

    `mean`: the mean of the frames' features; the order does not count, so it is what the others are compared with.
    `lstm`, `gru`: recurrent layers, and the mean of what they put out after each frame (as LRCN, Donahue et al. 2015,
    arXiv:1411.4389, which takes the mean of the probabilities instead). `transformer`: features are projected to
    `hidden` numbers, a class token stands in front, learned positions are added, and the class token is read after
    the encoder.

    Attributes:
      cnn: a network for images without `fc`.
      frames: one of `HEADS`.
      num_classes: columns of the logits.
      hidden: numbers of a recurrent layer's state, or of a Transformer's token.
      layers: recurrent layers, or those of the encoder.
      heads: of the encoder's attention.
      dropout: rate at which training drops numbers before the last layer, between recurrent layers, and where
        `torch.nn.TransformerEncoderLayer` does.
      grid: the features of a frame are the means of `grid` x `grid` parts of the last maps, so that the head is told
        where things are; 1 = the pool of the network.
      max_frames: so many frames a Transformer has positions for.
    """

    root = "cnn"
    gives = "logits"
    cnn: ResNet
    frames: str = "mean"
    num_classes: int = 400
    hidden: int = 512
    layers: int = 1
    heads: int = 8
    dropout: float = 0.0
    grid: int = 1
    max_frames: int = 64

    @classmethod
    def over(cls, cnn: ResNet, **options: Any) -> Self:
        """The network with these fields over a network for images."""
        grid = options.get("grid", cls.grid)
        return cls(cnn.clone(num_classes=0, **({"pool": GridAverage(grid)} if grid > 1 else {})), **options)

    def __post_init__(self) -> None:
        if self.frames not in HEADS:
            raise ModelError(f"frames = {self.frames!r} must be one of {', '.join(map(repr, HEADS))}")
        if isinstance(self.cnn, ResNet) and self.cnn.time is not None:
            raise ModelError(
                f"frames = {self.frames!r} looks at each frame with a network for images, and this one sees "
                f"clips (time = {self.cnn.time!r}); leave frames out, or choose a network for images such as resnet50"
            )
        for name in ("num_classes", "hidden", "layers", "heads", "grid", "max_frames"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.frames == "transformer" and self.hidden % self.heads:
            raise ModelError(f"hidden = {self.hidden} must be a multiple of heads = {self.heads}; change one of them")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout = {self.dropout} must be at least 0 and less than 1")
        super().__post_init__()

    @property
    def sides(self) -> tuple[int, ...]:
        """The axes of a small clip that the network can see."""
        return (2, 64, 64)

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "N T H W C"] | Float[Array, "N T D"],
        lengths: Int[Array, " N"] | None = None,
        *,
        train: bool,
        features: bool = False,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
        positions: Int[Array, " N"] | None = None,
    ) -> Float[Array, "N K"] | dict[str, Array]:
        """(N, T, H, W, C) normalised clips -> (N, num_classes) logits, at least float32.

        Args:
          clips: or the features (N, T, D) of their frames, as `features=True` gives them.
          lengths: frames of each clip that are real; those behind them change nothing. None = all.
          train, use_batch_stats, update_stats: as of `ResNet`, for which every frame is an image. In training, the
            statistics of batch normalisation are of all frames, the padding of short clips too.
          features: return a dict instead: `features` (N, T, D) of the frames, and `logits`.
          positions: places of the clips in the global batch, as of `ResNet`.

        Raises:
          ModelError: clips of other axes; more frames than a Transformer has positions for; training with dropout
            without a key.
        """
        if train and self.dropout and not self.has_rng("dropout"):
            raise ModelError(
                f"dropout = {self.dropout} draws random numbers in training; pass rngs={{'dropout': key}} to apply, or "
                "train=False"
            )
        if clips.ndim not in (3, 5):
            raise ModelError(
                f"clips have the shape {clips.shape}; they must be (N, T, H, W, C), or features of frames (N, T, D)"
            )
        n, t = clips.shape[:2]
        if clips.ndim == 3:
            x = clips
        else:
            x = self._look(clips, train=train, use=use_batch_stats, update=update_stats, positions=positions)
        seen = x
        real = jnp.ones((n, t), bool) if lengths is None else jnp.arange(t)[None] < lengths[:, None]
        x = self._over_time(x, real, train, positions)
        if train and self.dropout:
            x = dropout(x, self.make_rng("dropout"), self.dropout, positions)
        logits = self._dense(self.num_classes, x.shape[-1], "classifier")(x)
        return {FEATURES: seen, "logits": logits} if features else logits

    def _look(
        self,
        clips: Float[Array, "N T H W C"],
        *,
        train: bool,
        use: bool | None,
        update: bool | None,
        positions: Int[Array, " N"] | None,
    ) -> Float[Array, "N T D"]:
        """The features of every frame."""
        n, t, *sides = clips.shape
        places = jnp.arange(n) if positions is None else positions
        frames = self.cnn(
            clips.reshape(n * t, *sides),
            train=train,
            use_batch_stats=use,
            update_stats=update,
            positions=(places[:, None] * t + jnp.arange(t)[None]).reshape(-1),
        )
        return frames.reshape(n, t, -1)

    def _over_time(
        self, x: Float[Array, "N T D"], real: Bool[Array, "N T"], train: bool, positions: Int[Array, " N"] | None
    ) -> Float[Array, "N D2"]:
        """One vector for each clip."""
        options: dict[str, Any] = {
            "dropout": self.dropout,
            "precision": self.cnn.precision,
            "param_dtype": self.param_dtype,
        }
        if self.frames == "transformer":
            return self._transformed(x, real, train, positions, options)
        if self.frames in CELLS:
            layers = Recurrent(self.frames, self.hidden, self.layers, **options, name=self.frames)
            x = layers(x, train=train, positions=positions)
        real = real[..., None]
        return jnp.sum(jnp.where(real, x, 0), axis=1) / jnp.sum(real, axis=1)

    def _transformed(
        self,
        x: Float[Array, "N T D"],
        real: Bool[Array, "N T"],
        train: bool,
        positions: Int[Array, " N"] | None,
        options: dict[str, Any],
    ) -> Float[Array, "N H"]:
        n, t, inputs = x.shape
        self.check_frames(t)
        small = nn.initializers.normal(0.02)  # as of the token and the positions of ViT
        table = partial(nn.Embed, features=self.hidden, embedding_init=small, param_dtype=self.param_dtype)
        token = table(1, name="token").embedding[None]
        places = table(self.max_frames + 1, name="positions").embedding[None, : t + 1]
        x = self._dense(self.hidden, inputs, "project")(x)
        x = jnp.concatenate([jnp.broadcast_to(token, (n, 1, self.hidden)), x], axis=1) + places
        if train and self.dropout:
            x = dropout(x, self.make_rng("dropout"), self.dropout, positions)
        real = jnp.concatenate([jnp.ones((n, 1), bool), real], axis=1)
        encoder = Encoder(self.layers, self.heads, **options, name="transformer")
        return encoder(x, real, train=train, positions=positions)[:, 0]

    def check_frames(self, frames: int) -> None:
        """Raises a ModelError where clips have more frames than a Transformer has positions for."""
        if self.frames == "transformer" and frames > self.max_frames:
            raise ModelError(
                f"clips have {frames} frames, and the Transformer has positions for {self.max_frames}; pass "
                f"max_frames={frames} to create_model, or take fewer frames"
            )

    def _dense(self, width: int, inputs: int, name: str) -> nn.Dense:
        return nn.Dense(
            width,
            kernel_init=linear_kernel_init,
            bias_init=linear_bias_init(inputs),
            precision=self.cnn.precision,
            param_dtype=self.param_dtype,
            name=name,
        )
